// The layout of registers is the usual one of BLIS [1] for a tile of 3 registers of rows by 8 columns: 24 accumulators,
// 3 registers of A, and entries of B broadcast from memory. A panel of A is packed, so that the innermost loop finds it
// in the first cache; B is read where it is, a cache line or eight streams at a time.
//
// [1] Van Zee, van de Geijn, "BLIS: A Framework for Rapidly Instantiating BLAS Functionality", ACM TOMS 2015.
#include "gemm.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <utility>

namespace hmatrix {

namespace {

constexpr int kDepth = 128;    // of a panel: 24 KiB, which leave room for B and C in a first cache of 32
constexpr int kRegisters = 3;  // of rows
constexpr int kColumns = 8;

template <class T>
struct Vector {
    typedef T type __attribute__((vector_size(64)));
    static constexpr int size = 64 / sizeof(T);
};

template <class T>
typename Vector<T>::type load(const T* from) {
    typename Vector<T>::type v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

// C (rows, N) += alpha P op(B) for a packed panel P (Z registers, k); entry (p, j) of op(B) is at B[p * down + j * across].
template <class T, int Z, int N>
void tile(int rows, int k, T alpha, const T* P, const T* B, int64_t down, int64_t across, T* C, int64_t ldc) {
    using V = typename Vector<T>::type;
    constexpr int W = Vector<T>::size;
    V sum[N][Z] = {};
    for (int p = 0; p < k; ++p, P += Z * W) {
        V a[Z];
#pragma GCC unroll 3
        for (int z = 0; z < Z; ++z) a[z] = load(P + z * W);
        const T* b = B + p * down;
#pragma GCC unroll 8
        for (int j = 0; j < N; ++j) {
#pragma GCC unroll 3
            for (int z = 0; z < Z; ++z) sum[j][z] += a[z] * b[j * across];
        }
    }
    for (int j = 0; j < N; ++j, C += ldc) {
        if (rows == Z * W) {
            for (int z = 0; z < Z; ++z) {
                const V c = load(C + z * W) + alpha * sum[j][z];
                std::memcpy(C + z * W, &c, sizeof c);
            }
        } else {
            T out[Z * W];
            std::memcpy(out, sum[j], sizeof out);
            for (int i = 0; i < rows; ++i) C[i] += alpha * out[i];
        }
    }
}

template <class T>
using Tile = void (*)(int, int, T, const T*, const T*, int64_t, int64_t, T*, int64_t);

template <class T, int Z, int... N>
constexpr std::array<Tile<T>, sizeof...(N)> tiles_of(std::integer_sequence<int, N...>) {
    return {tile<T, Z, N + 1>...};
}

// [registers - 1][columns - 1]
template <class T>
constexpr std::array<std::array<Tile<T>, kColumns>, kRegisters> tiles = {
    tiles_of<T, 1>(std::make_integer_sequence<int, kColumns>()),
    tiles_of<T, 2>(std::make_integer_sequence<int, kColumns>()),
    tiles_of<T, 3>(std::make_integer_sequence<int, kColumns>()),
};

}  // namespace

template <class T>
void add_gemm_avx512(bool transposed, int m, int n, int k, T alpha, const T* A, int lda, const T* B, int ldb, T* C,
                     int ldc) {
    constexpr int W = Vector<T>::size;
    alignas(64) static thread_local T P[kDepth * kRegisters * W];
    const int64_t down = transposed ? ldb : 1, across = transposed ? 1 : ldb;
    for (int first = 0; first < k; first += kDepth) {
        const int depth = std::min(kDepth, k - first);
        int registers = (m + W - 1) / W;  // left
        for (int i = 0; i < m;) {
            // 3 at a time, but 2 + 2 rather than 3 + 1
            const int taken = registers == 4 ? 2 : std::min(registers, kRegisters), rows = std::min(taken * W, m - i);
            for (int p = 0; p < depth; ++p) {
                const T* from = A + static_cast<int64_t>(first + p) * lda + i;
                T* to = std::copy_n(from, rows, P + p * taken * W);
                std::fill_n(to, taken * W - rows, T(0));
            }
            for (int j = 0; j < n; j += kColumns) {
                const int columns = std::min(kColumns, n - j);
                tiles<T>[taken - 1][columns - 1](rows, depth, alpha, P, B + first * down + j * across, down, across,
                                                 C + static_cast<int64_t>(j) * ldc + i, ldc);
            }
            registers -= taken;
            i += rows;
        }
    }
}

template void add_gemm_avx512<double>(bool, int, int, int, double, const double*, int, const double*, int, double*, int);
template void add_gemm_avx512<float>(bool, int, int, int, float, const float*, int, const float*, int, float*, int);

}  // namespace hmatrix
