#define HMATRIX_LOOPS loops_avx512
#define HMATRIX_LOOPS_NAME "avx512"
#include "loops.inc"
