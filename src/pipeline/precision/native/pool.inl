// Pooling over windows given by their bounds: maximum, mean and adaptive mean are the same loop.

// One vector of channels of one window. Of a NaN and a number a maximum may return either, so a NaN is looked for by
// itself, two values at a time, and put in afterwards.
template <bool average, int rows, int columns, class From>
Isa::Vector pool_vector(const From* p, std::int64_t n_rows, std::int64_t n_columns, std::int64_t line,
                        std::int64_t channels, std::int64_t n) {
    using I = Isa;
    if constexpr (rows > 0) n_rows = rows, n_columns = columns;
    const auto load = [&](std::int64_t r, std::int64_t s) {
        const From* q = p + r * line + s * channels;
        return n >= I::lanes ? I::load(q) : I::load(q, n);
    };
    auto value = average ? I::zero() : I::all(-__builtin_inff());
    bool any_nan = false;
#pragma GCC unroll 2
    for (std::int64_t r = 0; r < n_rows; ++r)
#pragma GCC unroll 2
        for (std::int64_t s = 0; s < n_columns; ++s) {
            const auto v = load(r, s);
            if (!average) any_nan |= I::any_unordered(v, value);
            value = average ? value + v : I::max(v, value);
        }
    if (average) return value / I::all(static_cast<float>(n_rows * n_columns));
    if (__builtin_expect(any_nan, 0))
        for (std::int64_t r = 0; r < n_rows; ++r)
            for (std::int64_t s = 0; s < n_columns; ++s) value = I::where_nan(load(r, s), value);
    return value;
}

// One window over all channels. Constant `rows` and `columns` let the compiler unroll; 0 means what the arguments say.
template <bool average, int rows, int columns, class From>
std::int64_t pool_window(const Pooling& shape, const From* corner, std::int64_t n_rows, std::int64_t n_columns,
                         Target y, std::ptrdiff_t at) {
    using I = Isa;
    const std::int64_t channels = shape.channels, line = shape.width * channels;
    std::int64_t saturated = 0;
    for (std::int64_t c = 0; c < channels; c += I::lanes) {
        const std::int64_t n = channels - c;
        auto value = pool_vector<average, rows, columns>(corner + c, n_rows, n_columns, line, channels, n);
        if (shape.relu) value = I::max(I::zero(), value);
        saturated += store_results(value, y, at + c, n);
    }
    return saturated;
}

template <bool average, class From>
std::int64_t pool_rows(const Pooling& shape, const From* x, Target y, Part part) {
    const std::int64_t channels = shape.channels;
    std::int64_t saturated = 0;
    for (std::int64_t line = part.begin; line < part.end; ++line) {
        const std::int64_t image = line / shape.out_height, i = line % shape.out_height;
        const std::int64_t top = shape.row_start[i], n_rows = shape.row_end[i] - top;
        const From* rows = x + (image * shape.height + top) * shape.width * channels;
        for (std::int64_t j = 0; j < shape.out_width; ++j) {
            const std::int64_t left = shape.column_start[j], n_columns = shape.column_end[j] - left;
            const From* corner = rows + left * channels;
            const std::ptrdiff_t at = (line * shape.out_width + j) * channels;
            saturated += n_rows == 2 && n_columns == 2
                             ? pool_window<average, 2, 2>(shape, corner, 2, 2, y, at)
                             : pool_window<average, 0, 0>(shape, corner, n_rows, n_columns, y, at);
        }
    }
    return saturated;
}

template <class From>
std::int64_t pool_as(const Pooling& shape, const From* x, Target y, Part part) {
    return shape.average ? pool_rows<true>(shape, x, y, part) : pool_rows<false>(shape, x, y, part);
}

inline std::int64_t pool(const Pooling& shape, Source x, Target y, Part part) {
    return x.half ? pool_as(shape, static_cast<const Half*>(x.data), y, part)
                  : pool_as(shape, static_cast<const float*>(x.data), y, part);
}
