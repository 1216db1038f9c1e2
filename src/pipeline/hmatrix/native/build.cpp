#include "build.hpp"

#include <chrono>
#include <cmath>

#include "adaptive.hpp"

namespace hmatrix {

namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

template <class C>
nb::tuple build_basis(const KernelMatrix& matrix, const Tree& own, const Tree& other, In<int64_t> far_start,
                      In<int> far_boxes, const BasisOptions& options) {
    const Lists far{far_start.data(), far_boxes.data()};
    auto evaluate = matrix.evaluator<C>(options.transposed);
    const int n_boxes = own.boxes();
    std::vector<int> rank(n_boxes, 0);
    std::vector<Interpolation<C>> bases(n_boxes);
    std::vector<std::vector<int>> skeletons(n_boxes);
    // How much of x a skeleton carries: energy[i]^2 is the variance of its coefficient for white noise x.
    std::vector<std::vector<double>> energy(n_boxes);
    std::vector<double> seconds(own.levels(), 0.0);
    const Accuracy accuracy{options.budget, options.rows};
    AdaptiveScratch<C> scratch;
    FarSampler sampler(own, other, far);
    int largest = 0, done = 0;

    for (int level = own.levels() - 1; level >= 0 && largest <= options.largest_box; --level) {
        const double begun = now();
        for (int b = own.level_start.data()[level]; b < own.level_start.data()[level + 1]; ++b) {
            heed_interrupts();
            tell(options.progress, ++done, n_boxes);
            std::vector<int> columns;
            std::vector<double> scale;
            if (own.leaf(b)) {
                for (int i = own.start.data()[b]; i < own.stop.data()[b]; ++i) columns.push_back(i);
                scale.assign(columns.size(), 1.0);
            } else {
                for (int c = own.first_child.data()[b]; c < own.first_child.data()[b] + own.arity; ++c) {
                    columns.insert(columns.end(), skeletons[c].begin(), skeletons[c].end());
                    scale.insert(scale.end(), energy[c].begin(), energy[c].end());
                }
            }
            const int n = static_cast<int>(columns.size());
            largest = std::max(largest, n);
            if (largest > options.largest_box) break;
            bases[b] = adaptive_basis(
                sampler, b, n, scale.data(), accuracy, 1, scratch,
                [&](const std::vector<int>& points, int, C* out) {
                    evaluate->block(points.data(), static_cast<int>(points.size()), columns.data(), n, out);
                },
                [](Rows<C>&, double) { return 0; });
            const auto& basis = bases[b];
            // Large boxes that keep their full rank only get larger above: the far field has no low rank.
            if (n >= options.largest_box / 8 && 50 * (n - basis.rank) < n) {
                largest = options.largest_box + n;
                break;
            }
            const int k = rank[b] = basis.rank;
            for (int i = 0; i < k; ++i) {
                double sum = scale[basis.order[i]] * scale[basis.order[i]];
                for (int j = k; j < n; ++j) {
                    const double t =
                        std::abs(basis.T[static_cast<int64_t>(i) * (n - k) + j - k]) * scale[basis.order[j]];
                    sum += t * t;
                }
                skeletons[b].push_back(columns[basis.order[i]]);
                energy[b].push_back(std::sqrt(sum));
            }
        }
        seconds[level] = now() - begun;
    }

    std::vector<int> flat_skeletons, flat_order;
    std::vector<C> flat_T;
    for (int b = 0; b < n_boxes; ++b) {
        flat_skeletons.insert(flat_skeletons.end(), skeletons[b].begin(), skeletons[b].end());
        flat_order.insert(flat_order.end(), bases[b].order.begin(), bases[b].order.end());
        flat_T.insert(flat_T.end(), bases[b].T.begin(), bases[b].T.end());
    }
    return nb::make_tuple(give(std::move(rank)), give(std::move(flat_skeletons)), give(std::move(flat_order)),
                          give(std::move(flat_T)), give(std::move(seconds)), largest);
}

template <class C, class S>
Out<S> evaluate_blocks(const KernelMatrix& matrix, In<int64_t> row_start, In<int> rows, In<int64_t> column_start,
                       In<int> columns, In<int> first, In<int> second) {
    const Lists r{row_start.data(), rows.data()}, c{column_start.data(), columns.data()};
    auto evaluate = matrix.evaluator<C>(false);
    const size_t n_pairs = first.shape(0);
    int64_t total = 0;
    for (size_t p = 0; p < n_pairs; ++p)
        total += static_cast<int64_t>(r.size(first.data()[p])) * c.size(second.data()[p]);
    S* values = new S[std::max<int64_t>(total, 1)];
    nb::capsule owner(values, [](void* p) noexcept { delete[] static_cast<S*>(p); });
    std::vector<C> block;
    int64_t at = 0;
    for (size_t p = 0; p < n_pairs; ++p) {
        const int a = first.data()[p], b = second.data()[p], m = r.size(a), n = c.size(b);
        const int64_t size = static_cast<int64_t>(m) * n;
        if constexpr (std::is_same_v<C, S>) {
            evaluate->block(r.begin(a), m, c.begin(b), n, values + at);
        } else {
            block.resize(size);
            evaluate->block(r.begin(a), m, c.begin(b), n, block.data());
            for (int64_t i = 0; i < size; ++i) values[at + i] = static_cast<S>(block[i]);
        }
        at += size;
    }
    return Out<S>(values, {static_cast<size_t>(total)}, owner);
}

template nb::tuple build_basis<double>(const KernelMatrix&, const Tree&, const Tree&, In<int64_t>, In<int>,
                                       const BasisOptions&);
template nb::tuple build_basis<Complex>(const KernelMatrix&, const Tree&, const Tree&, In<int64_t>, In<int>,
                                        const BasisOptions&);

#define HMATRIX_BLOCKS(C, S)                                                                                        \
    template Out<S> evaluate_blocks<C, S>(const KernelMatrix&, In<int64_t>, In<int>, In<int64_t>, In<int>, In<int>, \
                                          In<int>)
HMATRIX_BLOCKS(double, double);
HMATRIX_BLOCKS(double, float);
HMATRIX_BLOCKS(Complex, Complex);
HMATRIX_BLOCKS(Complex, Single);

}  // namespace hmatrix
