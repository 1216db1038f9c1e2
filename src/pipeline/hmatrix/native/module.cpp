#include <nanobind/nanobind.h>
#include <nanobind/stl/complex.h>
#include <nanobind/stl/vector.h>

#include "build.hpp"
#include "cluster.hpp"
#include "eliminate.hpp"
#include "potential.hpp"
#include "product.hpp"
#include "represented.hpp"
#include "solve.hpp"

using namespace hmatrix;
using namespace nb::literals;

// In a file that the build writes.
const char* parsimony_sources();

namespace {

// What is stored as S: bases, blocks, products and solves.
template <class S>
void bind_stored(nb::module_& module, const char* suffix) {
    const auto name = [suffix](const char* stem) { return std::string(stem) + suffix; };
    nb::class_<Basis<S>>(module, name("Basis").c_str())
        .def(
            "__init__",
            [](Basis<S>* self, In<int> rank, In<int64_t> skeleton_start, In<int64_t> order_start, In<int> order,
               In<int64_t> value_start,
               In<S> values) { new (self) Basis<S>{rank, skeleton_start, order_start, order, value_start, values}; },
            "rank"_a, "skeleton_start"_a, "order_start"_a, "order"_a, "value_start"_a, "values"_a);
    nb::class_<Blocks<S>>(module, name("Blocks").c_str())
        .def(
            "__init__",
            [](Blocks<S>* self, In<int> first, In<int> second, In<int64_t> start, In<S> values) {
                new (self) Blocks<S>{first, second, start, values};
            },
            "first"_a, "second"_a, "start"_a, "values"_a);
    nb::class_<LevelView<S>>(module, name("Level").c_str())
        .def(
            "__init__",
            [](LevelView<S>* self, In<int> counts, In<int> index, In<S> values, In<int> pivots) {
                new (self) LevelView<S>{counts, index, values, pivots};
            },
            "counts"_a, "index"_a, "values"_a, "pivots"_a);
    nb::class_<Represented<S>>(module, name("Represented").c_str())
        .def(nb::init<const Tree&, const Tree&, const Basis<S>&, const Basis<S>&, const Blocks<S>&, const Blocks<S>&,
                      bool>(),
             "row_tree"_a, "column_tree"_a, "row_basis"_a, "column_basis"_a, "near"_a, "far"_a, "mirrored"_a)
        .def("block", &Represented<S>::block, "rows"_a, "columns"_a);
    module.def("product", &product<S>, "row_tree"_a, "column_tree"_a, "row_basis"_a, "column_basis"_a, "near"_a,
               "far"_a, "mirrored"_a, "transposed"_a, "x"_a, "m"_a, "parts"_a, "threads"_a);
    module.def("rise", &rise<S>, "tree"_a, "basis"_a, "boxes"_a, "x"_a, "coefficients"_a, "m"_a);
    module.def("descend", &descend<S>, "tree"_a, "basis"_a, "boxes"_a, "coefficients"_a, "y"_a, "m"_a);
    module.def("add_blocks", &add_blocks<S>, "blocks"_a, "mirrored"_a, "taken"_a, "widths"_a, "x"_a, "given"_a,
               "heights"_a, "y"_a, "m"_a);
    module.def(
        "sweep",
        [](const std::vector<const LevelView<S>*>& steps, int kind, int way,
           nb::ndarray<Wide<S>, nb::ndim<1>, nb::c_contig, nb::device::cpu> x, int m) {
            std::vector<LevelView<S>> views;
            for (const auto* view : steps) views.push_back(*view);
            nb::gil_scoped_release unlocked;
            sweep<S>(views, static_cast<Kind>(kind), static_cast<Sweep>(way), x.data(), m);
        },
        "steps"_a, "kind"_a, "way"_a, "x"_a, "m"_a);
    module.def(name("evaluate_blocks").c_str(), &evaluate_blocks<Wide<S>, S>, "matrix"_a, "row_start"_a, "rows"_a,
               "column_start"_a, "columns"_a, "first"_a, "second"_a, "threads"_a);
}

// Factorizations that compute in C and store S.
template <class C, class S>
void bind_part(nb::module_& module, const char* name) {
    using P = Part<C, S>;
    nb::class_<P>(module, name)
        .def(
            "__init__",
            [](P* self, const KernelMatrix& matrix, const Tree& tree, In<int64_t> near_start, In<int> near_boxes,
               In<int64_t> far_start, In<int> far_boxes, In<Wide<C>> diagonal, int kind, double budget, double rows,
               bool gives_back) {
                new (self) P(matrix, tree, near_start, near_boxes, far_start, far_boxes, diagonal,
                             {static_cast<Kind>(kind), budget, rows, gives_back});
            },
            "matrix"_a, "tree"_a, "near_start"_a, "near_boxes"_a, "far_start"_a, "far_boxes"_a, "diagonal"_a,
            "kind"_a, "budget"_a, "rows"_a, "gives_back"_a, nb::keep_alive<1, 2>())
        .def("set_entries", &P::set_entries, "matrix"_a, "diagonal"_a)
        .def("own", &P::own, "first"_a, "last"_a)
        .def("set_points", &P::set_points, "boxes"_a, "start"_a, "points"_a)
        .def("points", &P::points, "boxes"_a)
        .def("unknowns", &P::unknowns, "first"_a, "last"_a)
        .def("eliminate", &P::eliminate, "boxes"_a, "told"_a, "watch"_a, "watching"_a)
        .def("take", &P::take)
        .def("apply", &P::apply, "ints"_a, "values"_a)
        .def("blocks", &P::blocks, "first"_a, "last"_a, "not_first"_a, "not_last"_a)
        .def("add_blocks", &P::add_blocks, "ints"_a, "values"_a)
        .def("merge", &P::merge, "level"_a, "parents"_a, "first"_a, "last"_a)
        .def("finish", &P::finish, "first"_a, "last"_a)
        .def_prop_ro("flops", &P::flops)
        .def_prop_ro("n_bytes", &P::bytes)
        .def_prop_ro("peak_bytes", &P::peak);
}

// What computes in C: bases, which Python narrows when it stores them.
template <class C>
void bind_computed(nb::module_& module, const char* suffix) {
    module.def((std::string("build_basis") + suffix).c_str(),
               [](const KernelMatrix& matrix, const Tree& own, const Tree& other, In<int64_t> far_start,
                  In<int> far_boxes, bool transposed, double budget, double rows, int largest_box, nb::object progress,
                  int threads, In<double> energy) {
                   return build_basis<C>(matrix, own, other, far_start, far_boxes,
                                         {transposed, budget, rows, largest_box, energy, progress, threads});
               },
               "matrix"_a, "own"_a, "other"_a, "far_start"_a, "far_boxes"_a, "transposed"_a, "budget"_a, "rows"_a,
               "largest_box"_a, "progress"_a.none(), "threads"_a, "energy"_a);
}

}  // namespace

