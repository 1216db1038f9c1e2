// The register tile: `rows` rows of activations times one panel of weights, accumulated in registers.
//
// A step of the inner loop loads (and, for binary16, widens) `vectors` vectors of weights and multiplies them with one
// broadcast number per row. Fourteen rows by two vectors fill 28 of AVX-512's 32 registers: two conversions for 28
// multiply-adds, which is why widening in registers costs little where there are rows enough.

struct Runs {
    const std::ptrdiff_t* starts;
    std::int64_t count;
    std::int64_t length;
};

constexpr float largest_half = 65504.0f;
constexpr float half_overflow = 65520.0f;  // from here on, rounding to nearest would give infinity

// Store one vector of results, saturated if the target is binary16; returns how many were.
inline std::int64_t finish(Isa::Vector sum, const float* scale, const float* bias, bool relu, Target y,
                           std::ptrdiff_t at, std::int64_t n) {
    using I = Isa;
    auto v = I::fma(sum, I::load(scale), I::load(bias));
    if (relu) v = I::max(I::zero(), v);
    if (!y.half) {
        float* p = static_cast<float*>(y.data) + at;
        n >= I::lanes ? I::store(p, v) : I::store(p, v, n);
        return 0;
    }
    const int saturated = I::count_at_least(v, half_overflow);
    if (__builtin_expect(saturated != 0, 0)) v = I::max(I::all(-largest_half), I::min(I::all(largest_half), v));
    Half* p = static_cast<Half*>(y.data) + at;
    n >= I::lanes ? I::store(p, v) : I::store(p, v, n);
    return saturated;
}

// Where the results of one tile go: `n` valid outputs of a panel, `stride` apart from row to row.
struct Corner {
    Target y;
    std::ptrdiff_t at;
    std::ptrdiff_t stride;
    std::int64_t n;
    const float* scale;
    const float* bias;
    bool relu;
};

// Row m of a tile lies at x + m * step. Fourteen pointers would not fit the general registers, and setting them up
// anew for every run costs as much as a short run itself. Four do: every m is a base plus 0, 1, 2, 4 or 8 steps, which
// is what an x86 address can add by itself.
constexpr int base_of[4] = {0, 3, 5, 10};
constexpr int row_base[14] = {0, 0, 0, 1, 0, 1, 2, 1, 0, 2, 3, 1, 3, 2};
constexpr int row_steps[14] = {0, 1, 2, 0, 4, 2, 1, 4, 8, 4, 0, 8, 2, 8};

template <class Weight, int rows, int vectors>
std::int64_t tile(const float* x, std::ptrdiff_t step, const Runs& runs, const Weight* w, const Corner& corner) {
    using I = Isa;
    I::Vector sum[rows][vectors];
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) sum[m][v] = I::zero();
    for (std::int64_t r = 0; r < runs.count; ++r) {
        const float* p[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) p[j] = x + runs.starts[r] + base_of[j] * step;
        for (std::int64_t k = 0; k < runs.length; ++k) {
            I::Vector weight[vectors];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) weight[v] = I::load(w + v * I::lanes);
            w += vectors * I::lanes;
#pragma GCC unroll 16
            for (int m = 0; m < rows; ++m) {
                const auto a = I::all(p[row_base[m]][row_steps[m] * step]);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; ++v) sum[m][v] = I::fma(a, weight[v], sum[m][v]);
            }
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                ++p[j];
                asm("" : "+r"(p[j]));  // or the compiler would make fourteen of them again
            }
        }
    }
    std::int64_t saturated = 0;
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) {
            const std::int64_t left = corner.n - v * I::lanes;
            if (left > 0)
                saturated += finish(sum[m][v], corner.scale + v * I::lanes, corner.bias + v * I::lanes, corner.relu,
                                    corner.y, corner.at + m * corner.stride + v * I::lanes, left);
        }
    return saturated;
}

template <class Weight>
using Tile = std::int64_t (*)(const float*, std::ptrdiff_t, const Runs&, const Weight*, const Corner&);

template <class Weight, int rows, int vectors>
constexpr Tile<Weight> tile_or_null() {
    if constexpr (rows >= 1 && rows <= Isa::max_rows(vectors))
        return &tile<Weight, rows, vectors>;
    else
        return nullptr;
}

template <class Weight, int vectors>
Tile<Weight> tile_of(std::int64_t rows) {
    static constexpr Tile<Weight> tiles[15] = {
        nullptr,
        tile_or_null<Weight, 1, vectors>(), tile_or_null<Weight, 2, vectors>(), tile_or_null<Weight, 3, vectors>(),
        tile_or_null<Weight, 4, vectors>(), tile_or_null<Weight, 5, vectors>(), tile_or_null<Weight, 6, vectors>(),
        tile_or_null<Weight, 7, vectors>(), tile_or_null<Weight, 8, vectors>(), tile_or_null<Weight, 9, vectors>(),
        tile_or_null<Weight, 10, vectors>(), tile_or_null<Weight, 11, vectors>(), tile_or_null<Weight, 12, vectors>(),
        tile_or_null<Weight, 13, vectors>(), tile_or_null<Weight, 14, vectors>(),
    };
    return tiles[rows];
}

template <class Weight>
Tile<Weight> tile_for(std::int64_t rows, int vectors) {
    return vectors == 1 ? tile_of<Weight, 1>(rows) : vectors == 2 ? tile_of<Weight, 2>(rows) : tile_of<Weight, 4>(rows);
}

inline std::int64_t n_tiles(std::int64_t rows, int vectors) {
    const std::int64_t limit = Isa::max_rows(vectors);
    return (rows + limit - 1) / limit;
}

// Cut `rows` into tiles of nearly equal height: 15 rows are 8 + 7, not 14 + 1.
template <class Weight>
std::int64_t sweep(const float* x, std::ptrdiff_t step, std::int64_t rows, const Runs& runs, const Weight* w,
                   int vectors, Corner corner) {
    std::int64_t saturated = 0;
    for (std::int64_t left = n_tiles(rows, vectors); left > 0; --left) {
        const std::int64_t height = (rows + left - 1) / left;
        saturated += tile_for<Weight>(height, vectors)(x, step, runs, w, corner);
        x += height * step;
        corner.at += height * corner.stride;
        rows -= height;
    }
    return saturated;
}
