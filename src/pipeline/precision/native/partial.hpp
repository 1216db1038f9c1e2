// Vectors of fewer numbers than they have lanes, for instruction sets that cannot mask the others.
#pragma once

#include <cstdint>

namespace parsimony {

template <class Isa, class T>
typename Isa::Vector load_partial(const T* p, std::int64_t n) {
    T full[Isa::lanes] = {};
    for (std::int64_t i = 0; i < n; ++i) full[i] = p[i];
    return Isa::load(full);
}

template <class Isa, class T>
void store_partial(T* p, typename Isa::Vector v, std::int64_t n) {
    T full[Isa::lanes];
    Isa::store(full, v);
    for (std::int64_t i = 0; i < n; ++i) p[i] = full[i];
}

// A square of as many rows as a vector has lanes, for instruction sets whose compiler does that well by itself.
template <class Isa>
void transpose_square(const float* x, std::int64_t x_step, float* y, std::int64_t y_step) {
    for (int i = 0; i < Isa::lanes; ++i)
        for (int j = 0; j < Isa::lanes; ++j) y[j * y_step + i] = x[i * x_step + j];
}

}  // namespace parsimony
