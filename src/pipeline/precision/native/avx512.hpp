// Sixteen lanes, thirty-two registers: what the translation units with AVX-512 have in common. Each has its own copy.
#pragma once

#include <immintrin.h>

#include "routines.hpp"

namespace {

using parsimony::Half;

struct Isa {
    using Vector = __m512;
    static constexpr int lanes = 16;
    // Widening in registers hides behind the multiply-adds, and a panel that stays narrow takes half the cache.
    static constexpr std::int64_t widen_at_most = 0;
    static constexpr std::int64_t widen_from_tiles = 0;
    static constexpr int max_rows(int vectors) { return vectors == 4 ? 6 : 14; }

    static __mmask16 first(std::int64_t n) { return static_cast<__mmask16>((1u << n) - 1); }
    static Vector zero() { return _mm512_setzero_ps(); }
    static Vector all(float x) { return _mm512_set1_ps(x); }
    static Vector load(const float* p) { return _mm512_loadu_ps(p); }
    static Vector load(const Half* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
    static Vector load(const float* p, std::int64_t n) { return _mm512_maskz_loadu_ps(first(n), p); }
    static Vector load(const Half* p, std::int64_t n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
    static void store(float* p, Vector v) { _mm512_storeu_ps(p, v); }
    static void store(Half* p, Vector v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(v)); }
    static void store(float* p, Vector v, std::int64_t n) { _mm512_mask_storeu_ps(p, first(n), v); }
    static void store(Half* p, Vector v, std::int64_t n) { _mm256_mask_storeu_epi16(p, first(n), narrow(v)); }
    static Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
    // Of a NaN and a number these return the second operand.
    static Vector max(Vector a, Vector b) { return _mm512_max_ps(a, b); }
    static Vector min(Vector a, Vector b) { return _mm512_min_ps(a, b); }
    static Vector where_nan(Vector test, Vector otherwise) {
        return _mm512_mask_mov_ps(otherwise, _mm512_cmp_ps_mask(test, test, _CMP_UNORD_Q), test);
    }
    static bool any_unordered(Vector a, Vector b) { return _mm512_cmp_ps_mask(a, b, _CMP_UNORD_Q) != 0; }
    static bool any_at_least(Vector v, float limit) {
        return _mm512_cmp_ps_mask(_mm512_abs_ps(v), all(limit), _CMP_GE_OQ) != 0;
    }

private:
#ifdef __AVX512FP16__
    static Vector widen(__m256i h) { return _mm512_cvtxph_ps(_mm256_castsi256_ph(h)); }
#else
    static Vector widen(__m256i h) { return _mm512_cvtph_ps(h); }
#endif
    static __m256i narrow(Vector v) { return _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
};

}  // namespace
