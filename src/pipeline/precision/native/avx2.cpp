// AVX2 with FMA and F16C: eight lanes, sixteen registers.
#include <immintrin.h>

#include "partial.hpp"
#include "routines.hpp"

namespace {

using parsimony::Half;

struct Isa {
    using Vector = __m256;
    static constexpr int lanes = 8;
    static constexpr bool masks = false;
    static constexpr std::int64_t widen_at_most = 32768;  // 128 KiB, which leaves level 2 to the activations
    static constexpr std::int64_t widen_from_tiles = 12;
    // Four vectors of weights leave too few of the registers for sums.
    static constexpr int max_rows(int vectors) { return vectors == 1 ? 12 : vectors == 2 ? 6 : 0; }

    static Vector zero() { return _mm256_setzero_ps(); }
    static Vector all(float x) { return _mm256_set1_ps(x); }
    static Vector load(const float* p) { return _mm256_loadu_ps(p); }
    static Vector load(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
    static Vector load(const float* p, std::int64_t n) { return parsimony::load_partial<Isa>(p, n); }
    static Vector load(const Half* p, std::int64_t n) { return parsimony::load_partial<Isa>(p, n); }
    static void store(float* p, Vector v) { _mm256_storeu_ps(p, v); }
    static void store(Half* p, Vector v) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                         _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
    static void store(float* p, Vector v, std::int64_t n) { parsimony::store_partial<Isa>(p, v, n); }
    static void store(Half* p, Vector v, std::int64_t n) { parsimony::store_partial<Isa>(p, v, n); }
    static Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
    // Of a NaN and a number these return the second operand.
    static Vector max(Vector a, Vector b) { return _mm256_max_ps(a, b); }
    static Vector min(Vector a, Vector b) { return _mm256_min_ps(a, b); }
    static Vector where_nan(Vector test, Vector otherwise) {
        return _mm256_blendv_ps(otherwise, test, _mm256_cmp_ps(test, test, _CMP_UNORD_Q));
    }
    static bool any_unordered(Vector a, Vector b) {
        return _mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_UNORD_Q)) != 0;
    }
    static bool any_at_least(Vector v, float limit) {
        const Vector magnitude = _mm256_andnot_ps(all(-0.0f), v);
        return _mm256_movemask_ps(_mm256_cmp_ps(magnitude, all(limit), _CMP_GE_OQ)) != 0;
    }
    static bool any_not_below(Vector v, float limit) {
        return _mm256_movemask_ps(_mm256_cmp_ps(v, all(limit), _CMP_NLT_UQ)) != 0;
    }
    // A square of 8 x 8: pairs of rows interleave, then pairs of those, then halves change places.
    static void transpose(const float* x, std::int64_t x_step, float* y, std::int64_t y_step) {
        Vector a[8], b[8];
        for (int i = 0; i < 8; ++i) a[i] = load(x + i * x_step);
        for (int i = 0; i < 8; i += 2) {
            b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
            b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
        }
        for (int i = 0; i < 8; i += 4)
            for (int j = 0; j < 2; ++j) {
                a[i + 2 * j] = _mm256_shuffle_ps(b[i + j], b[i + 2 + j], 0x44);
                a[i + 2 * j + 1] = _mm256_shuffle_ps(b[i + j], b[i + 2 + j], 0xee);
            }
        for (int j = 0; j < 4; ++j) {
            store(y + j * y_step, _mm256_permute2f128_ps(a[j], a[4 + j], 0x20));
            store(y + (4 + j) * y_step, _mm256_permute2f128_ps(a[j], a[4 + j], 0x31));
        }
    }
};

}  // namespace

#include "table.inl"

const parsimony::Routines& parsimony::avx2_routines() {
    static const Routines table = make_table("avx2");
    return table;
}
