// Depthwise convolution: each channel by itself, so vectors run over channels and nothing is summed across them.

// One vector of channels along one row of outputs, 3 x 3 with stride 1: the window slides, so that every input is
// loaded (and widened) once a row.
template <class Weight, class From>
std::int64_t slide(const Weight* w, const Convolution& shape, const From* const (&rows)[3], std::int64_t channel,
                   const Corner& corner) {
    using I = Isa;
    const std::int64_t n = corner.n - channel, channels = shape.channels;
    I::Vector weight[3][3], window[3][3];
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i)
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j) {
            const Weight* p = w + (i * 3 + j) * channels + channel;
            weight[i][j] = n >= I::lanes ? I::load(p) : I::load(p, n);
        }
    const auto load = [&](int i, std::int64_t column) {
        if (rows[i] == nullptr || column < 0 || column >= shape.width) return I::zero();
        const From* p = rows[i] + column * channels + channel;
        return n >= I::lanes ? I::load(p) : I::load(p, n);
    };
#pragma GCC unroll 3
    for (int i = 0; i < 3; ++i)
#pragma GCC unroll 2
        for (int j = 0; j < 2; ++j) window[i][j] = load(i, j - shape.pad_width);
    std::int64_t saturated = 0;
    for (std::int64_t column = 0; column < shape.out_width; ++column) {
        I::Vector sum[3];
#pragma GCC unroll 3
        for (int i = 0; i < 3; ++i) {
            window[i][2] = load(i, column - shape.pad_width + 2);
            sum[i] = I::fma(window[i][2], weight[i][2],
                            I::fma(window[i][1], weight[i][1], window[i][0] * weight[i][0]));
            window[i][0] = window[i][1];
            window[i][1] = window[i][2];
        }
        saturated += finish(sum[0] + sum[1] + sum[2], corner, corner.at + column * channels + channel, channel);
    }
    return saturated;
}

// One row of outputs, any geometry.
template <class Weight, class From>
std::int64_t depthwise_row(const Weight* w, const Convolution& shape, const From* image, std::int64_t row,
                           const Corner& corner) {
    using I = Isa;
    const std::int64_t channels = shape.channels;
    std::int64_t saturated = 0;
    for (std::int64_t column = 0; column < shape.out_width; ++column)
        for (std::int64_t c = 0; c < channels; c += I::lanes) {
            const std::int64_t n = channels - c;
            auto sum = I::zero();
            for (std::int64_t i = 0; i < shape.kernel_height; ++i) {
                const std::int64_t y = row * shape.stride_height - shape.pad_height + i * shape.dilation_height;
                if (y < 0 || y >= shape.height) continue;
                for (std::int64_t j = 0; j < shape.kernel_width; ++j) {
                    const std::int64_t x = column * shape.stride_width - shape.pad_width + j * shape.dilation_width;
                    if (x < 0 || x >= shape.width) continue;
                    const From* p = image + (y * shape.width + x) * channels + c;
                    const Weight* q = w + (i * shape.kernel_width + j) * channels + c;
                    sum = n >= I::lanes ? I::fma(I::load(p), I::load(q), sum)
                                        : I::fma(I::load(p, n), I::load(q, n), sum);
                }
            }
            saturated += finish(sum, corner, corner.at + column * channels + c, c);
        }
    return saturated;
}

template <class Weight, class From>
std::int64_t depthwise_from(const Weight* w, const Epilogue& epilogue, const Convolution& shape, const From* x,
                            Target y, Part part) {
    const bool slides = shape.kernel_height == 3 && shape.kernel_width == 3 && shape.stride_width == 1 &&
                        shape.dilation_width == 1;
    const std::int64_t line_size = shape.width * shape.channels;
    std::int64_t saturated = 0;
    for (std::int64_t line = part.begin; line < part.end; ++line) {
        const From* image = x + line / shape.out_height * shape.height * line_size;
        const std::int64_t row = line % shape.out_height;
        const Corner corner{y, static_cast<std::ptrdiff_t>(line * shape.out_width * shape.channels),
                            static_cast<std::ptrdiff_t>(shape.channels), shape.channels, epilogue};
        if (!slides) {
            saturated += depthwise_row(w, shape, image, row, corner);
            continue;
        }
        const From* rows[3];
        for (int i = 0; i < 3; ++i) {
            const std::int64_t at = row * shape.stride_height - shape.pad_height + i * shape.dilation_height;
            rows[i] = at >= 0 && at < shape.height ? image + at * line_size : nullptr;
        }
        for (std::int64_t c = 0; c < shape.channels; c += Isa::lanes)
            saturated += slide(w, shape, rows, c, corner);
    }
    return saturated;
}

template <class Weight>
std::int64_t depthwise(const Weight* w, const Epilogue& epilogue, const Convolution& shape, Source x, Target y,
                       Part part) {
    return x.half ? depthwise_from(w, epilogue, shape, static_cast<const Half*>(x.data), y, part)
                  : depthwise_from(w, epilogue, shape, static_cast<const float*>(x.data), y, part);
}
