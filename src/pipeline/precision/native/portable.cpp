// Any processor: four lanes of the compiler's own vectors, conversions by integer arithmetic.
//
// The conversions follow F. Giesen, "Float->half variants" (public domain): a multiple of the exponent's unit moves the
// bias, an addition of a magic number lets the floating-point unit align and round the subnormal numbers.
#include <cstring>

#include "partial.hpp"
#include "routines.hpp"

namespace {

using parsimony::Half;

typedef float Floats __attribute__((vector_size(16)));
typedef std::int32_t Ints __attribute__((vector_size(16)));

inline Floats floats(Ints bits) {
    Floats v;
    std::memcpy(&v, &bits, sizeof v);
    return v;
}
inline Ints ints(Floats v) {
    Ints bits;
    std::memcpy(&bits, &v, sizeof bits);
    return bits;
}
inline Ints every(std::int32_t x) { return Ints{x, x, x, x}; }
inline Ints select(Ints mask, Ints yes, Ints no) { return (mask & yes) | (~mask & no); }

struct Isa {
    using Vector = Floats;
    static constexpr int lanes = 4;
    static constexpr bool masks = false;
    static constexpr std::int64_t widen_at_most = std::int64_t{1} << 22;  // in software it is not worth repeating
    static constexpr std::int64_t widen_from_tiles = 2;
    static constexpr int max_rows(int vectors) { return vectors == 1 ? 8 : vectors == 2 ? 4 : 0; }

    static Vector zero() { return all(0.0f); }
    static Vector all(float x) { return Vector{x, x, x, x}; }
    static Vector load(const float* p) {
        Vector v;
        std::memcpy(&v, p, sizeof v);
        return v;
    }
    static Vector load(const Half* p) { return widen(Ints{p[0], p[1], p[2], p[3]}); }
    static Vector load(const float* p, std::int64_t n) { return parsimony::load_partial<Isa>(p, n); }
    static Vector load(const Half* p, std::int64_t n) { return parsimony::load_partial<Isa>(p, n); }
    static void store(float* p, Vector v) { std::memcpy(p, &v, sizeof v); }
    static void store(Half* p, Vector v) {
        const Ints h = narrow(v);
        for (int i = 0; i < lanes; ++i) p[i] = static_cast<Half>(h[i]);
    }
    static void store(float* p, Vector v, std::int64_t n) { parsimony::store_partial<Isa>(p, v, n); }
    static void store(Half* p, Vector v, std::int64_t n) { parsimony::store_partial<Isa>(p, v, n); }
    static Vector fma(Vector a, Vector b, Vector c) {
#ifdef __FP_FAST_FMAF  // all processors of the kind fuse, as the vectors of their own instruction set do
        Vector fused;
        for (int i = 0; i < lanes; ++i) fused[i] = __builtin_fmaf(a[i], b[i], c[i]);
        return fused;
#else
        return a * b + c;
#endif
    }
    // Of a NaN and a number these return the second operand.
    static Vector max(Vector a, Vector b) { return floats(select(a > b, ints(a), ints(b))); }
    static Vector min(Vector a, Vector b) { return floats(select(a < b, ints(a), ints(b))); }
    static Vector where_nan(Vector test, Vector otherwise) {
        return floats(select(test == test, ints(otherwise), ints(test)));
    }
    static bool any_unordered(Vector a, Vector b) {
        const Ints unequal = (a != a) | (b != b);
        return (unequal[0] | unequal[1] | unequal[2] | unequal[3]) != 0;
    }
    static bool any_at_least(Vector v, float limit) {
        const Ints large = floats(ints(v) & every(0x7fffffff)) >= all(limit);
        return (large[0] | large[1] | large[2] | large[3]) != 0;
    }
    static bool any_not_below(Vector v, float limit) {
        const Ints below = v < all(limit);
        return (below[0] & below[1] & below[2] & below[3]) == 0;
    }
    static void transpose(const float* x, std::int64_t x_step, float* y, std::int64_t y_step) {
        parsimony::transpose_square<Isa>(x, x_step, y, y_step);
    }

private:
    static Vector widen(Ints h) {
        const Ints exponent_mask = every(0x7c00 << 13);
        Ints magnitude = (h & every(0x7fff)) << 13;
        const Ints exponent = magnitude & exponent_mask;
        magnitude += every((127 - 15) << 23);
        const Ints special = magnitude + every((128 - 16) << 23);  // infinity and NaN keep a full exponent
        const Ints subnormal = ints(floats(magnitude + every(1 << 23)) - floats(every(113 << 23)));
        Ints bits = select(exponent == exponent_mask, special, magnitude);
        bits = select(exponent == every(0), subnormal, bits);
        return floats(bits | ((h & every(0x8000)) << 16));
    }
    static Ints narrow(Vector v) {
        const Ints bits = ints(v);
        const Ints sign = (bits >> 16) & every(0x8000);
        const Ints magnitude = bits & every(0x7fffffff);
        const Ints infinity = every(0x7f800000);
        // Half of a unit in the last place less one, and the last bit itself: ties go to even.
        const Ints odd = (magnitude >> 13) & every(1);
        const Ints normal = (magnitude + every(((15 - 127) * (1 << 23)) + 0xfff) + odd) >> 13;
        const Ints magic = every(((127 - 15) + (23 - 10) + 1) << 23);
        const Ints subnormal = ints(floats(magnitude) + floats(magic)) - magic;
        // A NaN stays one, with the top of its payload, as the hardware has it.
        const Ints nan = ((magnitude >> 13) & every(0x3ff)) | every(0x7e00);
        Ints h = select(magnitude < every(113 << 23), subnormal, normal);
        h = select(magnitude >= every((127 + 16) << 23), every(0x7c00), h);
        h = select(magnitude > infinity, nan, h);
        return h | sign;
    }
};

}  // namespace

#include "table.inl"

const parsimony::Routines& parsimony::portable_routines() {
    static const Routines table = make_table("portable");
    return table;
}
