// What Python sees: layers over numpy arrays and torch tensors, conversions, and the roofs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <stdexcept>

#include "layer.hpp"
#include "roofs.hpp"
#include "routines.hpp"

namespace nb = nanobind;
using namespace parsimony;

namespace {

using Array = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const Routines& chosen(const std::string& name) {
    const Routines* tables[4];
    const int n = available(tables, 4);
    if (name.empty()) return *tables[0];
    if (const Routines* table = find(name.c_str())) return *table;
    std::string names;
    for (int i = 0; i < n; ++i) names += (i ? ", " : "") + std::string(tables[i]->name);
    throw std::invalid_argument("this processor cannot run the instruction set '" + name + "'; it has " + names);
}

bool is_half(const Array& array) {
    const auto type = array.dtype();
    if (type == nb::dtype_bits{} ) {}
    return false;
}

}  // namespace
