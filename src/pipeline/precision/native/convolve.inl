// Direct convolution, channels last, without an im2col matrix.
//
// Each image is copied once into a padded binary32 frame. A row of output pixels is then a row of equally spaced
// windows into the frame, and the taps of one kernel row, with their channels, are consecutive in memory: the register
// tile of the matrix product runs over them as it stands.

inline void frame(const Convolution& shape, Source x, std::int64_t image, float* to) {
    const std::int64_t row = shape.width * shape.channels;
    const std::int64_t margin = shape.pad_width * shape.channels;
    const std::int64_t padded = shape.padded_width() * shape.channels;
    clear(to, shape.pad_height * padded);
    to += shape.pad_height * padded;
    for (std::int64_t i = 0; i < shape.height; ++i, to += padded) {
        clear(to, margin);
        stage(x, (image * shape.height + i) * row, to + margin, row);
        clear(to + margin + row, margin);
    }
    clear(to, shape.pad_height * padded);
}

// One panel of outputs over a block of framed images.
template <class Weight>
std::int64_t convolve_panel(const float* frames, std::int64_t n, const Convolution& shape, const Weight* w, int vectors,
                            std::int64_t first, Corner corner) {
    const std::int64_t row_step = shape.stride_height * shape.padded_width() * shape.channels;
    const std::ptrdiff_t step = shape.stride_width * shape.channels, origin = corner.at;
    const Runs runs{shape.runs, shape.n_runs, shape.run_length};
    std::int64_t saturated = 0;
    for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t row = 0; row < shape.out_height; ++row) {
            corner.at = ((first + i) * shape.out_height + row) * shape.out_width * corner.stride + origin;
            const float* windows = frames + i * shape.padded_size() + row * row_step;
            saturated += sweep<Weight>(windows, step, shape.out_width, runs, w, vectors, corner);
        }
    return saturated;
}

template <class Weight>
std::int64_t convolve(const Panels<Weight>& panels, const Epilogue& epilogue, const Convolution& shape, Source x,
                      Target y, std::int64_t images, Scratch scratch) {
    const std::int64_t width = panels.vectors * Isa::lanes, outputs = panels.outputs, size = shape.padded_size();
    const bool in_place = !x.half && shape.pad_height == 0 && shape.pad_width == 0;
    std::int64_t saturated = 0;
    for (std::int64_t first = 0; first < images; first += shape.images_per_block) {
        const std::int64_t left = images - first;
        const std::int64_t n = left < shape.images_per_block ? left : shape.images_per_block;
        const float* frames = scratch.activations;
        if (in_place)
            frames = static_cast<const float*>(x.data) + first * size;
        else
            for (std::int64_t i = 0; i < n; ++i) frame(shape, x, first + i, scratch.activations + i * size);
        const std::int64_t tiles = n * shape.out_height * n_tiles(shape.out_width, panels.vectors);
        const bool widen = scratch.panel != nullptr && tiles >= Isa::widen_from_tiles;
        for (std::int64_t output = 0; output < outputs; output += width) {
            const Weight* w = panels.data + output * panels.inputs;
            const Corner corner{y, output, outputs, outputs - output, epilogue.scale + output, epilogue.bias + output,
                                epilogue.relu};
            if (widen) {
                convert(w, scratch.panel, width * panels.inputs);
                saturated += convolve_panel<float>(frames, n, shape, scratch.panel, panels.vectors, first, corner);
            } else {
                saturated += convolve_panel<Weight>(frames, n, shape, w, panels.vectors, first, corner);
            }
        }
    }
    return saturated;
}
