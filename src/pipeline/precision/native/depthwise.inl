// Depthwise convolution: each channel by itself, so vectors run over channels and nothing is summed across them.

// One vector of channels of one output, any geometry.
template <class Weight, class From>
Isa::Vector depthwise_sum(const Weight* w, const Convolution& shape, const From* image, std::int64_t row,
                          std::int64_t column, std::int64_t channel) {
    using I = Isa;
    const std::int64_t n = shape.channels - channel;
    auto sum = I::zero();
    for (std::int64_t i = 0; i < shape.kernel_height; ++i) {
        const std::int64_t y = row * shape.stride_height - shape.pad_height + i * shape.dilation_height;
        if (y < 0 || y >= shape.height) continue;
        for (std::int64_t j = 0; j < shape.kernel_width; ++j) {
            const std::int64_t x = column * shape.stride_width - shape.pad_width + j * shape.dilation_width;
            if (x < 0 || x >= shape.width) continue;
            const From* p = image + (y * shape.width + x) * shape.channels + channel;
            const Weight* q = w + (i * shape.kernel_width + j) * shape.channels + channel;
            sum = n >= I::lanes ? I::fma(I::load(p), I::load(q), sum) : I::fma(I::load(p, n), I::load(q, n), sum);
        }
    }
    return sum;
}

// Windows that move along a row: outputs next to each other share inputs, each of which is loaded, and widened, once for
// all of a block. Seven outputs divide the widths that networks have, and with two vectors of channels fill a cache line
// and the registers.
constexpr int block_columns = depthwise_block;
constexpr int block_vectors = Isa::lanes >= 16 ? 2 : 1;
constexpr int block_lines = Isa::lanes >= 16 ? 2 : 1;  // of one vector each

// Sums of `lines` rows of `columns` outputs of `vectors` vectors of channels, from rows [first, last) of the image's that
// their windows reach: the others lie outside the image. `x` is at the window's first row and the block's first column,
// which is number `column`; where the block reaches beyond the image (`checked`), there are zeros. Vectors have all lanes
// (`whole`), or the one has `n`.
template <int kernel, int stride, bool checked, bool whole, int lines, int columns, int vectors, class Weight, class From>
inline __attribute__((always_inline)) void sum_block(const Weight* w, const Convolution& shape, const From* x,
                                                     std::int64_t column, int first, int last, std::int64_t n,
                                                     Isa::Vector (&sum)[lines][columns][vectors]) {
    using I = Isa;
    static_assert((lines == 1 && whole) || vectors == 1);
    const auto load = [n](const auto* p) __attribute__((always_inline)) { return whole ? I::load(p) : I::load(p, n); };
    const std::int64_t channels = shape.channels, line = shape.dilation_height * shape.width * channels;
#pragma GCC unroll 2
    for (int l = 0; l < lines; ++l)
#pragma GCC unroll 8
        for (int b = 0; b < columns; ++b)
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) sum[l][b][v] = I::zero();
    // One row of the image, for the lines that it belongs to.
    const auto pass = [&](int i, auto upper, auto lower) __attribute__((always_inline)) {
        constexpr int from = decltype(upper)::value ? 0 : 1, to = decltype(lower)::value ? lines : 1;
        I::Vector weight[lines][kernel][vectors];
#pragma GCC unroll 2
        for (int l = from; l < to; ++l)
#pragma GCC unroll 5
            for (int j = 0; j < kernel; ++j)
#pragma GCC unroll 2
                for (int v = 0; v < vectors; ++v)
                    weight[l][j][v] = load(w + ((i - l * stride) * kernel + j) * channels + v * I::lanes);
        const From* p = x + i * line;
#pragma GCC unroll 24
        for (int q = 0; q < (columns - 1) * stride + kernel; ++q) {
            if (checked && (column + q < 0 || column + q >= shape.width)) continue;
#pragma GCC unroll 2
            for (int v = 0; v < vectors; ++v) {
                const auto number = load(p + q * channels + v * I::lanes);
#pragma GCC unroll 2
                for (int l = from; l < to; ++l)
#pragma GCC unroll 8
                    for (int b = 0; b < columns; ++b)
                        if (q >= b * stride && q < b * stride + kernel)
                            sum[l][b][v] = I::fma(number, weight[l][q - b * stride][v], sum[l][b][v]);
            }
        }
    };
    constexpr std::true_type yes{};
    constexpr std::false_type no{};
    int i = first;
    if constexpr (lines == 1) {
        for (; i < last; ++i) pass(i, yes, yes);
    } else {
        for (; i < last && i < stride; ++i) pass(i, yes, no);
        for (; i < last && i < kernel; ++i) pass(i, yes, yes);
        for (; i < last; ++i) pass(i, no, yes);
    }
}

// How a block's sums are stored: `quick` if they are only cut off and become binary16.
struct Block {
    const Corner& corner;
    const Cut& cut;
    std::ptrdiff_t line;  // from one row of outputs to the next
    bool quick;
};

