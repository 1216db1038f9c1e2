// Winograd convolution F(m x m, 3 x 3): fewer multiplications, by interpolation [1].
//
// A tile of m x m outputs comes from (m + 2)^2 inputs. Both are transformed to (m + 2)^2 points, where a convolution is
// a product: one matrix product per point, of (tiles, channels) times (channels, outputs). Then
//
//     y = A^T [sum over channels of (G g G^T) * (B^T d B)] A.
//
// The weights' part G g G^T is done once, in binary64, when they are packed. The points of F(4, 3) are 0, +-sqrt(1/2),
// +-sqrt(2) and infinity: their powers grow less than those of 0, +-1, +-2, and so does the error [2].
//
// An input that is not finite may reach every output of the tiles that read it, and an infinity as NaN.
//
// [1] Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016.
// [2] Barabasz, Anderson, Soodhalter, Gregg, "Error analysis and improving the accuracy of Winograd convolution for deep
//     neural networks", ACM Transactions on Mathematical Software 2020.

template <int m>
struct Transform;

template <>
struct Transform<2> {
    using V = Isa::Vector;
    static void input(const V* d, V* to) {
        to[0] = d[0] - d[2];
        to[1] = d[1] + d[2];
        to[2] = d[2] - d[1];
        to[3] = d[3] - d[1];
    }
    static void output(const V* s, V* to) {
        to[0] = s[0] + s[1] + s[2];
        to[1] = s[1] - s[2] + s[3];
    }
};

template <>
struct Transform<4> {
    using V = Isa::Vector;
    static constexpr float a = 0.70710678f, b = 1.41421356f;  // the points: a^2 = 1/2, b^2 = 2, (a b)^2 = 1
    static void input(const V* d, V* to) {
        using I = Isa;
        const V middle = I::all(-2.5f), two = I::all(-2.0f), half = I::all(-0.5f);
        to[0] = I::fma(d[2], middle, d[0] + d[4]);
        const V even_a = I::fma(d[2], two, d[4]), odd_a = I::all(a) * I::fma(d[1], two, d[3]);
        const V even_b = I::fma(d[2], half, d[4]), odd_b = I::all(b) * I::fma(d[1], half, d[3]);
        to[1] = even_a + odd_a;
        to[2] = even_a - odd_a;
        to[3] = even_b + odd_b;
        to[4] = even_b - odd_b;
        to[5] = I::fma(d[3], middle, d[1] + d[5]);
    }
    static void output(const V* s, V* to) {
        using I = Isa;
        const V even_a = s[1] + s[2], odd_a = s[1] - s[2], even_b = s[3] + s[4], odd_b = s[3] - s[4];
        to[0] = s[0] + even_a + even_b;
        to[1] = I::fma(odd_a, I::all(a), I::all(b) * odd_b);
        to[2] = I::fma(even_a, I::all(0.5f), I::all(2.0f) * even_b);
        to[3] = I::fma(odd_a, I::all(a / 2), I::fma(odd_b, I::all(2 * b), s[5]));
    }
};

