#include "cluster.hpp"

#include <algorithm>
#include <numeric>
#include <thread>

namespace hmatrix {

namespace {

constexpr int64_t kWorthAThread = 1 << 14;  // points

struct Splitter {
    const double* points;
    int dimension;
    int* order;

    // Orders [start, stop) so that every one of the `depth` halvings is a contiguous half; halves go to `threads`.
    void split(int64_t start, int64_t stop, int depth, int threads) {
        if (depth == 0 || stop - start < 2) return;
        int widest = 0;
        double width = -1;
        for (int c = 0; c < dimension; ++c) {
            double low = at(order[start], c), high = low;
            for (int64_t i = start + 1; i < stop; ++i) {
                const double value = at(order[i], c);
                low = std::min(low, value);
                high = std::max(high, value);
            }
            if (high - low > width) width = high - low, widest = c;
        }
        const int64_t middle = start + (stop - start + 1) / 2;
        // Ties go by index, so that the tree is the same everywhere.
        std::nth_element(order + start, order + middle, order + stop, [this, widest](int a, int b) {
            const double x = at(a, widest), y = at(b, widest);
            return x != y ? x < y : a < b;
        });
        if (threads > 1 && stop - start >= kWorthAThread) {
            std::thread other([=, this] { split(start, middle, depth - 1, threads / 2); });
            split(middle, stop, depth - 1, threads - threads / 2);
            other.join();
            return;
        }
        split(start, middle, depth - 1, 1);
        split(middle, stop, depth - 1, 1);
    }

    double at(int point, int c) const { return points[static_cast<int64_t>(point) * dimension + c]; }
};

}  // namespace

Out<int> bisect(In2<double> points, int depth, int threads) {
    const auto n = static_cast<int64_t>(points.shape(0));
    std::vector<int> order(n);
    std::iota(order.begin(), order.end(), 0);
    Splitter{points.data(), static_cast<int>(points.shape(1)), order.data()}.split(0, n, depth, threads);
    return give(std::move(order));
}

}  // namespace hmatrix
