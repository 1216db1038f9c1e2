#include "build.hpp"

#include <chrono>
#include <cmath>

#include "adaptive.hpp"
#include "threads.hpp"

namespace hmatrix {

namespace {

constexpr int kPairsAtATime = 16;

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

void raise_to(std::atomic<int>& value, int least) {
    for (int seen = value; seen < least && !value.compare_exchange_weak(seen, least);) {
    }
}

}  // namespace

template <class C>
nb::tuple build_basis(const KernelMatrix& matrix, const Tree& own, const Tree& other, In<int64_t> far_start,
                      In<int> far_boxes, const BasisOptions& options) {
    const Lists far{far_start.data(), far_boxes.data()};
    const int n_boxes = own.boxes(), threads = matrix.steps.empty() ? 1 : options.threads;
    std::vector<int> rank(n_boxes, 0);
    std::vector<Interpolation<C>> bases(n_boxes);
    std::vector<std::vector<int>> skeletons(n_boxes);
    // How much of x a skeleton carries: energy[i]^2 is the variance of its coefficient for white noise x.
    std::vector<std::vector<double>> energy(n_boxes);
    std::vector<double> seconds(own.levels(), 0.0);
    const Accuracy accuracy{options.budget, options.rows};
    std::atomic<int> largest{0}, done{0};

    struct Worker {
        std::unique_ptr<Evaluator<C>> evaluate;
        FarSampler sampler;
        AdaptiveScratch<C> scratch;
    };
    const auto make = [&] { return Worker{matrix.evaluator<C>(options.transposed), {own, other, far}, {}}; };
    const auto heed = [&] {
        heed_interrupts();
        tell(options.progress, done, n_boxes);
    };
    for (int level = own.levels() - 1; level >= 0 && largest <= options.largest_box; --level) {
        const double begun = now();
        const int first = own.level_start.data()[level], count = own.level_start.data()[level + 1] - first;
        // Boxes of a level know of those below only.
        const auto compress = [&](Worker& worker, int i) {
            const int b = first + i;
            ++done;
            std::vector<int> columns;
            std::vector<double> scale;
            if (own.leaf(b)) {
                for (int p = own.start.data()[b]; p < own.stop.data()[b]; ++p) columns.push_back(p);
                if (options.energy.shape(0) == 0)
                    scale.assign(columns.size(), 1.0);
                else
                    for (int p : columns) scale.push_back(options.energy.data()[p]);
            } else {
                for (int c = own.first_child.data()[b]; c < own.first_child.data()[b] + own.arity; ++c) {
                    columns.insert(columns.end(), skeletons[c].begin(), skeletons[c].end());
                    scale.insert(scale.end(), energy[c].begin(), energy[c].end());
                }
            }
            const int n = static_cast<int>(columns.size());
            if (n == 0) return;
            raise_to(largest, n);
            if (largest > options.largest_box) return;
            bases[b] = adaptive_basis(
                worker.sampler, b, n, scale.data(), accuracy, 1, worker.scratch,
                [&](const std::vector<int>& points, int, C* out) {
                    worker.evaluate->block(points.data(), static_cast<int>(points.size()), columns.data(), n, out);
                },
                [](Rows<C>&, double) { return 0; });
            const auto& basis = bases[b];
            // Large boxes that keep their full rank only get larger above: the far field has no low rank.
            if (n >= options.largest_box / 8 && 50 * (n - basis.rank) < n) {
                raise_to(largest, options.largest_box + n);
                return;
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
        };
        share(count, threads, make, compress, heed);
        seconds[level] = now() - begun;
    }
    if (threads > 1) tell(options.progress, done, n_boxes);

    std::vector<int> flat_skeletons, flat_order;
    std::vector<C> flat_T;
    std::vector<double> flat_energy;
    for (int b = 0; b < n_boxes; ++b) {
        flat_skeletons.insert(flat_skeletons.end(), skeletons[b].begin(), skeletons[b].end());
        flat_order.insert(flat_order.end(), bases[b].order.begin(), bases[b].order.end());
        flat_T.insert(flat_T.end(), bases[b].T.begin(), bases[b].T.end());
        flat_energy.insert(flat_energy.end(), energy[b].begin(), energy[b].end());
    }
    return nb::make_tuple(give(std::move(rank)), give(std::move(flat_skeletons)), give(std::move(flat_order)),
                          give(std::move(flat_T)), give(std::move(seconds)), largest.load(),
                          give(std::move(flat_energy)));
}

template <class C, class S>
Out<S> evaluate_blocks(const KernelMatrix& matrix, In<int64_t> row_start, In<int> rows, In<int64_t> column_start,
                       In<int> columns, In<int> first, In<int> second, int threads) {
    const Lists r{row_start.data(), rows.data()}, c{column_start.data(), columns.data()};
    const int n_pairs = static_cast<int>(first.shape(0));
    std::vector<int64_t> start(n_pairs + 1, 0);
    for (int p = 0; p < n_pairs; ++p)
        start[p + 1] = start[p] + static_cast<int64_t>(r.size(first.data()[p])) * c.size(second.data()[p]);
    const int64_t total = start[n_pairs];
    S* values = new S[std::max<int64_t>(total, 1)];
    nb::capsule owner(values, [](void* p) noexcept { delete[] static_cast<S*>(p); });
    struct Worker {
        std::unique_ptr<Evaluator<C>> evaluate;
        std::vector<C> block;
    };
    const auto make = [&] { return Worker{matrix.evaluator<C>(false), {}}; };
    const auto work = [&](Worker& worker, int i) {
        for (int p = i * kPairsAtATime; p < std::min(n_pairs, (i + 1) * kPairsAtATime); ++p) {
            const int a = first.data()[p], b = second.data()[p], m = r.size(a), n = c.size(b);
            S* to = values + start[p];
            if constexpr (std::is_same_v<C, S>) {
                worker.evaluate->block(r.begin(a), m, c.begin(b), n, to);
            } else {
                worker.block.resize(static_cast<size_t>(m) * n);
                worker.evaluate->block(r.begin(a), m, c.begin(b), n, worker.block.data());
                for (size_t e = 0; e < worker.block.size(); ++e) to[e] = static_cast<S>(worker.block[e]);
            }
        }
    };
    const int shares = n_pairs / kPairsAtATime + (n_pairs % kPairsAtATime > 0);
    share(shares, matrix.steps.empty() ? 1 : threads, make, work, [] { heed_interrupts(); });
    return Out<S>(values, {static_cast<size_t>(total)}, owner);
}

template nb::tuple build_basis<double>(const KernelMatrix&, const Tree&, const Tree&, In<int64_t>, In<int>,
                                       const BasisOptions&);
template nb::tuple build_basis<Complex>(const KernelMatrix&, const Tree&, const Tree&, In<int64_t>, In<int>,
                                        const BasisOptions&);

#define HMATRIX_BLOCKS(C, S)                                                                                        \
    template Out<S> evaluate_blocks<C, S>(const KernelMatrix&, In<int64_t>, In<int>, In<int64_t>, In<int>, In<int>, \
                                          In<int>, int)
HMATRIX_BLOCKS(double, double);
HMATRIX_BLOCKS(double, float);
HMATRIX_BLOCKS(Complex, Complex);
HMATRIX_BLOCKS(Complex, Single);

}  // namespace hmatrix
