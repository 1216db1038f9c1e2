// How fast this core computes, converts and reads.
#pragma once

#include <cstdint>

#include "routines.hpp"

namespace parsimony {

// Each takes the best rate over short runs within `seconds`: an interruption spoils one run, not the answer.
double measure_pairs(const Routines&, double seconds);  // 0 where there are no products of pairs
double measure_fma(const Routines&, double seconds);                            // floating-point operations / s
double measure_conversion(const Routines&, double seconds);                     // binary16 numbers / s
double measure_read(const Routines&, const float* data, std::int64_t n, double seconds);  // bytes / s

}  // namespace parsimony
