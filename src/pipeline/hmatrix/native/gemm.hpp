// A product of matrices for processors with AVX-512. BLAS may know no better than AVX2 there, as SciPy's OpenBLAS on
// AMD's Zen 5, and packs both factors, which are small or a few vectors wide here.
#pragma once

namespace hmatrix {

// C (m, n) += alpha A op(B), all column-major; A (m, k), op(B) = B (k, n) or, `transposed`, B^T with B (n, k).
template <class T>
void add_gemm_avx512(bool transposed, int m, int n, int k, T alpha, const T* A, int lda, const T* B, int ldb, T* C,
                     int ldc);

extern template void add_gemm_avx512<double>(bool, int, int, int, double, const double*, int, const double*, int,
                                             double*, int);
extern template void add_gemm_avx512<float>(bool, int, int, int, float, const float*, int, const float*, int, float*,
                                            int);

}  // namespace hmatrix
