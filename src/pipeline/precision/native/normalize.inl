// Rows brought to mean 0 and variance 1, and rows of probabilities.

// The sum of f over a row, in pieces of binary32 that are added in binary64: rows may be whole images.
template <class F>
double sum_of(Source x, std::int64_t row, std::int64_t n, const F& f) {
    using I = Isa;
    constexpr std::int64_t piece = 64 * I::lanes;
    double total = 0;
    for (std::int64_t start = 0; start < n; start += piece) {
        const std::int64_t end = smaller(start + piece, n);
        auto sum = I::zero();
        std::int64_t c = start;
        for (; c + I::lanes <= end; c += I::lanes) sum = sum + f(load_source(x, row * n + c, I::lanes));
        float lanes[I::lanes];
        I::store(lanes, sum);
        for (int i = 0; i < I::lanes; ++i) total += static_cast<double>(lanes[i]);
        if (c < end) {  // the other lanes are zeros, of which f need not be zero
            I::store(lanes, f(load_source(x, row * n + c, end - c)));
            for (std::int64_t i = 0; i < end - c; ++i) total += static_cast<double>(lanes[i]);
        }
    }
    return total;
}

inline std::int64_t normalize(Source x, Target y, const float* weight, const float* bias, std::int64_t n, float epsilon,
                              Part part) {
    using I = Isa;
    std::int64_t saturated = 0;
    for (std::int64_t row = part.begin; row < part.end; ++row) {
        const double count = static_cast<double>(n);
        const auto mean = I::all(static_cast<float>(sum_of(x, row, n, [](I::Vector v) { return v; }) / count));
        const double variance = sum_of(x, row, n, [&](I::Vector v) { return (v - mean) * (v - mean); }) / count;
        const auto factor = I::all(static_cast<float>(1.0 / __builtin_sqrt(variance + static_cast<double>(epsilon))));
        for (std::int64_t c = 0; c < n; c += I::lanes) {
            const std::int64_t left = n - c;
            const Source own{weight, false}, shift{bias, false};
            const auto v = (load_source(x, row * n + c, left) - mean) * factor;
            saturated += store_results(I::fma(v, load_source(own, c, left), load_source(shift, c, left)), y, row * n + c,
                                       left);
        }
    }
    return saturated;
}

inline std::int64_t softmax(Source x, Target y, std::int64_t n, Part part, float* numbers) {
    using I = Isa;
    std::int64_t saturated = 0;
    for (std::int64_t row = part.begin; row < part.end; ++row) {
        widen(x, row * n, numbers, n);
        auto most = I::all(-__builtin_inff());
        std::int64_t c = 0;
        for (; c + I::lanes <= n; c += I::lanes) most = I::max(most, I::load(numbers + c));
        float lanes[I::lanes];
        I::store(lanes, most);
        float largest = lanes[0];
        for (int i = 1; i < I::lanes; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
        for (; c < n; ++c) largest = numbers[c] > largest ? numbers[c] : largest;
        const auto top = I::all(largest);
        auto sum = I::zero();
        for (c = 0; c + I::lanes <= n; c += I::lanes) {
            const auto e = exponential(I::load(numbers + c) - top);
            I::store(numbers + c, e);
            sum = sum + e;
        }
        I::store(lanes, sum);
        float total = 0;
        for (int i = 0; i < I::lanes; ++i) total += lanes[i];
        if (c < n) {
            I::store(lanes, exponential(I::load(numbers + c, n - c) - top));
            for (std::int64_t i = 0; c < n; ++c, ++i) total += numbers[c] = lanes[i];
        }
        const auto inverse = I::all(1.0f / total);
        for (c = 0; c < n; c += I::lanes) {
            const Source own{numbers, false};
            saturated += store_results(load_source(own, c, n - c) * inverse, y, row * n + c, n - c);
        }
    }
    return saturated;
}