// Results of a block that memory holds, number `at` first, of channels from `channel` on: one by one. The first `done`
// columns belong to the block before: their residual may be overwritten, and their saturated results are counted.
template <int lines, int columns, int vectors>
__attribute__((noinline)) std::int64_t finish_slowly(const float* sums, const Block& block, std::ptrdiff_t at,
                                                     std::int64_t channel, std::int64_t done) {
    std::int64_t saturated = 0;
    for (int l = 0; l < lines; ++l)
        for (int b = 0; b < columns; ++b)
            for (int v = 0; v < vectors; ++v, sums += Isa::lanes)
                if (b >= done)
                    saturated += finish(Isa::load(sums), block.corner,
                                        at + l * block.line + b * block.corner.stride + v * Isa::lanes,
                                        channel + v * Isa::lanes);
    return saturated;
}

// No result is stored before all are known to fit.
template <bool whole, int lines, int columns, int vectors>
inline __attribute__((always_inline)) std::int64_t finish_block(const Isa::Vector (&sum)[lines][columns][vectors],
                                                                const Block& block, std::ptrdiff_t at,
                                                                std::int64_t channel, std::int64_t done) {
    using I = Isa;
    const auto each = [&](const auto& work) __attribute__((always_inline)) {
#pragma GCC unroll 2
        for (int l = 0; l < lines; ++l)
#pragma GCC unroll 8
            for (int b = 0; b < columns; ++b)
#pragma GCC unroll 2
                for (int v = 0; v < vectors; ++v) work(l, b, v);
    };
    bool large = !block.quick;
    I::Vector y[lines][columns][vectors];
    if (block.quick) {
        const Epilogue& e = block.corner.epilogue;
        I::Vector scale[vectors], bias[vectors];
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
            scale[v] = I::load(e.scale + channel + v * I::lanes);
            bias[v] = I::load(e.bias + channel + v * I::lanes);
        }
        const auto low = I::all(block.cut.low), high = I::all(block.cut.high);
        each([&](int l, int b, int v) __attribute__((always_inline)) {
            y[l][b][v] = I::fma(sum[l][b][v], scale[v], bias[v]);
        });
        if (block.cut.swish)
            each([&](int l, int b, int v) __attribute__((always_inline)) { y[l][b][v] = hard_swish(y[l][b][v]); });
        else
            each([&](int l, int b, int v) __attribute__((always_inline)) {
                y[l][b][v] = I::min(high, I::max(low, y[l][b][v]));
            });
        if (!block.cut.fits_half()) {
            auto largest = I::zero();  // which a NaN leaves as it is
            each([&](int l, int b, int v) __attribute__((always_inline)) {
                largest = I::max(I::max(I::zero() - y[l][b][v], y[l][b][v]), largest);
            });
            large = I::any_at_least(largest, half_overflow);
        }
    }
    if (__builtin_expect(large, 0)) {
        float sums[lines * columns * vectors * I::lanes];
        each([&](int l, int b, int v) __attribute__((always_inline)) {
            I::store(sums + ((l * columns + b) * vectors + v) * I::lanes, sum[l][b][v]);
        });
        return finish_slowly<lines, columns, vectors>(sums, block, at, channel, done);
    }
    auto* to = static_cast<Half*>(block.corner.y.data) + at;
    each([&](int l, int b, int v) __attribute__((always_inline)) {
        Half* place = to + l * block.line + b * block.corner.stride + v * I::lanes;
        whole ? I::store(place, y[l][b][v]) : I::store(place, y[l][b][v], block.corner.n - channel);
    });
    return 0;
}

// `lines` rows of outputs for some vectors of channels, from number `channel` on: `whole` ones, or one of what is left.
// The last block of a row ends where the row does, and computes some outputs of the block before again.
template <int kernel, int stride, int lines, int vectors, bool whole, class Weight, class From>
std::int64_t slide(const Weight* w, const Convolution& shape, const From* rows, int first, int last,
                   std::int64_t channel, const Corner& corner, const Cut& cut) {
    const bool quick = cut.only && corner.y.half && corner.epilogue.residual.data == nullptr;
    const Block block{corner, cut, static_cast<std::ptrdiff_t>(shape.out_width * shape.channels), quick};
    const Weight* own = w + channel;
    const std::int64_t n = shape.channels - channel;
    std::int64_t saturated = 0;
    const auto sum_and_finish = [&](auto columns, std::int64_t column, std::int64_t done) __attribute__((always_inline)) {
        constexpr int width = decltype(columns)::value;
        const std::int64_t start = column * stride - shape.pad_width;
        const From* x = rows + start * shape.channels + channel;
        const bool inside = start >= 0 && start + (width - 1) * stride + kernel <= shape.width;
        Isa::Vector sum[lines][width][vectors];
        if (width > 1 && inside)
            sum_block<kernel, stride, (width == 1), whole>(own, shape, x, start, first, last, n, sum);
        else
            sum_block<kernel, stride, true, whole>(own, shape, x, start, first, last, n, sum);
        saturated += finish_block<whole>(sum, block, corner.at + column * shape.channels + channel, channel, done);
    };
    if (shape.out_width >= block_columns)
        for (std::int64_t done = 0; done < shape.out_width;) {
            const std::int64_t last_column = shape.out_width - block_columns, column = done < last_column ? done : last_column;
            sum_and_finish(std::integral_constant<int, block_columns>(), column, done - column);
            done = column + block_columns;
        }
    else
        for (std::int64_t column = 0; column < shape.out_width; ++column)
            sum_and_finish(std::integral_constant<int, 1>(), column, 0);
    return saturated;
}

