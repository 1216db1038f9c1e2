// Everything one instruction set offers, from its `Isa`. Included once by each translation unit.
//
// All of it has internal linkage: code compiled for one instruction set must never stand in for another's at link time,
// and for the same reason nothing here uses templates of the standard library.
namespace {

using namespace parsimony;

#include "convert.inl"
#include "tile.inl"
#include "multiply.inl"
#include "convolve.inl"
#include "pool.inl"
#include "peaks.inl"

Routines make_table(const char* name) {
    return Routines{
        name,
        Isa::lanes,
        Isa::widen_at_most,
        Isa::widen_from_tiles,
        {Isa::max_rows(1), Isa::max_rows(2), Isa::max_rows(4)},
        {&multiply<Half>, &convolve<Half>},
        {&multiply<float>, &convolve<float>},
        &pool,
        &convert<Half, float>,
        &convert<float, Half>,
        &peak_fma,
        &peak_convert,
        &peak_read,
    };
}

}  // namespace
