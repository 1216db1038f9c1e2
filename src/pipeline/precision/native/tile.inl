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

// Binary32 activations, and weights that are binary32 once they are loaded. An arithmetic says what is stored and how
// one step multiplies.
template <class Weight>
struct Single {
    using Stored = Weight;
    using Activation = float;
    using Loaded = Isa::Vector;
    static constexpr std::int64_t depth = 1;  // numbers per activation
    static Loaded load(const Stored* p) { return Isa::load(p); }
    static Loaded all(Activation a) { return Isa::all(a); }
    static Isa::Vector multiply_add(Loaded a, Loaded w, Isa::Vector sum) { return Isa::fma(a, w, sum); }
    static void stage(Source x, std::int64_t at, Activation* to, std::int64_t n) { widen(x, at, to, n); }
    static void store(Activation* to, Isa::Vector v) { Isa::store(to, v); }
};

// Where a tile's sums go: `stride` apart from row to row, and on top of what is there if `add`. Where there is a `finish`,
// they do not go there any more, but become results, number `at` first.
struct Sums {
    float* data;
    std::ptrdiff_t stride;
    bool add;
    const Finish* finish = nullptr;
    std::ptrdiff_t at = 0;
};

// Row m of a tile lies at x + m * step. Fourteen pointers would not fit the general registers, and setting them up
// anew for every run costs as much as a short run itself. Four do: every m is a base plus 0, 1, 2, 4 or 8 steps, which
// is what an x86 address can add by itself.
constexpr int base_of[4] = {0, 3, 5, 10};
constexpr int row_base[14] = {0, 0, 0, 1, 0, 1, 2, 1, 0, 2, 3, 1, 3, 2};
constexpr int row_steps[14] = {0, 1, 2, 0, 4, 2, 1, 4, 8, 4, 0, 8, 2, 8};

// What to fetch while a tile is computed, `step` bytes for each step: what will be needed next, be it more of the same
// weights or another panel's.
struct Ahead {
    const char* at;
    std::ptrdiff_t step;
};

// Returns how many results were saturated.
template <class Arithmetic, int rows, int vectors>
std::int64_t tile(const typename Arithmetic::Activation* x, std::ptrdiff_t step, const Runs& runs,
                  const typename Arithmetic::Stored* w, Ahead ahead, const Sums& to) {
    using I = Isa;
    constexpr int width = vectors * I::lanes;
    constexpr int bytes = static_cast<int>(width * sizeof(*w));
    I::Vector sum[rows][vectors];
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v)
            sum[m][v] = to.add ? I::load(to.data + m * to.stride + v * I::lanes) : I::zero();
    for (std::int64_t r = 0; r < runs.count; ++r) {
        const typename Arithmetic::Activation* p[4];
#pragma GCC unroll 4
        for (int j = 0; j < 4; ++j) p[j] = x + runs.starts[r] + base_of[j] * step;
        for (std::int64_t k = 0; k < runs.length; ++k) {
            typename Arithmetic::Loaded weight[vectors];
#pragma GCC unroll 4
            for (int v = 0; v < vectors; ++v) weight[v] = Arithmetic::load(w + v * I::lanes);
            w += width;
#pragma GCC unroll 4
            for (int b = 0; b < bytes; b += 64) __builtin_prefetch(ahead.at + b);
            ahead.at += ahead.step;
#pragma GCC unroll 16
            for (int m = 0; m < rows; ++m) {
                const auto a = Arithmetic::all(p[row_base[m]][row_steps[m] * step]);
#pragma GCC unroll 4
                for (int v = 0; v < vectors; ++v) sum[m][v] = Arithmetic::multiply_add(a, weight[v], sum[m][v]);
            }
#pragma GCC unroll 4
            for (int j = 0; j < 4; ++j) {
                ++p[j];
                asm("" : "+r"(p[j]));  // or the compiler would make fourteen of them again
            }
        }
    }
    if (to.finish != nullptr)
        return to.finish->corner.n == width ? finish_tile<rows, vectors, true>(sum, *to.finish, to.at)
                                            : finish_tile<rows, vectors, false>(sum, *to.finish, to.at);
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) I::store(to.data + m * to.stride + v * I::lanes, sum[m][v]);
    return 0;
}

template <class Arithmetic>
using Tile = std::int64_t (*)(const typename Arithmetic::Activation*, std::ptrdiff_t, const Runs&,
                              const typename Arithmetic::Stored*, Ahead, const Sums&);

template <class Arithmetic, int rows, int vectors>
constexpr Tile<Arithmetic> tile_or_null() {
    if constexpr (rows >= 1 && rows <= Isa::max_rows(vectors))
        return &tile<Arithmetic, rows, vectors>;
    else
        return nullptr;
}

template <class Arithmetic, int vectors>
Tile<Arithmetic> tile_of(std::int64_t rows) {
    using A = Arithmetic;
    static constexpr Tile<A> tiles[15] = {
        nullptr,
        tile_or_null<A, 1, vectors>(),  tile_or_null<A, 2, vectors>(),  tile_or_null<A, 3, vectors>(),
        tile_or_null<A, 4, vectors>(),  tile_or_null<A, 5, vectors>(),  tile_or_null<A, 6, vectors>(),
        tile_or_null<A, 7, vectors>(),  tile_or_null<A, 8, vectors>(),  tile_or_null<A, 9, vectors>(),
        tile_or_null<A, 10, vectors>(), tile_or_null<A, 11, vectors>(), tile_or_null<A, 12, vectors>(),
        tile_or_null<A, 13, vectors>(), tile_or_null<A, 14, vectors>(),
    };
    return tiles[rows];
}

// The weights themselves, 4 KiB further on: a page holds too little for the hardware's own prefetcher to run ahead.
template <class Stored>
Ahead stream(const Stored* w, int vectors) {
    return {reinterpret_cast<const char*>(w) + 4096, static_cast<std::ptrdiff_t>(vectors * Isa::lanes * sizeof(Stored))};
}

template <class A>
Tile<A> tile_for(std::int64_t rows, int vectors) {
    return vectors == 1 ? tile_of<A, 1>(rows) : vectors == 2 ? tile_of<A, 2>(rows) : tile_of<A, 4>(rows);
}

inline std::int64_t n_tiles(std::int64_t rows, int vectors) {
    const std::int64_t limit = Isa::max_rows(vectors);
    return (rows + limit - 1) / limit;
}

// Cut `rows` into tiles of nearly equal height, 15 rows being 8 + 7 and not 14 + 1, and do `work(first row, height)`.
template <class Work>
void for_tiles(std::int64_t rows, int vectors, Work work) {
    std::int64_t first = 0;
    for (std::int64_t left = n_tiles(rows, vectors); left > 0; --left) {
        const std::int64_t height = (rows - first + left - 1) / left;
        work(first, height);
        first += height;
    }
}

constexpr std::int64_t largest_tile = 14 * 4 * Isa::lanes;  // numbers, at most

// Call `work` with weights to multiply with: those of the panel, or binary32 copies in `wide` if that is given.
template <class Arithmetic, class Work>
void widened_or_not(const typename Arithmetic::Stored* w, std::int64_t n, float* wide, Work work) {
    if constexpr (sizeof(*w) == sizeof(Half)) {
        if (wide != nullptr) {
            convert(w, wide, n);
            work(Single<float>{}, static_cast<const float*>(wide));
            return;
        }
    }
    work(Arithmetic{}, w);
}

