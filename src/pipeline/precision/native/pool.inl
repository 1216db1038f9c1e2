// Pooling over windows given by their bounds: maximum, mean and adaptive mean are the same loop.

// One window over all channels. Constant `rows` and `columns` let the compiler unroll; 0 means what the arguments say.
template <bool average, int rows, int columns, class From, class To>
std::int64_t pool_window(const Pooling& shape, const From* corner, std::int64_t n_rows, std::int64_t n_columns, To* y) {
    using I = Isa;
    if constexpr (rows > 0) n_rows = rows, n_columns = columns;
    const std::int64_t channels = shape.channels, line = shape.width * channels;
    const auto count = I::all(static_cast<float>(n_rows * n_columns));
    std::int64_t saturated = 0;
    for (std::int64_t c = 0; c < channels; c += I::lanes) {
        const std::int64_t n = channels - c;
        auto value = average ? I::zero() : I::all(-__builtin_inff());
        for (std::int64_t r = 0; r < n_rows; ++r)
            for (std::int64_t s = 0; s < n_columns; ++s) {
                const From* p = corner + r * line + s * channels + c;
                const auto v = n >= I::lanes ? I::load(p) : I::load(p, n);
                value = average ? I::add(value, v) : I::where_nan(v, I::max(v, value));
            }
        if (average) value = I::divide(value, count);
        if (shape.relu) value = I::max(I::zero(), value);
        if constexpr (sizeof(To) == sizeof(Half) && sizeof(From) != sizeof(Half)) {
            const auto valid = I::lanes <= n ? I::lanes : n;
            float kept[I::lanes] = {};
            I::store(kept, value, valid);
            saturated += I::count_at_least(I::load(kept), half_overflow);
            value = I::max(I::all(-largest_half), I::min(I::all(largest_half), value));
        }
        n >= I::lanes ? I::store(y + c, value) : I::store(y + c, value, n);
    }
    return saturated;
}

template <bool average, class From, class To>
std::int64_t pool_images(const Pooling& shape, const From* x, To* y, std::int64_t images) {
    const std::int64_t channels = shape.channels;
    std::int64_t saturated = 0;
    for (std::int64_t image = 0; image < images; ++image, x += shape.height * shape.width * channels)
        for (std::int64_t i = 0; i < shape.out_height; ++i)
            for (std::int64_t j = 0; j < shape.out_width; ++j, y += channels) {
                const std::int64_t top = shape.row_start[i], n_rows = shape.row_end[i] - top;
                const std::int64_t left = shape.column_start[j], n_columns = shape.column_end[j] - left;
                const From* corner = x + (top * shape.width + left) * channels;
                saturated += n_rows == 2 && n_columns == 2
                                 ? pool_window<average, 2, 2>(shape, corner, 2, 2, y)
                                 : pool_window<average, 0, 0>(shape, corner, n_rows, n_columns, y);
            }
    return saturated;
}

template <class From, class To>
std::int64_t pool_as(const Pooling& shape, const void* x, void* y, std::int64_t images) {
    const auto* from = static_cast<const From*>(x);
    auto* to = static_cast<To*>(y);
    return shape.average ? pool_images<true>(shape, from, to, images) : pool_images<false>(shape, from, to, images);
}

inline std::int64_t pool(const Pooling& shape, Source x, Target y, std::int64_t images) {
    if (y.half)
        return x.half ? pool_as<Half, Half>(shape, x.data, y.data, images)
                      : pool_as<float, Half>(shape, x.data, y.data, images);
    return x.half ? pool_as<Half, float>(shape, x.data, y.data, images)
                  : pool_as<float, float>(shape, x.data, y.data, images);
}
