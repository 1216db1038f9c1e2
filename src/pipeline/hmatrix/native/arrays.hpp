// What crosses the border to Python: NumPy arrays in, NumPy arrays out (owned by a capsule).
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <vector>

#include "memory.hpp"

namespace hmatrix {

namespace nb = nanobind;

template <class T>
using In = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <class T>
using In2 = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
template <class T>
using Out = nb::ndarray<nb::numpy, T, nb::ndim<1>>;

// Hands a vector to Python without copying it.
template <class T>
Out<T> give(std::vector<T>&& values) {
    auto* kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return Out<T>(kept->data(), {kept->size()}, owner);
}
template <class T>
Out<T> give(Pages<T>&& values) {
    auto* kept = new Pages<T>(std::move(values));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<Pages<T>*>(p); });
    return Out<T>(kept->data(), {kept->size()}, owner);
}

// Lets the user interrupt a long run, and Python's exception pass.
inline void heed_interrupts() {
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

// Tells a callable, or none, how many boxes of how many are done: at most a hundred times and at the end.
inline void tell(const nb::object& progress, int done, int total) {
    if (!progress.is_none() && (done == total || done % (total / 100 + 1) == 0)) progress(done, total);
}

// Lists of integers, one per box, in one flat array: list b is values[start[b]] ... values[start[b + 1] - 1].
struct Lists {
    const int64_t* start;
    const int* values;
    int size(int b) const { return static_cast<int>(start[b + 1] - start[b]); }
    const int* begin(int b) const { return values + start[b]; }
};

}  // namespace hmatrix
