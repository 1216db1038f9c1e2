// What Python sees: layers over numpy arrays and torch tensors, conversions, and the roofs.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <tuple>

#include "clock.hpp"
#include "layer.hpp"
#include "network.hpp"
#include "roofs.hpp"
#include "routines.hpp"

namespace nb = nanobind;
using namespace nb::literals;
using namespace parsimony;

// In a file that the build writes.
const char* parsimony_sources();

namespace {

using Input = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const Routines& chosen(const std::string& name) {
    if (const Routines* table = find(name.c_str())) return *table;
    const Routines* tables[max_routines];
    const int n = available(tables, max_routines);
    std::string names;
    for (int i = 0; i < n; ++i) names += (i ? ", " : "") + std::string(tables[i]->name);
    throw std::invalid_argument("this processor cannot run the instruction set '" + name + "'; it has " + names);
}

template <class Array>
bool is_half(const Array& array) {
    const auto type = array.dtype();
    if (type.code == static_cast<std::uint8_t>(nb::dlpack::dtype_code::Float) && type.lanes == 1) {
        if (type.bits == 16) return true;
        if (type.bits == 32) return false;
    }
    throw nb::type_error("an array is float16 or float32");
}

using Optional = std::optional<Input>;

void check_array(const char* name, const Input& array, std::int64_t batch, std::int64_t per_sample, bool half) {
    const auto found = static_cast<std::int64_t>(array.size());
    if (found != batch * per_sample)
        throw std::invalid_argument(std::string(name) + " has " + std::to_string(found) + " numbers for a batch of " +
                                    std::to_string(batch) + ", wanted " + std::to_string(per_sample) + " each");
    if (is_half(array) != half)
        throw nb::type_error((std::string(name) + " is to be " + (half ? "float16" : "float32")).c_str());
}

// Check that a batch fits a layer (or a network's ends) and return its size.
std::int64_t batch_of(const Input& x, const Output& y, const Layer& first, const Layer& last) {
    if (x.ndim() < 1 || y.ndim() < 1 || x.shape(0) != y.shape(0))
        throw std::invalid_argument("input and output need the same first dimension, the batch");
    const auto batch = static_cast<std::int64_t>(x.shape(0));
    check_array("input", x, batch, first.input_size, first.stored.half_input);
    check_array("output", Input(y), batch, last.output_size, last.stored.half_output);
    return batch;
}

Call call_of(const Layer& layer, const Input& x, const Output& y, const Optional& residual) {
    const std::int64_t batch = batch_of(x, y, layer, layer);
    const bool wanted = layer.stored.residual != Storage::none;
    if (wanted != residual.has_value())
        throw std::invalid_argument(wanted ? "this layer adds a residual; give it one"
                                           : "this layer adds no residual, but one was given");
    if (wanted)
        check_array("residual", *residual, batch, layer.other_size(), layer.stored.residual == Storage::half);
    return {x.data(), wanted ? residual->data() : nullptr, y.data(), batch};
}

Stored stored_as(bool half_input, bool half_output, const std::string& residual) {
    if (residual != "none" && residual != "float16" && residual != "float32")
        throw std::invalid_argument("a residual is 'none', 'float16' or 'float32', found '" + residual + "'");
    return {half_input, half_output,
            residual == "none"      ? Storage::none
            : residual == "float16" ? Storage::half
                                    : Storage::single};
}

using Named = std::tuple<std::string, double, double>;  // a function and its constants

Activation activation_of(const Named& named) {
    static const char* names[n_functions] = {"",        "clip",      "leaky_relu", "hard_sigmoid", "hard_swish", "sigmoid",
                                             "silu",    "tanh",      "gelu",       "gelu_tanh",    "exp",        "square",
                                             "sqrt",    "reciprocal", "abs",       "log",          "elu",        "erf"};
    const auto& [name, a, b] = named;
    for (int i = 0; i < n_functions; ++i)
        if (name == names[i]) return {static_cast<Function>(i), static_cast<float>(a), static_cast<float>(b)};
    throw std::invalid_argument("there is no function '" + name + "'");
}

Affine affine_of(const Input& weights, const Floats& scale, const Floats& bias, bool relu, const Named& function) {
    if (weights.ndim() != 2) throw std::invalid_argument("weights have two dimensions: outputs and inputs");
    const auto outputs = static_cast<std::int64_t>(weights.shape(0));
    const auto inputs = static_cast<std::int64_t>(weights.shape(1));
    if (outputs < 1 || inputs < 1) throw std::invalid_argument("weights need at least one output and one input");
    if (scale.shape(0) != weights.shape(0) || bias.shape(0) != weights.shape(0))
        throw std::invalid_argument("scale and bias have one number per output");
    return {outputs, inputs, weights.data(), is_half(weights), scale.data(), bias.data(), relu, activation_of(function)};
}

// How many windows lie along one axis of an image.
std::int64_t extent(std::int64_t size, std::int64_t kernel, std::int64_t stride, std::int64_t pad,
                    std::int64_t pad_after, std::int64_t dilation) {
    if (kernel < 1 || stride < 1 || dilation < 1 || pad < 0 || pad_after < 0)
        throw std::invalid_argument("kernel, stride and dilation are at least 1, padding at least 0");
    const std::int64_t reach = size + pad + pad_after - dilation * (kernel - 1) - 1;
    if (size < 1 || reach < 0) throw std::invalid_argument("the kernel is larger than the padded image");
    return reach / stride + 1;
}

std::vector<std::int64_t> whole(const nb::sequence& numbers, std::size_t n, const char* name) {
    auto values = nb::cast<std::vector<std::int64_t>>(numbers);
    if (n != 0 && values.size() != n)
        throw std::invalid_argument(std::string(name) + " takes " + std::to_string(n) + " numbers");
    return values;
}

LayerPointer linear(const std::string& isa, const Input& weights, const Floats& scale, const Floats& bias, bool relu,
                    bool half_input, bool half_output, const std::string& residual, const std::string& routine,
                    const Named& function) {
    return make_linear(chosen(isa), affine_of(weights, scale, bias, relu, function),
                       stored_as(half_input, half_output, residual), routine);
}

LayerPointer convolution(const std::string& isa, const Input& weights, const Floats& scale, const Floats& bias,
                         bool relu, bool half_input, bool half_output, const nb::sequence& image,
                         const nb::sequence& kernel, const nb::sequence& stride, const nb::sequence& padding,
                         const nb::sequence& dilation, std::int64_t groups, const std::string& residual,
                         const std::string& routine, const Named& function) {
    const auto affine = affine_of(weights, scale, bias, relu, function);
    const auto i = whole(image, 3, "image"), k = whole(kernel, 2, "kernel"), s = whole(stride, 2, "stride");
    auto p = whole(padding, 0, "padding");
    if (p.size() == 2) p = {p[0], p[1], p[0], p[1]};
    if (p.size() != 4) throw std::invalid_argument("padding takes 2 or 4 numbers");
    const auto d = whole(dilation, 2, "dilation");
    if (groups < 1 || i[0] % groups != 0 || affine.outputs % groups != 0)
        throw std::invalid_argument("groups divide the channels and the outputs");
    const Window window{i[0], i[1], i[2], extent(i[1], k[0], s[0], p[0], p[2], d[0]),
                        extent(i[2], k[1], s[1], p[1], p[3], d[1]), k[0], k[1], s[0], s[1], p[0], p[1], d[0], d[1],
                        groups, p[2], p[3]};
    if (affine.inputs != i[0] / groups * k[0] * k[1])
        throw std::invalid_argument("weights have one input per kernel row, kernel column and channel of a group");
    return make_convolution(chosen(isa), affine, window, stored_as(half_input, half_output, residual), routine);
}

std::vector<std::string> routines_for_convolution(const std::string& isa, const nb::sequence& kernel,
                                                  const nb::sequence& stride, const nb::sequence& dilation,
                                                  std::int64_t groups, std::int64_t channels, std::int64_t outputs) {
    const auto k = whole(kernel, 2, "kernel"), s = whole(stride, 2, "stride"), d = whole(dilation, 2, "dilation");
    const Window window{channels, 0, 0, 0, 0, k[0], k[1], s[0], s[1], 0, 0, d[0], d[1], groups, 0, 0};
    return convolution_routines(chosen(isa), window, outputs);
}

LayerPointer pooling(const std::string& isa, const nb::sequence& image, const nb::sequence& row_start,
                     const nb::sequence& row_end, const nb::sequence& column_start, const nb::sequence& column_end,
                     bool average, bool relu, bool half_input, bool half_output, double divisor) {
    const auto i = whole(image, 3, "image");
    PoolWindows w{i[0], i[1], i[2], whole(row_start, 0, ""), whole(row_end, 0, ""), whole(column_start, 0, ""),
                  whole(column_end, 0, ""), average, relu, static_cast<float>(divisor)};
    using Bounds = std::vector<std::int64_t>;
    const auto check = [](const Bounds& start, const Bounds& end, std::int64_t n) {
        bool good = start.size() == end.size() && !start.empty();
        for (std::size_t j = 0; good && j < start.size(); ++j)
            good = 0 <= start[j] && start[j] < end[j] && end[j] <= n;
        if (!good) throw std::invalid_argument("every window starts before it ends, inside the image");
    };
    check(w.row_start, w.row_end, w.height);
    check(w.column_start, w.column_end, w.width);
    return make_pooling(chosen(isa), w, {half_input, half_output});
}

LayerPointer addition(const std::string& isa, std::int64_t size, bool relu, bool half_input, bool half_output,
                      const std::string& residual, const Named& function) {
    if (size < 1 || residual == "none") throw std::invalid_argument("an addition has a size and a residual to add");
    return make_addition(chosen(isa), size, relu, activation_of(function), stored_as(half_input, half_output, residual));
}

LayerPointer map(const std::string& isa, std::int64_t size, bool half_input, bool half_output,
                 const std::string& residual, const Named& function) {
    if (size < 1) throw std::invalid_argument("a map has a size");
    return make_map(chosen(isa), size, activation_of(function), stored_as(half_input, half_output, residual));
}

LayerPointer scale(const std::string& isa, std::int64_t channels, std::int64_t pixels, bool half_input,
                   bool half_output, const std::string& residual) {
    if (channels < 1 || pixels < 1 || residual == "none")
        throw std::invalid_argument("a scaling has channels, pixels and a residual of one number for each channel");
    return make_scale(chosen(isa), channels, pixels, stored_as(half_input, half_output, residual));
}

using Indices = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

LayerPointer gather(const std::string& isa, const Indices& index, std::int64_t inputs, std::int64_t others,
                    bool half_input, bool half_output, const std::string& residual) {
    const auto n = static_cast<std::int64_t>(index.size());
    if (n < 1 || inputs < 1 || others < 0 || (others > 0) != (residual != "none"))
        throw std::invalid_argument("a gathering has an index, inputs, and others if it has a residual");
    for (std::int64_t i = 0; i < n; ++i)
        if (index.data()[i] < -1 || index.data()[i] >= inputs + others)
            throw std::invalid_argument("the place " + std::to_string(index.data()[i]) + " lies outside of " +
                                        std::to_string(inputs + others) + " numbers");
    return make_gather(chosen(isa), index.data(), n, inputs, others, stored_as(half_input, half_output, residual));
}

LayerPointer normalization(const std::string& isa, const Floats& weight, const Floats& bias, std::int64_t rows,
                           double epsilon, bool half_input, bool half_output) {
    if (weight.shape(0) < 1 || weight.shape(0) != bias.shape(0) || rows < 1)
        throw std::invalid_argument("a normalization has rows, and one weight and one bias for each number of a row");
    return make_normalization(chosen(isa), weight.data(), bias.data(), static_cast<std::int64_t>(weight.shape(0)), rows,
                              static_cast<float>(epsilon), {half_input, half_output});
}

LayerPointer softmax(const std::string& isa, std::int64_t width, std::int64_t rows, bool half_input, bool half_output) {
    if (width < 1 || rows < 1) throw std::invalid_argument("a softmax has rows of at least one number");
    return make_softmax(chosen(isa), width, rows, {half_input, half_output});
}

LayerPointer product(const std::string& isa, const nb::sequence& shape, const nb::sequence& offsets,
                     const nb::sequence& strides, const nb::sequence& other_offsets, const nb::sequence& other_strides,
                     double factor, std::int64_t inputs, std::int64_t others, bool half_input, bool half_output,
                     const std::string& residual) {
    const auto size = whole(shape, 3, "shape"), s = whole(strides, 2, "strides"), t = whole(other_strides, 2, "strides");
    Matrices a{whole(offsets, 0, ""), size[0], size[1], s[0], s[1]};
    Matrices b{whole(other_offsets, 0, ""), size[1], size[2], t[0], t[1]};
    if (residual == "none" || a.offsets.empty() || a.offsets.size() != b.offsets.size() ||
        std::min({size[0], size[1], size[2]}) < 1)
        throw std::invalid_argument("a product has as many matrices on both sides, and the second ones as its residual");
    const auto check = [](const Matrices& m, std::int64_t n) {
        for (const std::int64_t offset : m.offsets)
            for (const std::int64_t i : {std::int64_t{0}, m.rows - 1})
                for (const std::int64_t j : {std::int64_t{0}, m.columns - 1}) {
                    const std::int64_t at = offset + i * m.row_step + j * m.column_step;
                    if (at < 0 || at >= n) throw std::invalid_argument("a matrix lies outside of what is read");
                }
    };
    check(a, inputs);
    check(b, others);
    return make_product(chosen(isa), std::move(a), std::move(b), static_cast<float>(factor), inputs, others,
                        stored_as(half_input, half_output, residual));
}

// Scratch for layers that are run by themselves: one for each thread that does so.
unsigned char* own_workspace(const Layer& layer, std::int64_t batch, const Team& team) {
    thread_local Workspace workspace;
    return workspace.at_least(layer.workspace(batch) * team.size());
}

std::int64_t run_layer(const Layer& layer, const Input& x, const Output& y, const Optional& residual) {
    const Call call = call_of(layer, x, y, residual);
    const nb::gil_scoped_release release;
    const Team team;
    return layer.run(call, team, own_workspace(layer, call.batch, team));
}

double seconds_of(const Layer& layer, const Input& x, const Output& y, int repeats, const Optional& residual) {
    const Call call = call_of(layer, x, y, residual);
    const nb::gil_scoped_release release;
    const Team team;
    unsigned char* workspace = own_workspace(layer, call.batch, team);
    const double start = now();
    for (int i = 0; i < repeats; ++i) layer.run(call, team, workspace);
    return now() - start;
}

Network network(const nb::sequence& steps, std::int64_t max_batch) {
    std::vector<Step> list;
    for (const nb::handle item : steps) {
        const auto [layer, input, residual] = nb::cast<std::tuple<LayerPointer, std::int64_t, std::int64_t>>(item);
        list.push_back({layer, input, residual});
    }
    return {std::move(list), max_batch};
}

std::int64_t batch_of_network(const Network& network, const Input& x, const Output& y) {
    const std::int64_t batch = batch_of(x, y, *network.steps().front().layer, *network.steps().back().layer);
    if (batch > network.max_batch())
        throw std::invalid_argument("a batch of " + std::to_string(batch) + " for a network that takes " +
                                    std::to_string(network.max_batch()) + " at most");
    return batch;
}

std::int64_t run_network(Network& network, const Input& x, const Output& y) {
    const std::int64_t batch = batch_of_network(network, x, y);
    const nb::gil_scoped_release release;
    return network.run(x.data(), y.data(), batch);
}

std::int64_t run_channels_first(Network& network, const std::string& isa, const Input& x, std::int64_t channels,
                                const Output& y, std::int64_t result_channels) {
    const Routines& table = chosen(isa);
    const Layer &first = *network.steps().front().layer, &last = *network.steps().back().layer;
    const std::int64_t batch = batch_of(x, y, first, last);
    const auto divides = [](std::int64_t n, std::int64_t size) { return n == 0 || (n > 0 && size % n == 0); };
    if (first.stored.half_input || last.stored.half_output || !divides(channels, first.input_size) ||
        !divides(result_channels, last.output_size))
        throw std::invalid_argument("images whose channels come first are float32, of as many pixels in every channel");
    const nb::gil_scoped_release release;
    return network.run_channels_first(table, static_cast<const float*>(x.data()), channels,
                                      static_cast<float*>(y.data()), result_channels, batch);
}

std::vector<double> seconds_per_step(Network& network, const Input& x, const Output& y) {
    const std::int64_t batch = batch_of_network(network, x, y);
    std::vector<double> seconds(network.steps().size());
    const nb::gil_scoped_release release;
    network.run(x.data(), y.data(), batch, seconds.data());
    return seconds;
}

void convert(const std::string& isa, const Input& from, const Output& to) {
    const Routines& table = chosen(isa);
    const auto n = static_cast<std::int64_t>(from.size());
    if (from.size() != to.size() || is_half(from) == is_half(to))
        throw std::invalid_argument("a conversion is between as many float16 and float32 numbers");
    const nb::gil_scoped_release release;
    if (is_half(from))
        table.half_to_float(static_cast<const Half*>(from.data()), static_cast<float*>(to.data()), n);
    else
        table.float_to_half(static_cast<const float*>(from.data()), static_cast<Half*>(to.data()), n);
}

void transpose_batch(const std::string& isa, const Input& x, const Output& y, std::int64_t rows, std::int64_t columns) {
    const Routines& table = chosen(isa);
    const auto n = static_cast<std::int64_t>(x.size());
    if (rows < 1 || columns < 1 || x.size() != y.size() || n % (rows * columns) != 0 || is_half(x) || is_half(Input(y)))
        throw std::invalid_argument("a transposition is of whole float32 matrices, to as many numbers");
    const nb::gil_scoped_release release;
    transpose(table, static_cast<const float*>(x.data()), static_cast<float*>(y.data()), n / (rows * columns), rows,
              columns, Team());
}

std::vector<std::string> instruction_sets() {
    const Routines* tables[max_routines];
    const int n = available(tables, max_routines);
    std::vector<std::string> names;
    for (int i = 0; i < n; ++i) names.emplace_back(tables[i]->name);
    return names;
}

// Read rates for buffers of the given sizes, all inside one allocation.
std::vector<double> read_rates(const std::string& isa, const std::vector<std::int64_t>& n_bytes, double seconds_each) {
    const Routines& table = chosen(isa);
    std::int64_t largest = 0;
    for (const auto bytes : n_bytes) largest = std::max(largest, bytes);
    const nb::gil_scoped_release release;
    const Buffer<float> data(largest / sizeof(float));
    // Memory that was never written is one page of zeros, which lies in a cache however often it is mapped.
    constexpr std::size_t page = 4096 / sizeof(float);
    for (std::size_t i = 0; i < data.size(); i += page) data.data()[i] = 1.0f;
    std::vector<double> rates;
    for (const auto bytes : n_bytes) {
        const std::int64_t n = bytes / static_cast<std::int64_t>(sizeof(float)) / 1024 * 1024;
        if (n < 1024) throw std::invalid_argument("a buffer to read has at least 4096 bytes");
        rates.push_back(measure_read(table, data.data(), n, seconds_each));
    }
    return rates;
}

}  // namespace

