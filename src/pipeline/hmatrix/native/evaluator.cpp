#include "evaluator.hpp"

#include <algorithm>

#include <nanobind/stl/vector.h>

#include "precision.hpp"

namespace hmatrix {

namespace {

struct PointSet {
    const double* coordinates;
    int dimension;
    int64_t count;
    Numbering places;

    void gather(const int* chosen, int m, std::vector<double>& out) const {
        out.resize(static_cast<size_t>(dimension) * m);
        if (places.others) {
            for (int i = 0; i < m; ++i) {
                const double* from = coordinates + places(chosen[i]);
                for (int c = 0; c < dimension; ++c) out[static_cast<int64_t>(c) * m + i] = from[c * count];
            }
            return;
        }
        for (int c = 0; c < dimension; ++c) {
            const double* row = coordinates + c * count;
            double* to = out.data() + static_cast<int64_t>(c) * m;
            for (int i = 0; i < m; ++i) to[i] = row[chosen[i]];
        }
    }
};

PointSet point_set(const In2<double>& points, const Numbering& places) {
    return {points.data(), static_cast<int>(points.shape(0)), static_cast<int64_t>(points.shape(1)), places};
}

struct Stack {
    std::vector<std::vector<double>> levels;
    size_t height = 0;

    double* push(int64_t size) {
        if (levels.size() == height) levels.emplace_back();
        auto& level = levels[height++];
        if (static_cast<int64_t>(level.size()) < size) level.resize(size);
        return level.data();
    }
};

class RealProgram : public Evaluator<double> {
  public:
    RealProgram(PointSet rows, PointSet columns, const std::vector<Step>& steps)
        : rows_(rows), columns_(columns), steps_(steps) {}

    void block(const int* rows, int m, const int* columns, int n, double* out) override {
        flop_count += kFlopsPerEntry * m * n;
        rows_.gather(rows, m, x_);
        columns_.gather(columns, n, y_);
        const int64_t size = static_cast<int64_t>(m) * n;
        stack_.height = 0;
        for (const Step& step : steps_) {
            if (step.operation == kScale) {
                double* top = stack_.levels[stack_.height - 1].data();
                for (int64_t i = 0; i < size; ++i) top[i] *= step.parameters[0];
            } else if (step.operation == kAdd || step.operation == kMultiply) {
                const double* top = stack_.levels[--stack_.height].data();
                double* below = stack_.levels[stack_.height - 1].data();
                if (step.operation == kAdd)
                    for (int64_t i = 0; i < size; ++i) below[i] += top[i];
                else
                    for (int64_t i = 0; i < size; ++i) below[i] *= top[i];
            } else {
                double* to = steps_.size() == 1 ? out : stack_.push(size);
                loops().squared_distances(rows_.dimension, m, n, x_.data(), y_.data(), step.weights.data(), to);
                loops().radial(step.operation, step.parameters.data(), size, to);
            }
        }
        if (steps_.size() > 1) std::copy_n(stack_.levels[0].data(), size, out);
    }

  private:
    PointSet rows_, columns_;
    const std::vector<Step>& steps_;
    std::vector<double> x_, y_;
    Stack stack_;
};

class WaveProgram : public Evaluator<Complex> {
  public:
    WaveProgram(PointSet rows, PointSet columns, const std::vector<Step>& steps)
        : rows_(rows), columns_(columns), steps_(steps) {}

    void block(const int* rows, int m, const int* columns, int n, Complex* out) override {
        flop_count += kFlopsPerEntry * m * n;
        rows_.gather(rows, m, x_);
        columns_.gather(columns, n, y_);
        const int64_t size = static_cast<int64_t>(m) * n;
        squares_.resize(size);
        const Step& step = steps_[0];
        loops().squared_distances(rows_.dimension, m, n, x_.data(), y_.data(), step.weights.data(), squares_.data());
        loops().wave(step.parameters.data(), size, squares_.data(), reinterpret_cast<double*>(out));
    }

  private:
    PointSet rows_, columns_;
    const std::vector<Step>& steps_;
    std::vector<double> x_, y_, squares_;
};

template <class C>
class Callback : public Evaluator<C> {
  public:
    Callback(const nb::object& function, bool transposed) : function_(function), transposed_(transposed) {}

    void block(const int* rows, int m, const int* columns, int n, C* out) override {
        if (m == 0 || n == 0) return;
        if (!transposed_) {
            call(rows, m, columns, n, out);
            return;
        }
        scratch_.resize(static_cast<size_t>(m) * n);
        call(columns, n, rows, m, scratch_.data());
        for (int j = 0; j < n; ++j)
            for (int i = 0; i < m; ++i)
                out[static_cast<int64_t>(j) * m + i] = scratch_[static_cast<int64_t>(i) * n + j];
    }

  private:
    void call(const int* rows, int m, const int* columns, int n, C* out) {
        const size_t shape[2] = {static_cast<size_t>(n), static_cast<size_t>(m)};
        nb::ndarray<nb::numpy, const int, nb::ndim<1>> r(rows, {static_cast<size_t>(m)}, nb::handle());
        nb::ndarray<nb::numpy, const int, nb::ndim<1>> c(columns, {static_cast<size_t>(n)}, nb::handle());
        nb::ndarray<nb::numpy, C, nb::ndim<2>> o(out, 2, shape, nb::none());
        function_(nb::cast(r, nb::rv_policy::copy), nb::cast(c, nb::rv_policy::copy),
                  nb::cast(o, nb::rv_policy::reference));
    }

