#include "roofs.hpp"

#include <algorithm>

#include "buffer.hpp"
#include "clock.hpp"

namespace parsimony {
namespace {

// The best rate of `work`, which returns how much it did, over at least three runs.
template <class Work>
double best_rate(double seconds, Work work) {
    double best = 0.0;
    const double end = now() + seconds;
    for (int run = 0; run < 3 || now() < end; ++run) {
        const double start = now();
        const double done = work(run);
        best = std::max(best, done / (now() - start));
    }
    return best;
}

}  // namespace

double measure_fma(const Routines& table, double seconds) {
    return best_rate(seconds, [&](int) { return table.peak_fma(100000); });
}

double measure_pairs(const Routines& table, double seconds) {
    if (table.peak_pairs == nullptr) return 0.0;
    return best_rate(seconds, [&](int) { return table.peak_pairs(100000); });
}

double measure_conversion(const Routines& table, double seconds) {
    constexpr std::int64_t n = 4096;  // 8 KiB: the first level's reads are not what is measured
    const Buffer<Half> numbers(n);
    return best_rate(seconds, [&](int) {
        double done = 0.0;
        for (int i = 0; i < 50; ++i) done += table.peak_convert(numbers.data(), n);
        return done;
    });
}

double measure_read(const Routines& table, const float* data, std::int64_t n, double seconds) {
    // What fits no cache is read in chunks of 64 MiB, each once per round. Smaller ones would not do: a last level that
    // protects old lines keeps some of them, and the best of the runs would be one of those.
    const std::int64_t chunk = std::min<std::int64_t>(n, std::int64_t{16} << 20);
    const std::int64_t n_chunks = n / chunk;
    const int repeats = static_cast<int>(std::max<std::int64_t>(1, (std::int64_t{1} << 20) / n));
    return best_rate(seconds, [&](int run) {
        const int kernel = static_cast<int>(run / n_chunks) % n_read_kernels;
        double done = 0.0;
        for (int i = 0; i < repeats; ++i) done += table.peak_read(data + run % n_chunks * chunk, chunk, kernel);
        return done;
    });
}

}  // namespace parsimony
