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

}  // namespace parsimony
