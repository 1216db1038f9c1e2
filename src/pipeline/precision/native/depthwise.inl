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

// A 3 x 3 window slides along a row of outputs with stride 1, over rows [first, last) of the window that lie in the
// image. Every input is loaded, and widened, once a row; beyond the ends of the row there are zeros.
template <int first, int last, class Weight, class From>
std::int64_t slide(const Weight* w, const Convolution& shape, const From* rows, std::int64_t channel,
                   const Corner& corner) {
    using I = Isa;
    const std::int64_t channels = shape.channels, line = shape.dilation_height * shape.width * channels;
    I::Vector weight[3][3], window[3][3];
    const auto load = [&](int j, std::int64_t column) {
        const bool inside = column >= 0 && column < shape.width;
#pragma GCC unroll 3
        for (int i = first; i < last; ++i)
            window[i][j] = inside ? I::load(rows + i * line + column * channels + channel) : I::zero();
    };
#pragma GCC unroll 3
    for (int i = first; i < last; ++i)
#pragma GCC unroll 3
        for (int j = 0; j < 3; ++j) weight[i][j] = I::load(w + (i * 3 + j) * channels + channel);
    load(0, -shape.pad_width);
    load(1, 1 - shape.pad_width);
    std::int64_t saturated = 0;
#pragma GCC unroll 3
    for (std::int64_t column = 0; column < shape.out_width; ++column) {
        load(2, column - shape.pad_width + 2);
        I::Vector sum[3];
#pragma GCC unroll 3
        for (int i = first; i < last; ++i) {
            sum[i] = I::fma(window[i][2], weight[i][2],
                            I::fma(window[i][1], weight[i][1], window[i][0] * weight[i][0]));
            window[i][0] = window[i][1];
            window[i][1] = window[i][2];
        }
        auto total = sum[first];
#pragma GCC unroll 2
        for (int i = first + 1; i < last; ++i) total = total + sum[i];
        saturated += finish(total, corner, corner.at + column * channels + channel, channel);
    }
    return saturated;
}

// One row of outputs.
template <class Weight, class From>
std::int64_t depthwise_row(const Weight* w, const Convolution& shape, const From* image, std::int64_t row,
                           const Corner& corner) {
    const std::int64_t channels = shape.channels, top = row * shape.stride_height - shape.pad_height;
    const std::int64_t middle = top + shape.dilation_height, below = middle + shape.dilation_height;
    // Which rows of a 3 x 3 window lie in the image: all, all but the first, or all but the last.
    const bool upper = top >= 0, lower = below < shape.height;
    const bool slides = shape.kernel_height == 3 && shape.kernel_width == 3 && shape.stride_width == 1 &&
                        shape.dilation_width == 1 && middle >= 0 && middle < shape.height && (upper || lower);
    const From* rows = image + top * shape.width * channels;
    std::int64_t saturated = 0;
    for (std::int64_t c = 0; c < channels; c += Isa::lanes) {
        if (slides && c + Isa::lanes <= channels)
            saturated += !upper  ? slide<1, 3>(w, shape, rows, c, corner)
                         : lower ? slide<0, 3>(w, shape, rows, c, corner)
                                 : slide<0, 2>(w, shape, rows, c, corner);
        else
            for (std::int64_t column = 0; column < shape.out_width; ++column)
                saturated += finish(depthwise_sum(w, shape, image, row, column, c), corner,
                                    corner.at + column * channels + c, c);
    }
    return saturated;
}

template <class Weight, class From>
std::int64_t depthwise_from(const Weight* w, const Epilogue& epilogue, const Convolution& shape, const From* x,
                            Target y, Part part) {
    std::int64_t saturated = 0;
    for (std::int64_t line = part.begin; line < part.end; ++line) {
        const From* image = x + line / shape.out_height * shape.height * shape.width * shape.channels;
        const Corner corner{y, static_cast<std::ptrdiff_t>(line * shape.out_width * shape.channels),
                            static_cast<std::ptrdiff_t>(shape.channels), shape.channels, epilogue};
        saturated += depthwise_row(w, shape, image, line % shape.out_height, corner);
    }
    return saturated;
}

template <class Weight>
std::int64_t depthwise(const Weight* w, const Epilogue& epilogue, const Convolution& shape, Source x, Target y,
                       Part part) {
    return x.half ? depthwise_from(w, epilogue, shape, static_cast<const Half*>(x.data), y, part)
                  : depthwise_from(w, epilogue, shape, static_cast<const float*>(x.data), y, part);
}