NB_MODULE(_native, module) {
    module.doc() = "Native routines of pipeline.hmatrix";
    module.attr("SOURCES") = parsimony_sources();
    nb::set_leak_warnings(false);  // a traceback kept until exit holds objects, which is no leak
    load_routines();
    module.def("bisect", &bisect, "points"_a, "depth"_a, "threads"_a = 1);
    module.def("symmetric_means", &symmetric_means, "targets"_a, "sources"_a, "coordinates"_a, "weights"_a);
    module.def("release_memory", &release_free_memory);
    module.def("instruction_sets", [] {
        nb::list names;
        for (const Loops* set : available_loops()) names.append(set->name);
        return names;
    });
    module.def(
        "run_loops",
        [](int set, int kind, const std::vector<double>& parameters, In2<double> x, In2<double> y, In<double> v,
           In<double> u) {
            const Loops& chosen = *available_loops().at(set);
            const int d = static_cast<int>(x.shape(0)), m = static_cast<int>(x.shape(1)),
                      n = static_cast<int>(y.shape(1));
            std::vector<double> weights(d, 1.0), block(static_cast<size_t>(m) * n), products(m + n, 0.0);
            chosen.squared_distances(d, m, n, x.data(), y.data(), weights.data(), block.data());
            chosen.radial(kind, parameters.data(), static_cast<int64_t>(block.size()), block.data());
            chosen.both_double(m, n, block.data(), v.data(), products.data(), u.data(), products.data() + m);
            return nb::make_tuple(give(std::move(block)), give(std::move(products)));
        },
        "set"_a, "kind"_a, "parameters"_a, "x"_a, "y"_a, "v"_a, "u"_a,
        "Block, and its products with v and transposed with u");
    module.def(
        "run_edges",
        [](int set, In<double> length, In<double> lower, In<double> t, In<double> height) {
            std::vector<double> out(length.shape(0));
            available_loops().at(set)->edges(static_cast<int64_t>(out.size()), length.data(), lower.data(), t.data(),
                                             height.data(), out.data());
            return give(std::move(out));
        },
        "set"_a, "length"_a, "lower"_a, "t"_a, "height"_a);
    nb::class_<Tree>(module, "Tree")
        .def(
            "__init__",
            [](Tree* self, In<int> level_start, In<int> start, In<int> stop, In<int> parent, In<int> first_child,
               In2<double> lower, In2<double> upper,
               int arity) { new (self) Tree{level_start, start, stop, parent, first_child, lower, upper, arity}; },
            "level_start"_a, "start"_a, "stop"_a, "parent"_a, "first_child"_a, "lower"_a, "upper"_a, "arity"_a);
    module.def(
        "sample_far",
        [](const Tree& own, const Tree& other, In<int64_t> far_start, In<int> far_boxes, In<int> boxes, double rows,
           int round) { return sample_far(own, other, {far_start.data(), far_boxes.data()}, boxes, rows, round); },
        "own"_a, "other"_a, "far_start"_a, "far_boxes"_a, "boxes"_a, "rows"_a, "round"_a);
    module.def(
        "sampled_outside",
        [](const Tree& own, const Tree& other, In<int64_t> far_start, In<int> far_boxes, In<int> boxes, double rows,
           int round, int first, int last) {
            return sampled_outside(own, other, {far_start.data(), far_boxes.data()}, boxes, rows, round, first, last);
        },
        "own"_a, "other"_a, "far_start"_a, "far_boxes"_a, "boxes"_a, "rows"_a, "round"_a, "first"_a, "last"_a);
    nb::class_<KernelMatrix>(module, "KernelMatrix")
        .def(nb::init<In2<double>, In2<double>, nb::list, nb::object>(), "targets"_a, "sources"_a, "steps"_a,
             "function"_a.none())
        .def_prop_ro("calls_python", [](const KernelMatrix& matrix) { return matrix.steps.empty(); })
        .def("keep", &KernelMatrix::keep, "first"_a, "last"_a, "others"_a, "as_targets"_a,
             "as_sources"_a)
        .def("correct", &KernelMatrix::correct, "start"_a, "columns"_a, "values"_a, "transposed_start"_a,
             "transposed_columns"_a, "transposed_values"_a);
    bind_stored<double>(module, "_float64");
    bind_stored<float>(module, "_float32");
    bind_stored<Complex>(module, "_complex128");
    bind_stored<Single>(module, "_complex64");
    nb::exception<Stopped>(module, "Stopped");
    nb::class_<Watch>(module, "Watch")
        .def(nb::init<nb::object, int>(), "progress"_a.none(), "total"_a)
        .def("stop", &Watch::stop);
    bind_part<double, double>(module, "Part_float64_float64");
    bind_part<double, float>(module, "Part_float64_float32");
    bind_part<float, float>(module, "Part_float32_float32");
    bind_part<Complex, Complex>(module, "Part_complex128_complex128");
    bind_part<Complex, Single>(module, "Part_complex128_complex64");
    bind_part<Single, Single>(module, "Part_complex64_complex64");
    bind_computed<double>(module, "_float64");
    bind_computed<Complex>(module, "_complex128");
}
