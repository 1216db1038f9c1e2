#define HMATRIX_LOOPS loops_avx512
#define HMATRIX_LOOPS_NAME "avx512"
#define HMATRIX_GEMM(T) add_gemm_avx512<T>
#include "gemm.hpp"
#include "loops.inc"