template <class Weight, class From>
using Slide = std::int64_t (*)(const Weight*, const Convolution&, const From*, int, int, std::int64_t, const Corner&,
                               const Cut&);

template <int lines, int vectors, bool whole, class Weight, class From>
Slide<Weight, From> slide_of(const Convolution& shape) {
    if (shape.kernel_height == 1) return &slide<1, 1, lines, vectors, whole, Weight, From>;
    if (shape.kernel_height == 3)
        return shape.stride_width == 1 ? &slide<3, 1, lines, vectors, whole, Weight, From>
                                       : &slide<3, 2, lines, vectors, whole, Weight, From>;
    return shape.stride_width == 1 ? &slide<5, 1, lines, vectors, whole, Weight, From>
                                   : &slide<5, 2, lines, vectors, whole, Weight, From>;
}

// `lines` rows of outputs, one or as many as a block has, from number `row` on.
template <int lines, class Weight, class From>
std::int64_t depthwise_rows(const Weight* w, const Convolution& shape, const From* image, std::int64_t row,
                            const Corner& corner) {
    const std::int64_t channels = shape.channels, top = row * shape.stride_height - shape.pad_height;
    std::int64_t saturated = 0, c = 0;
    if (slides(shape)) {
        // Which rows of the windows lie in the image.
        int first = 0, last = static_cast<int>(shape.kernel_height + (lines - 1) * shape.stride_height);
        while (first < last && top + first * shape.dilation_height < 0) ++first;
        while (last > first && top + (last - 1) * shape.dilation_height >= shape.height) --last;
        const From* rows = image + top * shape.width * channels;
        const Cut cut = cut_of(corner.epilogue);
        constexpr int vectors = lines == 1 ? block_vectors : 1, wide = vectors * Isa::lanes;
        for (; c + wide <= channels; c += wide)
            saturated += slide_of<lines, vectors, true, Weight, From>(shape)(w, shape, rows, first, last, c, corner, cut);
        for (; c + Isa::lanes <= channels; c += Isa::lanes)
            saturated += slide_of<lines, 1, true, Weight, From>(shape)(w, shape, rows, first, last, c, corner, cut);
        if constexpr (Isa::masks)
            for (; c < channels; c = channels)
                saturated += slide_of<lines, 1, false, Weight, From>(shape)(w, shape, rows, first, last, c, corner, cut);
    }
    for (; c < channels; c += Isa::lanes)
        for (int l = 0; l < lines; ++l)
            for (std::int64_t column = 0; column < shape.out_width; ++column)
                saturated += finish(depthwise_sum(w, shape, image, row + l, column, c), corner,
                                    corner.at + (l * shape.out_width + column) * channels + c, c);
    return saturated;
}

template <class Weight, class From>
std::int64_t depthwise_from(const Weight* w, const Epilogue& epilogue, const Convolution& shape, const From* x,
                            Target y, Part part) {
    const bool in_pairs = pairs_lines(shape, Isa::lanes);
    std::int64_t saturated = 0;
    for (std::int64_t line = part.begin, n; line < part.end; line += n) {
        const std::int64_t row = line % shape.out_height;
        n = in_pairs && row + 1 < shape.out_height && line + 1 < part.end ? block_lines : 1;
        const From* image = x + (line / shape.out_height * shape.height - shape.first_line) * shape.width * shape.channels;
        const Corner corner{y, static_cast<std::ptrdiff_t>((line - shape.first_out_line) * shape.out_width * shape.channels),
                            static_cast<std::ptrdiff_t>(shape.channels), shape.channels, epilogue};
        saturated += n == 1 ? depthwise_rows<1>(w, shape, image, row, corner)
                            : depthwise_rows<block_lines>(w, shape, image, row, corner);
    }
    return saturated;
}

template <class Weight>
std::int64_t depthwise(const Weight* w, const Epilogue& epilogue, const Convolution& shape, Source x, Target y,
                       Part part) {
    return x.half ? depthwise_from(w, epilogue, shape, static_cast<const Half*>(x.data), y, part)
                  : depthwise_from(w, epilogue, shape, static_cast<const float*>(x.data), y, part);
}
