#include <cmath>

#include "tree.hpp"

namespace hmatrix {

namespace {

// A box whose diameter is so many times its distance is sampled whole: where sizes differ much, a few of its points
// may be far nearer than the others, and a sample would miss them.
constexpr double kClose = 2;
constexpr double kMostWhole = 4;  // times the rows wanted: more are close where no admissibility keeps boxes apart
constexpr size_t kTidied = 1 << 16;  // points, of which most come again and again
constexpr int kFamilies = 4;      // of points that stand for others: a check wants others than the sample

double diameter(const Tree& tree, int b) {
    const size_t d = tree.lower.shape(1);
    double sum = 0;
    for (size_t c = 0; c < d; ++c) {
        const double width = std::max(tree.upper.data()[b * d + c] - tree.lower.data()[b * d + c], 0.0);
        sum += width * width;
    }
    return std::sqrt(sum);
}

int middle(int low, int high) { return low + (high - low + 1) / 2; }

uint32_t scramble(uint32_t x) {
    x ^= x >> 16, x *= 0x7feb352du;
    x ^= x >> 15, x *= 0x846ca68bu;
    return x ^ x >> 16;
}

// The point that stands for a range of them: that of one of its halves, by chance. So a range has one for each family,
// whoever asks, and what stands for a range stands for parts of it too. Chance is the top bit of a product, and no branch
// hangs on it: this runs for every sampled row of a box.
int representative(int low, int high, uint32_t family) {
    while (high - low > 1) {
        const uint32_t bounds = static_cast<uint32_t>(low) * 0x9e3779b9u ^ (static_cast<uint32_t>(high) + family);
        const int upper = static_cast<int>((bounds ^ bounds >> 15) * 0x846ca68bu >> 31), half = middle(low, high);
        low = upper ? half : low;
        high = upper ? high : half;
    }
    return low;
}

// Halves a range so often that there are `count` parts, a power of two and no more than points, and adds what stands
// for each.
void add_parts(int low, int high, int count, uint32_t family, FarSample& out) {
    if (count > 1) {
        const int half = middle(low, high);
        add_parts(low, half, count / 2, family, out);
        add_parts(half, high, count / 2, family, out);
        return;
    }
    out.points.push_back(representative(low, high, family));
    out.weights.push_back(static_cast<double>(high - low));
}

// The power of two that is nearest in ratio, but at most `largest`.
int near_power(int x, int largest) {
    int power = 1;
    while (2 * power <= largest && 2.0 * power * power <= static_cast<double>(x) * x) power *= 2;
    return power;
}

}  // namespace

double FarSampler::distance(int box, int c) const {
    const size_t d = own_.lower.shape(1);
    const double *low = own_.lower.data() + box * d, *high = own_.upper.data() + box * d;
    const double *other_low = other_.lower.data() + c * d, *other_high = other_.upper.data() + c * d;
    double sum = 0;
    for (size_t i = 0; i < d; ++i) {
        const double gap = std::max({low[i] - other_high[i], other_low[i] - high[i], 0.0});
        sum += gap * gap;
    }
    return std::sqrt(sum);
}

void FarSampler::enter(int box, int c) {
    if (other_.size(c) == 0) return;
    const double apart = distance(box, c);
    if (!other_.leaf(c) && diameter(other_, c) > std::max(apart, size_)) {
        const int first = other_.first_child.data()[c];
        for (int child = first; child < first + other_.arity; ++child) enter(box, child);
        return;
    }
    entries_.push_back({c, apart, 0, other_.leaf(c) && diameter(other_, c) > kClose * apart});
}

bool FarSampler::left_out(int c, int parts) {
    if (other_.start.data()[c] >= first_ && other_.stop.data()[c] <= last_) return true;
    return !collected_.insert(static_cast<uint64_t>(c) << 32 | static_cast<uint32_t>(parts)).second;
}

void FarSampler::sample(int box, double rows, int round, FarSample& out) {
    out.points.clear();
    out.weights.clear();
    out.complete = true;
    entries_.clear();
    size_ = diameter(own_, box);
    for (int b = box; b >= 0; b = own_.parent.data()[b])
        for (int i = 0; i < far_.size(b); ++i) enter(box, far_.begin(b)[i]);
    if (entries_.empty()) return;

    double nearest = INFINITY, total = 0, whole = 0;
    for (const Entry& e : entries_) {
        if (e.distance > 0) nearest = std::min(nearest, e.distance);
        if (e.close) whole += other_.size(e.box);
    }
    const double unit = std::max(size_, std::isfinite(nearest) ? nearest : 1.0);
    for (Entry& e : entries_) {
        const double relative = 1 + e.distance / unit;
        total += e.share = 1 / (relative * relative);
    }
    const uint32_t family = scramble(static_cast<uint32_t>(round % kFamilies));
    const bool take_whole = whole <= kMostWhole * rows;
    int owed = 0;  // what powers of two have taken from the boxes before, so that all together get about what is wanted
    for (const Entry& e : entries_) {
        const int first = other_.start.data()[e.box], size = other_.size(e.box);
        const int even = std::max(2, static_cast<int>(rows * e.share / total + 0.5));
        if (size <= even || (e.close && take_whole)) {
            if (collecting_ && left_out(e.box, size)) continue;
            for (int i = first; i < first + size; ++i) out.points.push_back(i);
            out.weights.insert(out.weights.end(), size, 1.0);
            continue;
        }
        const int parts = near_power(std::max(2, even + std::clamp(owed, -even / 3, even / 3)), size);
        owed += even - parts;
        if (parts < size) out.complete = false;
        if (!collecting_ || !left_out(e.box, parts)) add_parts(first, first + size, parts, family, out);
    }
}

nb::tuple sample_far(const Tree& own, const Tree& other, const Lists& far, In<int> boxes, double rows, int round) {
    FarSampler sampler(own, other, far);
    FarSample sample;
    std::vector<int64_t> start{0};
    std::vector<int> points;
    std::vector<double> weights;
    std::vector<uint8_t> complete;
    for (size_t i = 0; i < boxes.shape(0); ++i) {
        sampler.sample(boxes.data()[i], rows, round, sample);
        points.insert(points.end(), sample.points.begin(), sample.points.end());
        weights.insert(weights.end(), sample.weights.begin(), sample.weights.end());
        complete.push_back(sample.complete);
        start.push_back(static_cast<int64_t>(points.size()));
    }
    return nb::make_tuple(give(std::move(start)), give(std::move(points)), give(std::move(weights)),
                          give(std::move(complete)));
}

Out<int> sampled_outside(const Tree& own, const Tree& other, const Lists& far, In<int> boxes, double rows, int round,
                         int first, int last) {
    FarSampler sampler(own, other, far);
    sampler.collect_outside(first, last);
    FarSample sample;
    std::vector<int> found;
    const auto tidy = [&found] {
        std::sort(found.begin(), found.end());
        found.erase(std::unique(found.begin(), found.end()), found.end());
    };
    size_t enough = kTidied;
    for (size_t i = 0; i < boxes.shape(0); ++i) {
        sampler.sample(boxes.data()[i], rows, round, sample);
        for (int point : sample.points)
            if (point < first || point >= last) found.push_back(point);
        if (found.size() < enough) continue;
        tidy();
        enough = std::max(kTidied, 2 * found.size());
    }
    tidy();
    return give(std::move(found));
}

}  // namespace hmatrix
