// Direct convolution, channels last, without an im2col matrix.
//
// Each image is copied once into a padded frame. A row of output pixels is then a row of equally spaced windows into
// the frame, and the taps of one kernel row, with their channels, are consecutive in memory: the register tile of the
// matrix product runs over them as it stands.

template <class Arithmetic>
void frame(const Convolution& shape, Source x, std::int64_t image, typename Arithmetic::Activation* to) {
    constexpr std::int64_t depth = Arithmetic::depth;
    const std::int64_t row = shape.width * shape.channels;
    const std::int64_t margin = shape.pad_width * shape.channels / depth;
    const std::int64_t padded = shape.padded_width() * shape.channels / depth;
    clear(to, shape.pad_height * padded);
    to += shape.pad_height * padded;
    for (std::int64_t i = 0; i < shape.height; ++i, to += padded) {
        clear(to, margin);
        const std::int64_t from = (image * shape.image_height + i * shape.every_row) * shape.image_width * shape.image_channels;
        if (shape.every_column > 1)
            for (std::int64_t j = 0; j < shape.width; ++j)
                Arithmetic::stage(x, from + j * shape.every_column * shape.channels, to + margin + j * shape.channels / depth,
                                  shape.channels);
        else if (shape.image_channels == shape.channels)
            Arithmetic::stage(x, from, to + margin, row);
        else  // each pixel's last pair is filled up
            if constexpr (depth == 2) Arithmetic::stage_pixels(x, from, to + margin, shape.width, shape.image_channels);
        clear(to + margin + row / depth, padded - margin - row / depth);
    }
    clear(to, shape.pad_bottom * padded);
}

// One panel of outputs over a block of `n` framed images, the first of which is number `first`.
template <class Arithmetic>
std::int64_t convolve_panel(const typename Arithmetic::Activation* frames, std::int64_t n, const Convolution& shape,
                            const typename Arithmetic::Stored* w, int vectors, std::int64_t first, const Corner& corner) {
    constexpr std::int64_t depth = Arithmetic::depth;
    const std::int64_t row_step = shape.stride_height * shape.padded_width() * shape.channels / depth;
    const std::ptrdiff_t step = shape.stride_width * shape.channels / depth;
    const Runs runs{shape.runs, shape.n_runs, shape.run_length};
    const Ahead ahead = stream(w, vectors);
    const Finish finish = finish_of(corner);
    const bool at_once = finish.in_registers();
    float sums[largest_tile];
    std::int64_t saturated = 0;
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t row = 0; row < shape.out_height; ++row) {
            const std::int64_t line = ((first + i) * shape.out_height + row) * shape.out_width;
            const auto* windows = frames + i * (shape.padded_size() / depth) + row * row_step;
            for_tiles(shape.out_width, vectors, [&](std::int64_t m, std::int64_t height) {
                const std::ptrdiff_t width = vectors * Isa::lanes, place = (line + m) * corner.stride + corner.at;
                const Sums to{sums, width, false, at_once ? &finish : nullptr, place};
                saturated += tile_for<Arithmetic>(height, vectors)(windows + m * step, step, runs, w, ahead, to);
                if (!at_once) saturated += finish_rows(sums, width, height, corner, place);
            });
        }
    return saturated;
}

template <class Arithmetic>
std::int64_t convolve_as(const Panels<typename Arithmetic::Stored>& panels, const Epilogue& epilogue,
                         const Convolution& shape, Source x, Target y, Part part, Scratch scratch) {
    using Activation = typename Arithmetic::Activation;
    constexpr std::int64_t depth = Arithmetic::depth;
    const std::int64_t width = panels.vectors * Isa::lanes, size = shape.padded_size() / depth;
    const std::int64_t per_group = (panels.outputs + width - 1) / width;
    const bool in_place = depth == 1 && !x.half && shape.padded_size() == shape.image_height * shape.image_width * shape.channels;
    std::int64_t saturated = 0;
    for (std::int64_t first = part.begin; first < part.end; first += shape.images_per_block) {
        const std::int64_t n = smaller(part.end - first, shape.images_per_block);
        auto* staged = reinterpret_cast<Activation*>(scratch.activations);
        const Activation* frames = staged;
        if (in_place)
            frames = static_cast<const Activation*>(x.data) + first * size;
        else
            for (std::int64_t i = 0; i < n; ++i) frame<Arithmetic>(shape, x, first + i, staged + i * size);
        const std::int64_t tiles = n * shape.out_height * n_tiles(shape.out_width, panels.vectors);
        const bool once = scratch.panel != nullptr && tiles >= Isa::widen_from_tiles;
        for (std::int64_t panel = part.panel_begin; panel < part.panel_end; ++panel) {
            const auto* w = panels.data + panel * width * panels.inputs;
            const Corner corner = corner_of(panels, epilogue, y, panel, panels.groups * panels.outputs);
            const Activation* group = frames + panel / per_group * shape.group_channels / depth;
            widened_or_not<Arithmetic>(w, width * panels.inputs, once ? scratch.panel : nullptr, [&](auto kind, auto* weights) {
                saturated += convolve_panel<decltype(kind)>(group, n, shape, weights, panels.vectors, first, corner);
            });
        }
    }
    return saturated;
}

template <class Weight>
std::int64_t convolve(const Panels<Weight>& panels, const Epilogue& epilogue, const Convolution& shape, Source x,
                      Target y, Part part, Scratch scratch) {
    return convolve_as<Single<Weight>>(panels, epilogue, shape, x, y, part, scratch);
}
