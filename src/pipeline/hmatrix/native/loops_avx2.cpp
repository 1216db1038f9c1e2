#define HMATRIX_LOOPS loops_avx2
#define HMATRIX_LOOPS_NAME "avx2"
#include "loops.inc"
