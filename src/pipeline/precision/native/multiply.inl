// Matrix products: a vector times packed panels (batch 1), and a few rows times packed panels.

// One panel times one vector. `ways` independent sums per vector hide the latency of the multiply-add; memory is read
// as one stream, 4 KiB ahead of use, since a page holds too little for the hardware's own prefetcher to run ahead.
template <class Weight, int vectors>
std::int64_t multiply_vector(const float* x, std::int64_t inputs, const Weight* w, const Corner& corner) {
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
    std::int64_t saturated = 0;
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
        auto total = sum[0][v];
#pragma GCC unroll 8
        for (int u = 1; u < ways; ++u) total = I::add(total, sum[u][v]);
        const std::int64_t left = corner.n - v * I::lanes;
        if (left > 0)
            saturated += finish(total, corner.scale + v * I::lanes, corner.bias + v * I::lanes, corner.relu, corner.y,
                                corner.at + v * I::lanes, left);
    }
    return saturated;
}

template <class Weight>
std::int64_t multiply(const Panels<Weight>& panels, const Epilogue& epilogue, Source x, Target y, std::int64_t rows,
                      std::int64_t rows_per_block, Scratch scratch) {
    const std::int64_t inputs = panels.inputs, width = panels.vectors * Isa::lanes;
    const std::ptrdiff_t start = 0;
    const Runs runs{&start, 1, inputs};
    std::int64_t saturated = 0;
    for (std::int64_t row = 0; row < rows; row += rows_per_block) {
        const std::int64_t n = rows - row < rows_per_block ? rows - row : rows_per_block;
        const float* block = scratch.activations;
        if (x.half)
            stage(x, row * inputs, scratch.activations, n * inputs);
        else
            block = static_cast<const float*>(x.data) + row * inputs;
        const bool widen = scratch.panel != nullptr && n_tiles(n, panels.vectors) >= Isa::widen_from_tiles;
        for (std::int64_t output = 0; output < panels.outputs; output += width) {
            const Weight* w = panels.data + output * inputs;
            const Corner corner{y, row * panels.outputs + output, panels.outputs, panels.outputs - output,
                                epilogue.scale + output, epilogue.bias + output, epilogue.relu};
            if (widen) {
                convert(w, scratch.panel, width * inputs);
                saturated += sweep<float>(block, inputs, n, runs, scratch.panel, panels.vectors, corner);
            } else if (rows > 1) {
                saturated += sweep<Weight>(block, inputs, n, runs, w, panels.vectors, corner);
            } else {
                saturated += panels.vectors == 1   ? multiply_vector<Weight, 1>(block, inputs, w, corner)
                             : panels.vectors == 2 ? multiply_vector<Weight, 2>(block, inputs, w, corner)
                                                   : multiply_vector<Weight, 4>(block, inputs, w, corner);
            }
        }
    }
    return saturated;
}