// B^T d B for `n` channels of one tile; `inputs[i][j]` is where input (i, j) lies, or zeros outside the image.
template <class Arithmetic, int m, class From>
void transform_input(const From* const (&inputs)[m + 2][m + 2], std::int64_t channel, std::int64_t n,
                     typename Arithmetic::Activation* to, std::ptrdiff_t point_step) {
    using I = Isa;
    constexpr int size = m + 2;
    I::Vector half[size][size];
#pragma GCC unroll 6
    for (int j = 0; j < size; ++j) {
        I::Vector column[size], changed[size];
#pragma GCC unroll 6
        for (int i = 0; i < size; ++i) {
            const From* p = inputs[i][j] + channel;
            column[i] = n >= I::lanes ? I::load(p) : I::load(p, n);
        }
        Transform<m>::input(column, changed);
#pragma GCC unroll 6
        for (int i = 0; i < size; ++i) half[i][j] = changed[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < size; ++i) {
        I::Vector row[size];
        Transform<m>::input(half[i], row);
#pragma GCC unroll 6
        for (int j = 0; j < size; ++j) Arithmetic::store(to + (i * size + j) * point_step, row[j]);
    }
}

template <class Arithmetic, int m, class From>
void transform_inputs(const Winograd& shape, const From* x, const From* zeros, std::int64_t first, std::int64_t n,
                      typename Arithmetic::Activation* to) {
    constexpr int size = m + 2;
    constexpr std::int64_t depth = Arithmetic::depth;
    const std::int64_t channels = shape.channels;
    for (std::int64_t t = 0; t < n; ++t, to += shape.tile_step()) {
        const std::int64_t image = (first + t) / shape.tiles_per_image(), inside = (first + t) % shape.tiles_per_image();
        const std::int64_t top = inside / shape.tiles_wide * m - shape.pad_height;
        const std::int64_t left = inside % shape.tiles_wide * m - shape.pad_width;
        const From* inputs[size][size];
        for (int i = 0; i < size; ++i)
            for (int j = 0; j < size; ++j) {
                const std::int64_t row = top + i, column = left + j;
                const bool within = row >= 0 && row < shape.height && column >= 0 && column < shape.width;
                inputs[i][j] =
                    within ? x + ((image * shape.height + row) * shape.width + column) * channels : zeros;
            }
        std::int64_t c = 0;
        for (; c + Isa::lanes <= channels; c += Isa::lanes)
            transform_input<Arithmetic, m>(inputs, c, Isa::lanes, to + c / depth, shape.point_step());
        if (c < channels) transform_input<Arithmetic, m>(inputs, c, channels - c, to + c / depth, shape.point_step());
    }
}

// A^T s A for one vector of outputs.
template <int m>
void transform_output(const float* sums, std::ptrdiff_t point_step, Isa::Vector (&results)[m][m]) {
    using I = Isa;
    constexpr int size = m + 2;
    I::Vector half[m][size];
#pragma GCC unroll 6
    for (int j = 0; j < size; ++j) {
        I::Vector column[size], changed[m];
#pragma GCC unroll 6
        for (int i = 0; i < size; ++i) column[i] = I::load(sums + (i * size + j) * point_step);
        Transform<m>::output(column, changed);
#pragma GCC unroll 4
        for (int i = 0; i < m; ++i) half[i][j] = changed[i];
    }
#pragma GCC unroll 4
    for (int i = 0; i < m; ++i) Transform<m>::output(half[i], results[i]);
}

template <int m>
std::int64_t transform_outputs(const Winograd& shape, const float* sums, std::int64_t panel_width, std::int64_t first,
                               std::int64_t n, Corner corner) {
    using I = Isa;
    const std::ptrdiff_t origin = corner.at;
    std::int64_t saturated = 0;
    for (std::int64_t t = 0; t < n; ++t, sums += panel_width) {
        const std::int64_t image = (first + t) / shape.tiles_per_image(), inside = (first + t) % shape.tiles_per_image();
        const std::int64_t top = inside / shape.tiles_wide * m, left = inside % shape.tiles_wide * m;
        const std::int64_t rows = smaller(shape.out_height - top, m), columns = smaller(shape.out_width - left, m);
        for (std::int64_t o = 0; o < corner.n; o += I::lanes) {
            I::Vector results[m][m];
            transform_output<m>(sums + o, shape.sum_step(panel_width), results);
            for (int i = 0; i < m && i < rows; ++i)
                for (int j = 0; j < m && j < columns; ++j) {
                    const std::int64_t pixel = (image * shape.out_height + top + i) * shape.out_width + left + j;
                    saturated += finish(results[i][j], corner, pixel * corner.stride + origin + o, o);
                }
        }
    }
    return saturated;
}

template <class Arithmetic, int m>
std::int64_t winograd_as(const Panels<typename Arithmetic::Stored>& panels, const Epilogue& epilogue,
                         const Winograd& shape, Source x, Target y, Part part, Scratch scratch) {
    const std::int64_t width = panels.vectors * Isa::lanes, chunk = width * panels.inputs;
    const std::ptrdiff_t start = 0;
    const Runs runs{&start, 1, panels.inputs};
    auto* transformed = reinterpret_cast<typename Arithmetic::Activation*>(scratch.activations);
    // Zeros for what lies outside an image are kept behind the transformed tiles.
    float* zeros = scratch.activations + shape.points() * shape.point_step();
    clear(zeros, shape.channels);
    std::int64_t saturated = 0;
    for (std::int64_t first = part.begin; first < part.end; first += shape.tiles_per_block) {
        const std::int64_t n = smaller(part.end - first, shape.tiles_per_block);
        if (x.half)
            transform_inputs<Arithmetic, m>(shape, static_cast<const Half*>(x.data),
                                            reinterpret_cast<const Half*>(zeros), first, n, transformed);
        else
            transform_inputs<Arithmetic, m>(shape, static_cast<const float*>(x.data), static_cast<const float*>(zeros),
                                            first, n, transformed);
        const bool once = scratch.panel != nullptr && n_tiles(n, panels.vectors) >= Isa::widen_from_tiles;
        for (std::int64_t panel = part.panel_begin; panel < part.panel_end; ++panel) {
            const auto* w = panels.data + panel * shape.points() * chunk;
            for (std::int64_t point = 0; point < shape.points(); ++point, w += chunk) {
                const auto* tiles = transformed + point * shape.point_step();
                float* sums = scratch.sums + point * shape.sum_step(width);
                widened_or_not<Arithmetic>(w, chunk, once ? scratch.panel : nullptr, [&](auto kind, auto* weights) {
                    Ahead ahead = stream(weights, panels.vectors);
                    for_tiles(n, panels.vectors, [&](std::int64_t row, std::int64_t height) {
                        tile_for<decltype(kind)>(height, panels.vectors)(tiles + row * shape.tile_step(),
                                                                         shape.tile_step(), runs, weights, ahead,
                                                                         {sums + row * width, width, false});
                    });
                });
            }
            const Corner corner = corner_of(panels, epilogue, y, panel, panels.outputs);
            saturated += transform_outputs<m>(shape, scratch.sums, width, first, n, corner);
        }
    }
    return saturated;
}

template <class Weight>
std::int64_t winograd(const Panels<Weight>& panels, const Epilogue& epilogue, const Winograd& shape, Source x,
                      Target y, Part part, Scratch scratch) {
    return shape.m == 2 ? winograd_as<Single<Weight>, 2>(panels, epilogue, shape, x, y, part, scratch)
                        : winograd_as<Single<Weight>, 4>(panels, epilogue, shape, x, y, part, scratch);
}
