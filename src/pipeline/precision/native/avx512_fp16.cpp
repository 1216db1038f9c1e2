// AVX-512 with FP16, whose conversions take one instruction less. Sums stay in binary32, so its arithmetic is not used.
// Compiled, but not tested on a processor that has it.
#include "avx512.hpp"
#include "table.inl"

const parsimony::Routines& parsimony::avx512_fp16_routines() {
    static const Routines table = make_table("avx512_fp16");
    return table;
}
