// Functions and products of activations, number by number.

inline std::int64_t map(Source x, Source factor, Target y, Activation activation, Part part) {
    std::int64_t saturated = 0;
    for (std::int64_t at = part.begin; at < part.end; at += Isa::lanes) {
        const std::int64_t n = part.end - at;
        auto v = load_source(x, at, n);
        if (factor.data != nullptr) v = v * load_source(factor, at, n);
        if (activation.function != Function::none) v = activated(v, activation);
        saturated += store_results(v, y, at, n);
    }
    return saturated;
}

inline std::int64_t scale(Source x, Source factors, Target y, std::int64_t n, std::int64_t rows_per_image, Part part) {
    std::int64_t saturated = 0;
    for (std::int64_t row = part.begin; row < part.end; ++row)
        for (std::int64_t c = 0; c < n; c += Isa::lanes) {
            const std::ptrdiff_t at = row * n + c;
            const auto v = load_source(x, at, n - c) * load_source(factors, row / rows_per_image * n + c, n - c);
            saturated += store_results(v, y, at, n - c);
        }
    return saturated;
}

inline std::int64_t store_all(const float* x, Target y, Part part) {
    std::int64_t saturated = 0;
    for (std::int64_t at = part.begin; at < part.end; at += Isa::lanes) {
        const std::int64_t n = part.end - at;
        saturated += store_results(n >= Isa::lanes ? Isa::load(x + at) : Isa::load(x + at, n), y, at, n);
    }
    return saturated;
}
