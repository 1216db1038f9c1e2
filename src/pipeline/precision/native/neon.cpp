// NEON on 64-bit ARM, whose conversions between binary16 and binary32 are part of the base: four lanes, thirty-two
// registers. Compiled where the compiler is for it; not tested on such a processor.
#include <arm_neon.h>

#include "partial.hpp"
#include "routines.hpp"

namespace {

using parsimony::Half;

struct Isa {
    using Vector = float32x4_t;
    static constexpr int lanes = 4;
    static constexpr bool masks = false;
    static constexpr std::int64_t widen_at_most = 0;
    static constexpr std::int64_t widen_from_tiles = 0;
    static constexpr int max_rows(int vectors) { return vectors == 1 ? 14 : vectors == 2 ? 12 : 6; }

    static Vector zero() { return vdupq_n_f32(0.0f); }
    static Vector all(float x) { return vdupq_n_f32(x); }
    static Vector load(const float* p) { return vld1q_f32(p); }
    static Vector load(const Half* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
    static Vector load(const float* p, std::int64_t n) { return parsimony::load_partial<Isa>(p, n); }
    static Vector load(const Half* p, std::int64_t n) { return parsimony::load_partial<Isa>(p, n); }
    static void store(float* p, Vector v) { vst1q_f32(p, v); }
    static void store(Half* p, Vector v) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v))); }
    static void store(float* p, Vector v, std::int64_t n) { parsimony::store_partial<Isa>(p, v, n); }
    static void store(Half* p, Vector v, std::int64_t n) { parsimony::store_partial<Isa>(p, v, n); }
    static Vector fma(Vector a, Vector b, Vector c) { return vfmaq_f32(c, a, b); }
    // Of a NaN and a number these return the second operand.
    static Vector max(Vector a, Vector b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
    static Vector min(Vector a, Vector b) { return vbslq_f32(vcltq_f32(a, b), a, b); }
    static Vector where_nan(Vector test, Vector otherwise) { return vbslq_f32(vceqq_f32(test, test), otherwise, test); }
    static bool any_unordered(Vector a, Vector b) {
        return vminvq_u32(vandq_u32(vceqq_f32(a, a), vceqq_f32(b, b))) == 0;
    }
    static bool any_at_least(Vector v, float limit) { return vmaxvq_u32(vcgeq_f32(vabsq_f32(v), all(limit))) != 0; }
    static bool any_not_below(Vector v, float limit) { return vminvq_u32(vcltq_f32(v, all(limit))) == 0; }
    static void transpose(const float* x, std::int64_t x_step, float* y, std::int64_t y_step) {
        parsimony::transpose_square<Isa>(x, x_step, y, y_step);
    }
};

}  // namespace

#include "table.inl"

const parsimony::Routines& parsimony::neon_routines() {
    static const Routines table = make_table("neon");
    return table;
}