    const nb::object& function_;
    bool transposed_;
    std::vector<C> scratch_;
};

// A sparse matrix added to another evaluator's blocks.
template <class C>
class Corrected : public Evaluator<C> {
  public:
    Corrected(std::unique_ptr<Evaluator<C>> inner, const Sparse& added, int64_t n_columns)
        : inner_(std::move(inner)), added_(added), place_(n_columns, -1) {}

    void block(const int* rows, int m, const int* columns, int n, C* out) override {
        inner_->block(rows, m, columns, n, out);
        for (int j = 0; j < n; ++j) place_[columns[j]] = j;
        for (int i = 0; i < m; ++i)
            for (int64_t e = added_.start.data()[rows[i]]; e < added_.start.data()[rows[i] + 1]; ++e) {
                const int j = place_[added_.columns.data()[e]];
                if (j >= 0) add(out[static_cast<int64_t>(j) * m + i], added_.values.data()[e]);
            }
        for (int j = 0; j < n; ++j) place_[columns[j]] = -1;
    }

  private:
    static void add(double& to, Complex value) { to += value.real(); }
    static void add(Complex& to, Complex value) { to += value; }

    std::unique_ptr<Evaluator<C>> inner_;
    const Sparse& added_;
    std::vector<int> place_;  // of each column in the block at hand, else -1
};

// Another evaluator's blocks in single precision.
template <class C>
class Narrowed : public Evaluator<C> {
  public:
    explicit Narrowed(std::unique_ptr<Evaluator<Wide<C>>> inner) : inner_(std::move(inner)) {}

    void block(const int* rows, int m, const int* columns, int n, C* out) override {
        const size_t size = static_cast<size_t>(m) * n;
        wide_.resize(size);
        inner_->block(rows, m, columns, n, wide_.data());
        for (size_t i = 0; i < size; ++i) out[i] = static_cast<C>(wide_[i]);
    }

  private:
    std::unique_ptr<Evaluator<Wide<C>>> inner_;
    std::vector<Wide<C>> wide_;
};

}  // namespace

KernelMatrix::KernelMatrix(In2<double> targets, In2<double> sources, nb::list list, nb::object function)
    : targets(targets), sources(sources), function(function) {
    for (nb::handle item : list) {
        nb::tuple entry = nb::cast<nb::tuple>(item);
        steps.push_back({nb::cast<int>(entry[0]), nb::cast<std::vector<double>>(entry[1]),
                         nb::cast<std::vector<double>>(entry[2])});
    }
}

template <>
std::unique_ptr<Evaluator<double>> KernelMatrix::plain<double>(bool transposed) const {
    if (steps.empty()) return std::make_unique<Callback<double>>(function, transposed);
    // A radial kernel does not tell its arguments apart.
    const PointSet t = point_set(targets, target_places), s = point_set(sources, source_places);
    return std::make_unique<RealProgram>(transposed ? s : t, transposed ? t : s, steps);
}

template <>
std::unique_ptr<Evaluator<Complex>> KernelMatrix::plain<Complex>(bool transposed) const {
    if (steps.empty()) return std::make_unique<Callback<Complex>>(function, transposed);
    const PointSet t = point_set(targets, target_places), s = point_set(sources, source_places);
    return std::make_unique<WaveProgram>(transposed ? s : t, transposed ? t : s, steps);
}

void KernelMatrix::keep(int first, int last, In<int> others, bool as_targets, bool as_sources) {
    kept = {others};
    // An empty list is still a list: only the range is kept.
    static const int nothing = 0;
    const Numbering places{first, last, others.shape(0) ? others.data() : &nothing,
                           static_cast<int64_t>(others.shape(0))};
    if (as_targets) target_places = places;
    if (as_sources) source_places = places;
}

void KernelMatrix::correct(In<int64_t> start, In<int> columns, In<Complex> values, In<int64_t> transposed_start,
                           In<int> transposed_columns, In<Complex> transposed_values) {
    correction = {{start, columns, values}, {transposed_start, transposed_columns, transposed_values}};
}

template <class C>
std::unique_ptr<Evaluator<C>> KernelMatrix::evaluator(bool transposed) const {
    if constexpr (std::is_same_v<C, Wide<C>>) {
        auto inner = plain<C>(transposed);
        if (correction.empty()) return inner;
        const int64_t n_columns = static_cast<int64_t>((transposed ? targets : sources).shape(1));
        return std::make_unique<Corrected<C>>(std::move(inner), correction[transposed ? 1 : 0], n_columns);
    } else {
        return std::make_unique<Narrowed<C>>(evaluator<Wide<C>>(transposed));
    }
}

template std::unique_ptr<Evaluator<float>> KernelMatrix::evaluator<float>(bool) const;
template std::unique_ptr<Evaluator<Single>> KernelMatrix::evaluator<Single>(bool) const;
template std::unique_ptr<Evaluator<double>> KernelMatrix::evaluator<double>(bool) const;
template std::unique_ptr<Evaluator<Complex>> KernelMatrix::evaluator<Complex>(bool) const;

}  // namespace hmatrix
