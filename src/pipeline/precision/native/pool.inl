// Pooling over windows given by their bounds: maximum, mean and adaptive mean are the same loop.

// Ask for what is read 16 KiB later: processors that foresee addresses stop doing so at the end of a page, and a row of
// an image is often no longer than that. An address behind the end does no harm.
inline void prefetch_behind(const void* p) {
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(p) + (16 << 10)));
}

// One vector of channels of one window. Of a NaN and a number a maximum may return either, so a NaN is looked for by
// itself, two values at a time, and put in afterwards.
template <bool average, int rows, int columns, class From>
Isa::Vector pool_vector(const From* p, std::int64_t n_rows, std::int64_t n_columns, std::int64_t line,
                        std::int64_t channels, std::int64_t n, float divisor) {
    using I = Isa;
    if constexpr (rows > 0) n_rows = rows, n_columns = columns;
    const auto load = [&](std::int64_t r, std::int64_t s) {
        const From* q = p + r * line + s * channels;
        // A mean over a whole map reads one place for long; only maxima of small windows outrun the processor's foresight.
        if (!average) prefetch_behind(q);
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
    if (average) return value / I::all(divisor > 0 ? divisor : static_cast<float>(n_rows * n_columns));
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
        auto value = pool_vector<average, rows, columns>(corner + c, n_rows, n_columns, line, channels, n, shape.divisor);
        if (shape.relu) value = I::max(I::zero(), value);
        saturated += store_results(value, y, at + c, n);
    }
    return saturated;
}

// Maxima of binary16 numbers without conversions. Bits in sign and magnitude order nonnegative numbers as integers do
// and negative numbers the other way round: among these the least is the maximum.
typedef std::int16_t Bits __attribute__((vector_size(4 * Isa::lanes)));
typedef std::uint16_t UnsignedBits __attribute__((vector_size(4 * Isa::lanes)));
constexpr std::int64_t bits_lanes = 2 * Isa::lanes;

template <class Vector>
Vector greater(Vector a, Vector b) {
    return a > b ? a : b;
}

// One window; what is left of the channels behind the last vector is done by one that ends there. Adds to `special`
// where an infinity or NaN is among the numbers: these have the greatest magnitudes of either sign.
template <int rows, int columns>
void pool_bits(const Pooling& shape, const Half* corner, std::int64_t n_rows, std::int64_t n_columns, Half* y,
               Bits& special) {
    const std::int64_t channels = shape.channels, line = shape.width * channels;
    if constexpr (rows > 0) n_rows = rows, n_columns = columns;
    for (std::int64_t c = 0; c < channels; c += bits_lanes) {
        if (c + bits_lanes > channels) c = channels - bits_lanes;
        Bits most, least;
        UnsignedBits largest;
        __builtin_memcpy(&most, corner + c, sizeof most);
        least = most, largest = reinterpret_cast<UnsignedBits>(most);
#pragma GCC unroll 2
        for (std::int64_t r = 0; r < n_rows; ++r)
#pragma GCC unroll 2
            for (std::int64_t s = 0; s < n_columns; ++s) {
                Bits v;
                __builtin_memcpy(&v, corner + c + r * line + s * channels, sizeof v);
                prefetch_behind(corner + c + r * line + s * channels);
                most = greater(most, v);
                least = v < least ? v : least;
                largest = greater(largest, reinterpret_cast<UnsignedBits>(v));
            }
        special |= (most >= 0x7c00) | reinterpret_cast<Bits>(largest >= 0xfc00);
        const Bits value = shape.relu ? greater(most, Bits{}) : most < 0 ? least : most;
        __builtin_memcpy(y + c, &value, sizeof value);
    }
}

// One row of windows; tells whether all of its numbers were finite. Only then are the results valid.
inline bool pool_row_of_bits(const Pooling& shape, const Half* rows, std::int64_t n_rows, Half* y) {
    Bits special{};
    for (std::int64_t j = 0; j < shape.out_width; ++j) {
        const std::int64_t left = shape.column_start[j], n_columns = shape.column_end[j] - left;
        const Half* corner = rows + left * shape.channels;
        Half* to = y + j * shape.channels;
        n_rows == 2 && n_columns == 2 ? pool_bits<2, 2>(shape, corner, 2, 2, to, special)
                                      : pool_bits<0, 0>(shape, corner, n_rows, n_columns, to, special);
    }
    bool finite = true;
    for (std::int64_t i = 0; i < bits_lanes; ++i) finite &= special[i] == 0;
    return finite;
}

template <bool average, class From>
std::int64_t pool_rows(const Pooling& shape, const From* x, Target y, Part part) {
    const std::int64_t channels = shape.channels;
    std::int64_t saturated = 0;
    for (std::int64_t line = part.begin; line < part.end; ++line) {
        const std::int64_t image = line / shape.out_height, i = line % shape.out_height;
        const std::int64_t top = shape.row_start[i], n_rows = shape.row_end[i] - top;
        const From* rows = x + (image * shape.height + top) * shape.width * channels;
        if constexpr (!average && sizeof(From) == sizeof(Half))
            if (y.half && shape.compares_bits(Isa::lanes) &&
                pool_row_of_bits(shape, rows, n_rows,
                                 static_cast<Half*>(y.data) + line * shape.out_width * channels))
                continue;
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
