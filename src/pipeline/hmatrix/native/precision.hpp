// Stored numbers may be narrower than computed ones: `Wide` names the type that computes with stored S.
#pragma once

#include <algorithm>
#include <vector>

#include "blas.hpp"
#include "loops.hpp"

namespace hmatrix {

template <class S>
struct WideOf;
template <>
struct WideOf<double> {
    using type = double;
};
template <>
struct WideOf<float> {
    using type = double;
};
template <>
struct WideOf<Complex> {
    using type = Complex;
};
template <>
struct WideOf<Single> {
    using type = Complex;
};
template <class S>
using Wide = typename WideOf<S>::type;

// Returns stored numbers as the computing type, through `scratch` where they have to be widened.
template <class S>
inline const Wide<S>* widen(const S* stored, int64_t size, std::vector<Wide<S>>& scratch) {
    if constexpr (std::is_same_v<S, Wide<S>>) {
        return stored;
    } else {
        if (static_cast<int64_t>(scratch.size()) < size) scratch.resize(size);
        for (int64_t i = 0; i < size; ++i) scratch[i] = static_cast<Wide<S>>(stored[i]);
        return scratch.data();
    }
}

// Y (m, r) += B X for B (m, n) column-major; X and Y row-major, so that the r entries of an unknown lie together: those
// of a box are one stretch of memory, however many unknowns the vectors have.
template <class S>
inline void add_product(int m, int n, int r, const S* B, const Wide<S>* X, Wide<S>* Y, std::vector<Wide<S>>& scratch) {
    using C = Wide<S>;
    if (m == 0 || n == 0) return;
    if (r == 1) {
        if constexpr (std::is_same_v<S, double>) return loops().multiply_double(m, n, B, X, Y);
        if constexpr (std::is_same_v<S, float>) return loops().multiply_float(m, n, B, X, Y);
    }
    gemm<C>('N', 'T', r, m, n, C(1), X, r, widen(B, static_cast<int64_t>(m) * n, scratch), m, C(1), Y, r);
}

// Z (n, r) += B^T U for B (m, n) column-major; U and Z row-major.
template <class S>
inline void add_transposed_product(int m, int n, int r, const S* B, const Wide<S>* U, Wide<S>* Z,
                                   std::vector<Wide<S>>& scratch) {
    using C = Wide<S>;
    if (m == 0 || n == 0) return;
    if (r == 1) {
        if constexpr (std::is_same_v<S, double>) return loops().transposed_double(m, n, B, U, Z);
        if constexpr (std::is_same_v<S, float>) return loops().transposed_float(m, n, B, U, Z);
    }
    gemm<C>('N', 'N', r, n, m, C(1), U, r, widen(B, static_cast<int64_t>(m) * n, scratch), m, C(1), Z, r);
}

// Y += B X and Z += B^T U, reading B once.
template <class S>
inline void add_both_products(int m, int n, int r, const S* B, const Wide<S>* X, Wide<S>* Y, const Wide<S>* U,
                              Wide<S>* Z, std::vector<Wide<S>>& scratch) {
    using C = Wide<S>;
    if (m == 0 || n == 0) return;
    if (r == 1) {
        if constexpr (std::is_same_v<S, double>) return loops().both_double(m, n, B, X, Y, U, Z);
        if constexpr (std::is_same_v<S, float>) return loops().both_float(m, n, B, X, Y, U, Z);
    }
    const C* wide = widen(B, static_cast<int64_t>(m) * n, scratch);
    gemm<C>('N', 'T', r, m, n, C(1), X, r, wide, m, C(1), Y, r);
    gemm<C>('N', 'N', r, n, m, C(1), U, r, wide, m, C(1), Z, r);
}

}  // namespace hmatrix
