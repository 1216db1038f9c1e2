// Matrix products: a vector times packed panels (batch 1), and rows times packed panels.

// One panel times one vector. `ways` independent sums per vector hide the latency of the multiply-add; memory is read
// as one stream, 4 KiB ahead of use, since a page holds too little for the hardware's own prefetcher to run ahead.
template <class Weight, int vectors>
void multiply_vector(const float* x, std::int64_t inputs, const Weight* w, float* to) {
    using I = Isa;
    constexpr int ways = vectors == 1 ? 8 : vectors == 2 ? 4 : 2;
    constexpr int width = vectors * I::lanes;
    constexpr int ahead = 4096;
    I::Vector sum[ways][vectors];
#pragma GCC unroll 8
    for (int u = 0; u < ways; ++u)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[u][v] = I::zero();
    std::int64_t k = 0;
    for (; k + ways <= inputs; k += ways) {
#pragma GCC unroll 8
        for (int u = 0; u < ways; ++u) {
            const auto a = I::all(x[k + u]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v)
                sum[u][v] = I::fma(a, I::load(w + u * width + v * I::lanes), sum[u][v]);
        }
#pragma GCC unroll 8
        for (int byte = 0; byte < static_cast<int>(ways * width * sizeof(Weight)); byte += 64)
            __builtin_prefetch(reinterpret_cast<const char*>(w) + ahead + byte);
        w += ways * width;
    }
    for (; k < inputs; ++k, w += width)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[0][v] = I::fma(I::all(x[k]), I::load(w + v * I::lanes), sum[0][v]);
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
        auto total = sum[0][v];
#pragma GCC unroll 8
        for (int u = 1; u < ways; ++u) total = total + sum[u][v];
        I::store(to + v * I::lanes, total);
    }
}

template <class Weight>
std::int64_t multiply_by_vector(const Panels<Weight>& panels, const Epilogue& epilogue, Source x, Target y, Part part,
                                float* staged) {
    const float* vector = static_cast<const float*>(x.data);
    if (x.half) {
        widen(x, 0, staged, panels.inputs);
        vector = staged;
    }
    const std::int64_t width = panels.vectors * Isa::lanes;
    std::int64_t saturated = 0;
    for (std::int64_t panel = part.panel_begin; panel < part.panel_end; ++panel) {
        const Weight* w = panels.data + panel * width * panels.inputs;
        float sums[4 * Isa::lanes];
        panels.vectors == 1   ? multiply_vector<Weight, 1>(vector, panels.inputs, w, sums)
        : panels.vectors == 2 ? multiply_vector<Weight, 2>(vector, panels.inputs, w, sums)
                              : multiply_vector<Weight, 4>(vector, panels.inputs, w, sums);
        const Corner corner = corner_of(panels, epilogue, y, panel, panels.outputs);
        saturated += finish_rows(sums, width, 1, corner, corner.at);
    }
    return saturated;
}

// Rows times panels, in blocks of inputs: a block of the rows stays in the level 2 cache while every panel's share of
// the inputs passes once. Rows are an odd number of cache lines apart there, or those of a power of two would evict
// each other.
template <class Arithmetic>
std::int64_t multiply_rows(const Panels<typename Arithmetic::Stored>& panels, const Epilogue& epilogue,
                           const Product& product, Source x, Target y, Part part, Scratch scratch) {
    using Stored = typename Arithmetic::Stored;
    using Activation = typename Arithmetic::Activation;
    constexpr std::int64_t depth = Arithmetic::depth;
    const std::int64_t width = panels.vectors * Isa::lanes;
    const std::int64_t stride = (part.panel_end - part.panel_begin) * width;
    const std::int64_t step = Winograd::odd_lines(product.inputs_per_block);
    const std::ptrdiff_t start = 0;
    auto* block = reinterpret_cast<Activation*>(scratch.activations);
    std::int64_t saturated = 0;
    for (std::int64_t row = part.begin; row < part.end; row += product.rows_per_block) {
        const std::int64_t rows = smaller(part.end - row, product.rows_per_block);
        const bool once = scratch.panel != nullptr && n_tiles(rows, panels.vectors) >= Isa::widen_from_tiles;
        for (std::int64_t k = 0; k < panels.inputs; k += product.inputs_per_block) {
            const std::int64_t inputs = smaller(panels.inputs - k, product.inputs_per_block);
            const std::int64_t numbers = smaller(product.inputs - k * depth, inputs * depth);
            for (std::int64_t m = 0; m < rows; ++m)
                Arithmetic::stage(x, (row + m) * product.inputs + k * depth, block + m * step, numbers);
            const Runs runs{&start, 1, inputs};
            for (std::int64_t panel = part.panel_begin; panel < part.panel_end; ++panel) {
                const Stored* w = panels.data + (panel * panels.inputs + k) * width;
                const Corner corner = corner_of(panels, epilogue, y, panel, panels.outputs);
                const Finish finish = finish_of(corner);
                // Sums wait for the next block of inputs, if there is one.
                const bool only = inputs == panels.inputs, last = k + inputs == panels.inputs;
                const bool at_once = last && finish.in_registers();
                float one_tile[largest_tile];
                float* sums = scratch.sums + (panel - part.panel_begin) * width;
                widened_or_not<Arithmetic>(w, inputs * width, once ? scratch.panel : nullptr, [&](auto kind, auto* weights) {
                    // While the panel is in use, its successor's share is fetched, a part of it by every tile.
                    const std::ptrdiff_t rate = width * sizeof(Stored) / n_tiles(rows, panels.vectors) + 1;
                    Ahead ahead{reinterpret_cast<const char*>(w + panels.inputs * width), rate};
                    for_tiles(rows, panels.vectors, [&](std::int64_t m, std::int64_t height) {
                        const std::ptrdiff_t place = corner.at + (row + m) * panels.outputs;
                        const Sums to{only ? one_tile : sums + m * stride, only ? width : stride, k > 0,
                                      at_once ? &finish : nullptr, place};
                        saturated += tile_for<decltype(kind)>(height, panels.vectors)(block + m * step, step, runs, weights,
                                                                                      ahead, to);
                        ahead.at += rate * inputs;
                        if (last && !at_once) saturated += finish_rows(to.data, to.stride, height, corner, place);
                    });
                });
            }
        }
    }
    return saturated;
}

template <class Weight>
std::int64_t multiply(const Panels<Weight>& panels, const Epilogue& epilogue, const Product& product, Source x,
                      Target y, Part part, Scratch scratch) {
    return product.vector ? multiply_by_vector(panels, epilogue, x, y, part, scratch.activations)
                          : multiply_rows<Single<Weight>>(panels, epilogue, product, x, y, part, scratch);
}
