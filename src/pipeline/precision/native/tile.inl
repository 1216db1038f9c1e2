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

// Where a tile's sums go: `stride` apart from row to row, and on top of what is there if `add`.
struct Sums {
    float* data;
    std::ptrdiff_t stride;
    bool add;
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

template <class Arithmetic, int rows, int vectors>
void tile(const typename Arithmetic::Activation* x, std::ptrdiff_t step, const Runs& runs,
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
#pragma GCC unroll 16
    for (int m = 0; m < rows; ++m)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v) I::store(to.data + m * to.stride + v * I::lanes, sum[m][v]);
}

template <class Arithmetic>
using Tile = void (*)(const typename Arithmetic::Activation*, std::ptrdiff_t, const Runs&,
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

// Where results go: `n` outputs from number `at` on, `stride` apart from row to row, and what is done to them before.
struct Corner {
    Target y;
    std::ptrdiff_t at;
    std::ptrdiff_t stride;
    std::int64_t n;
    Epilogue epilogue;
};

constexpr float largest_half = 65504.0f;
constexpr float half_overflow = 65520.0f;  // from here on, rounding to nearest would give infinity

// Store `n` results of one vector, saturated if the target is binary16; returns how many were.
inline std::int64_t store_results(Isa::Vector v, Target y, std::ptrdiff_t at, std::int64_t n) {
    using I = Isa;
    if (!y.half) {
        float* p = static_cast<float*>(y.data) + at;
        n >= I::lanes ? I::store(p, v) : I::store(p, v, n);
        return 0;
    }
    std::int64_t saturated = 0;
    if (__builtin_expect(I::any_at_least(v, half_overflow), 0)) {
        float all[I::lanes];
        I::store(all, v);
        for (std::int64_t i = 0; i < I::lanes && i < n; ++i)
            saturated += all[i] >= half_overflow || all[i] <= -half_overflow;
        v = I::max(I::all(-largest_half), I::min(I::all(largest_half), v));
    }
    Half* p = static_cast<Half*>(y.data) + at;
    n >= I::lanes ? I::store(p, v) : I::store(p, v, n);
    return saturated;
}

inline Isa::Vector load_source(Source x, std::ptrdiff_t at, std::int64_t n) {
    using I = Isa;
    if (x.half) {
        const Half* p = static_cast<const Half*>(x.data) + at;
        return n >= I::lanes ? I::load(p) : I::load(p, n);
    }
    const float* p = static_cast<const float*>(x.data) + at;
    return n >= I::lanes ? I::load(p) : I::load(p, n);
}

// Scale, bias, residual and ReLU for the outputs from `first` of the corner's on.
inline std::int64_t finish(Isa::Vector sum, const Corner& corner, std::ptrdiff_t at, std::int64_t first) {
    using I = Isa;
    const Epilogue& e = corner.epilogue;
    const std::int64_t n = corner.n - first;
    auto v = I::fma(sum, I::load(e.scale + first), I::load(e.bias + first));
    if (e.residual.data != nullptr) v = v + load_source(e.residual, at, n);
    if (e.relu)
        v = I::max(I::zero(), v);
    else if (e.activation.function == Function::clip)  // not worth a call
        v = I::min(I::all(e.activation.b), I::max(I::all(e.activation.a), v));
    else if (e.activation.function != Function::none)
        v = activated(v, e.activation);
    return store_results(v, corner.y, at, n);
}

// What cuts results off on either side, where that is all that happens to them after the sum.
struct Cut {
    bool only;
    float low, high;

    bool fits_half() const { return low > -half_overflow && high < half_overflow; }
};

inline Cut cut_of(const Epilogue& e) {
    constexpr float infinity = __builtin_inff();
    if (e.relu) return {true, 0.0f, infinity};
    if (e.activation.function == Function::clip) return {true, e.activation.a, e.activation.b};
    return {e.activation.function == Function::none, -infinity, infinity};
}

// Whole vectors of rows, `vectors` side by side, whose scale and bias stay in registers.
template <int vectors, class To>  // one vector or two
std::int64_t finish_columns(const float* sums, std::ptrdiff_t stride, std::int64_t rows, const Corner& corner,
                            std::ptrdiff_t at, std::ptrdiff_t first, const Cut& cut) {
    using I = Isa;
    const Epilogue& e = corner.epilogue;
    I::Vector scale[vectors], bias[vectors];
#pragma GCC unroll 4
    for (int v = 0; v < vectors; ++v) {
        scale[v] = I::load(e.scale + first + v * I::lanes);
        bias[v] = I::load(e.bias + first + v * I::lanes);
    }
    const auto low = I::all(cut.low), high = I::all(cut.high);
    To* to = static_cast<To*>(corner.y.data) + at + first;
    const bool fits = sizeof(To) > sizeof(Half) || cut.fits_half();
    const Source added = e.residual;
    const std::ptrdiff_t line = corner.stride;
    const Half* residual = added.half && added.data != nullptr ? static_cast<const Half*>(added.data) + at + first : nullptr;
    // Of numbers that are not negative the larger ones tell of all, unless one is not a number: that is looked at closer.
    const bool together = !fits && cut.low >= 0.0f;
    std::ptrdiff_t place = at + first;
    std::int64_t saturated = 0;
    for (std::int64_t m = 0; m < rows; ++m, sums += stride, to += line, place += line) {
        I::Vector y[vectors];
        bool large = false;
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v) {
            y[v] = I::fma(I::load(sums + v * I::lanes), scale[v], bias[v]);
            if (residual != nullptr)
                y[v] = y[v] + I::load(residual + v * I::lanes);
            else if (added.data != nullptr)
                y[v] = y[v] + load_source(added, place + v * I::lanes, I::lanes);
            y[v] = I::min(high, I::max(low, y[v]));
            if (!fits && !together) large = large || I::any_at_least(y[v], half_overflow);
        }
        if (residual != nullptr) residual += line;
        if (together) large = I::any_not_below(I::max(y[0], y[vectors - 1]), half_overflow);
#pragma GCC unroll 2
        for (int v = 0; v < vectors; ++v)
            if (__builtin_expect(large, 0))
                saturated += store_results(y[v], corner.y, place + v * I::lanes, I::lanes);
            else
                I::store(to + v * I::lanes, y[v]);
    }
    return saturated;
}

