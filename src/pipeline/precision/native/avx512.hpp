// Sixteen lanes, thirty-two registers: what the translation units with AVX-512 have in common. Each has its own copy.
#pragma once

#include <immintrin.h>

#include "routines.hpp"

namespace {

using parsimony::Half;

struct Isa {
    using Vector = __m512;
    static constexpr int lanes = 16;
    static constexpr bool masks = true;  // parts of vectors cost no more than whole ones
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
    static bool any_not_below(Vector v, float limit) { return _mm512_cmp_ps_mask(v, all(limit), _CMP_NLT_UQ) != 0; }
    // A square of 16 x 16: pairs of rows interleave, then pairs of those, which makes squares of 4 x 4, and these then
    // change places.
    static void transpose(const float* x, std::int64_t x_step, float* y, std::int64_t y_step) {
        Vector a[16], b[16];
#pragma GCC unroll 16
        for (int i = 0; i < 16; ++i) a[i] = load(x + i * x_step);
#pragma GCC unroll 8
        for (int i = 0; i < 16; i += 2) {
            b[i] = _mm512_unpacklo_ps(a[i], a[i + 1]);
            b[i + 1] = _mm512_unpackhi_ps(a[i], a[i + 1]);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
            for (int j = 0; j < 2; ++j) {
                const __m512d first = _mm512_castps_pd(b[i + j]), second = _mm512_castps_pd(b[i + 2 + j]);
                a[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(first, second));
                a[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(first, second));
            }
        // A quarter of a[4 g + j] holds rows 4 g to 4 g + 3 of the column that is j and four times the quarter's number.
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) {
            const Vector even_top = _mm512_shuffle_f32x4(a[j], a[4 + j], 0x88);
            const Vector even_bottom = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x88);
            const Vector odd_top = _mm512_shuffle_f32x4(a[j], a[4 + j], 0xdd);
            const Vector odd_bottom = _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xdd);
            store(y + j * y_step, _mm512_shuffle_f32x4(even_top, even_bottom, 0x88));
            store(y + (4 + j) * y_step, _mm512_shuffle_f32x4(odd_top, odd_bottom, 0x88));
            store(y + (8 + j) * y_step, _mm512_shuffle_f32x4(even_top, even_bottom, 0xdd));
            store(y + (12 + j) * y_step, _mm512_shuffle_f32x4(odd_top, odd_bottom, 0xdd));
        }
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
