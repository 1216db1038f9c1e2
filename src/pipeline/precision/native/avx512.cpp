// AVX-512 (F, BW, VL) with the conversions that F brings.
#include "avx512.hpp"
#include "table.inl"

const parsimony::Routines& parsimony::avx512_routines() {
    static const Routines table = make_table("avx512");
    return table;
}