// As many whole vectors as there are; returns how many results were saturated, and moves `done` behind them.
template <class To>
std::int64_t finish_vectors(const float* sums, std::ptrdiff_t stride, std::int64_t rows, const Corner& corner,
                            std::ptrdiff_t at, const Cut& cut, std::ptrdiff_t& done) {
    std::int64_t saturated = 0;
    for (; done + 2 * Isa::lanes <= corner.n; done += 2 * Isa::lanes)
        saturated += finish_columns<2, To>(sums + done, stride, rows, corner, at, done, cut);
    for (; done + Isa::lanes <= corner.n; done += Isa::lanes)
        saturated += finish_columns<1, To>(sums + done, stride, rows, corner, at, done, cut);
    return saturated;
}

// The results of `rows` rows of sums, from number `at` on.
inline std::int64_t finish_rows(const float* sums, std::ptrdiff_t stride, std::int64_t rows, const Corner& corner,
                                std::ptrdiff_t at) {
    std::int64_t saturated = 0;
    const Cut cut = cut_of(corner.epilogue);
    std::ptrdiff_t done = 0;
    if (cut.only)
        saturated += corner.y.half ? finish_vectors<Half>(sums, stride, rows, corner, at, cut, done)
                                   : finish_vectors<float>(sums, stride, rows, corner, at, cut, done);
    if (done >= corner.n) return saturated;
    for (std::int64_t m = 0; m < rows; ++m)
        for (std::int64_t first = done; first < corner.n; first += Isa::lanes)
            saturated += finish(Isa::load(sums + m * stride + first), corner, at + m * corner.stride + first, first);
    return saturated;
}

// The corner of panel number `panel`, for rows of `row_size` outputs in all groups together.
template <class Weight>
Corner corner_of(const Panels<Weight>& panels, const Epilogue& epilogue, Target y, std::int64_t panel,
                 std::int64_t row_size) {
    const std::int64_t width = panels.vectors * Isa::lanes;
    const std::int64_t per_group = (panels.outputs + width - 1) / width;
    const std::int64_t group = panel / per_group, inside = panel % per_group * width;
    const std::int64_t left = panels.outputs - inside;
    Epilogue shifted = epilogue;
    shifted.scale += panel * width;
    shifted.bias += panel * width;
    return {y, static_cast<std::ptrdiff_t>(group * panels.outputs + inside), static_cast<std::ptrdiff_t>(row_size),
            left < width ? left : width, shifted};
}