NB_MODULE(_native, module) {
    module.doc() = "Native routines of pipeline.precision";
    module.attr("SOURCES") = parsimony_sources();
    nb::class_<Layer>(module, "Layer")
        .def("run", &run_layer, "x"_a.noconvert(), "y"_a.noconvert(), "residual"_a.noconvert() = nb::none())
        .def("seconds", &seconds_of, "x"_a.noconvert(), "y"_a.noconvert(), "repeats"_a,
             "residual"_a.noconvert() = nb::none())
        .def("conversions", &Layer::conversions, "batch"_a)
        .def("flops", &Layer::flops, "batch"_a)
        .def("routine", &Layer::routine, "batch"_a)
        .def("workspace_bytes", &Layer::workspace, "batch"_a)
        .def_ro("input_size", &Layer::input_size)
        .def_ro("output_size", &Layer::output_size)
        .def_ro("weight_bytes", &Layer::weight_bytes)
        .def_prop_ro("half_input", [](const Layer& layer) { return layer.stored.half_input; })
        .def_prop_ro("half_output", [](const Layer& layer) { return layer.stored.half_output; });
    nb::class_<Network>(module, "Network")
        .def(nb::new_(&network), "steps"_a, "max_batch"_a)
        .def("run", &run_network, "x"_a.noconvert(), "y"_a.noconvert())
        .def("run_channels_first", &run_channels_first, "instruction_set"_a, "x"_a.noconvert(), "channels"_a,
             "y"_a.noconvert(), "result_channels"_a)
        .def("seconds_per_step", &seconds_per_step, "x"_a.noconvert(), "y"_a.noconvert())
        .def_prop_ro("buffer_bytes", &Network::buffer_bytes)
        .def_prop_ro("n_stages", &Network::n_stages)
        .def_prop_ro("max_batch", &Network::max_batch);
    module.def("linear", &linear, "instruction_set"_a, "weights"_a, "scale"_a, "bias"_a, "relu"_a, "half_input"_a,
               "half_output"_a, "residual"_a = "none", "routine"_a = "product", "function"_a = Named("", 0, 0));
    module.def("convolution", &convolution, "instruction_set"_a, "weights"_a, "scale"_a, "bias"_a, "relu"_a,
               "half_input"_a, "half_output"_a, "image"_a, "kernel"_a, "stride"_a, "padding"_a, "dilation"_a,
               "groups"_a = 1, "residual"_a = "none", "routine"_a = "direct", "function"_a = Named("", 0, 0));
    module.def("pooling", &pooling, "instruction_set"_a, "image"_a, "row_start"_a, "row_end"_a, "column_start"_a,
               "column_end"_a, "average"_a, "relu"_a, "half_input"_a, "half_output"_a, "divisor"_a = 0.0);
    module.def("addition", &addition, "instruction_set"_a, "size"_a, "relu"_a, "half_input"_a, "half_output"_a,
               "residual"_a, "function"_a = Named("", 0, 0));
    module.def("map", &map, "instruction_set"_a, "size"_a, "half_input"_a, "half_output"_a, "residual"_a = "none",
               "function"_a = Named("", 0, 0));
    module.def("scale", &scale, "instruction_set"_a, "channels"_a, "pixels"_a, "half_input"_a, "half_output"_a,
               "residual"_a);
    module.def("gather", &gather, "instruction_set"_a, "index"_a, "inputs"_a, "others"_a, "half_input"_a,
               "half_output"_a, "residual"_a = "none");
    module.def("normalization", &normalization, "instruction_set"_a, "weight"_a, "bias"_a, "rows"_a, "epsilon"_a,
               "half_input"_a, "half_output"_a);
    module.def("softmax", &softmax, "instruction_set"_a, "width"_a, "rows"_a, "half_input"_a, "half_output"_a);
    module.def("product", &product, "instruction_set"_a, "shape"_a, "offsets"_a, "strides"_a, "other_offsets"_a,
               "other_strides"_a, "factor"_a, "inputs"_a, "others"_a, "half_input"_a, "half_output"_a, "residual"_a);
    module.def(
        "linear_routines", [](const std::string& isa) { return linear_routines(chosen(isa)); }, "instruction_set"_a);
    module.def("convolution_routines", &routines_for_convolution, "instruction_set"_a, "kernel"_a, "stride"_a,
               "dilation"_a, "groups"_a, "channels"_a, "outputs"_a);
    module.def("set_threads", &set_threads, "n"_a);
    module.def("threads", &threads);
    module.def("convert", &convert, "instruction_set"_a, "source"_a.noconvert(), "target"_a.noconvert());
    module.def("transpose", &transpose_batch, "instruction_set"_a, "source"_a.noconvert(), "target"_a.noconvert(),
               "rows"_a, "columns"_a);
    module.def("instruction_sets", &instruction_sets);
    module.def(
        "fma_rate", [](const std::string& isa, double seconds) { return measure_fma(chosen(isa), seconds); },
        nb::call_guard<nb::gil_scoped_release>(), "instruction_set"_a, "seconds"_a);
    module.def(
        "pair_rate", [](const std::string& isa, double seconds) { return measure_pairs(chosen(isa), seconds); },
        nb::call_guard<nb::gil_scoped_release>(), "instruction_set"_a, "seconds"_a);
    module.def(
        "conversion_rate",
        [](const std::string& isa, double seconds) { return measure_conversion(chosen(isa), seconds); },
        nb::call_guard<nb::gil_scoped_release>(), "instruction_set"_a, "seconds"_a);
    module.def("read_rates", &read_rates, "instruction_set"_a, "n_bytes"_a, "seconds_each"_a);
}
