// Everything one instruction set offers, from its `Isa`. Included once by each translation unit.
//
// All of it has internal linkage: code compiled for one instruction set must never stand in for another's at link time,
// and for the same reason nothing here uses templates of the standard library.
namespace {

using namespace parsimony;

#include "convert.inl"
#include "functions.inl"
#include "finish.inl"
#include "tile.inl"
#include "multiply.inl"
#include "convolve.inl"
#include "winograd.inl"
#include "depthwise.inl"
#include "pool.inl"
#include "add.inl"
#include "elementwise.inl"
#include "normalize.inl"
#include "peaks.inl"
#include "transpose.inl"

Routines make_table(const char* name) {
    return Routines{
        name,
        Isa::lanes,
        Isa::widen_at_most,
        Isa::widen_from_tiles,
        {Isa::max_rows(1), Isa::max_rows(2), Isa::max_rows(4)},
        {&multiply<Half>, &convolve<Half>, &winograd<Half>, &depthwise<Half>},
        {&multiply<float>, &convolve<float>, &winograd<float>, &depthwise<float>},
        {nullptr, nullptr, nullptr, nullptr},
        {nullptr, nullptr, nullptr, nullptr},
        &pool,
        &add,
        &map,
        &scale,
        &normalize,
        &softmax,
        &transpose,
        &store_all,
        &convert<Half, float>,
        &convert<float, Half>,
        &peak_fma,
        nullptr,
        &peak_convert,
        &peak_read,
    };
}

}  // namespace
