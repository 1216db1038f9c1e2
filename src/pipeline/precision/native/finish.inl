// What is done to sums before they are stored: scale, bias, residual, function, and rounding that saturates.

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

// What cuts results off on either side, where that is all that happens to them after the sum, or that they are swished.
struct Cut {
    bool only;
    float low, high;
    bool swish = false;

    bool cuts() const { return low > -__builtin_inff() || high < __builtin_inff(); }
    bool fits_half() const { return low > -half_overflow && high < half_overflow; }
};

inline Cut cut_of(const Epilogue& e) {
    constexpr float infinity = __builtin_inff();
    if (e.relu) return {true, 0.0f, infinity};
    if (e.activation.function == Function::clip) return {true, e.activation.a, e.activation.b};
    const bool swish = e.activation.function == Function::hard_swish;
    return {swish || e.activation.function == Function::none, -infinity, infinity, swish};
}

// How a tile's sums become results while they are still in registers.
struct Finish {
    Corner corner;
    Cut cut;

    // Sums that are only cut off, of whole vectors where the others cannot be masked.
    bool in_registers() const { return cut.only && (Isa::masks || corner.n % Isa::lanes == 0); }
};

inline Finish finish_of(const Corner& corner) { return {corner, cut_of(corner.epilogue)}; }

// Results of a tile that memory holds, some of which binary16 does not hold: one vector at a time.
__attribute__((noinline)) inline std::int64_t store_slowly(const float* results, int rows, int vectors, const Corner& corner,
                                                           std::ptrdiff_t at) {
    std::int64_t saturated = 0;
    for (int m = 0; m < rows; ++m)
        for (int v = 0; v < vectors; ++v, results += Isa::lanes)
            if (v * Isa::lanes < corner.n)
                saturated += store_results(Isa::load(results), corner.y, at + m * corner.stride + v * Isa::lanes,
                                           corner.n - v * Isa::lanes);
    return saturated;
}

// A tile's results, number `at` first. None is stored before all are known to fit, for whoever runs one layer may have the residual lie where they go.
template <int rows, int vectors, bool whole>
inline __attribute__((always_inline)) std::int64_t finish_tile(Isa::Vector (&sum)[rows][vectors], const Finish& finish,
                                                               std::ptrdiff_t at) {
    using I = Isa;
    const Corner& corner = finish.corner;
    const Epilogue& e = corner.epilogue;
    const std::ptrdiff_t line = corner.stride;
    const auto left = [&](int v) { return corner.n - v * I::lanes; };
    const auto each = [&](const auto& work) __attribute__((always_inline)) {
#pragma GCC unroll 4
        for (int v = 0; v < vectors; ++v)
            if (left(v) > 0)
#pragma GCC unroll 16
                for (int m = 0; m < rows; ++m) work(m, v, at + m * line + v * I::lanes);
    };
    const auto add = [&](const auto* from) __attribute__((always_inline)) {
        each([&](int m, int v, std::ptrdiff_t place) __attribute__((always_inline)) {
            const auto* p = from + place;
            sum[m][v] = sum[m][v] + (whole || left(v) >= I::lanes ? I::load(p) : I::load(p, left(v)));
        });
    };
    each([&](int m, int v, std::ptrdiff_t) __attribute__((always_inline)) {
        sum[m][v] = I::fma(sum[m][v], I::load(e.scale + v * I::lanes), I::load(e.bias + v * I::lanes));
    });
    if (e.residual.data != nullptr)
        e.residual.half ? add(static_cast<const Half*>(e.residual.data)) : add(static_cast<const float*>(e.residual.data));
    const auto low = I::all(finish.cut.low), high = I::all(finish.cut.high);
    if (finish.cut.swish)
        each([&](int m, int v, std::ptrdiff_t) __attribute__((always_inline)) { sum[m][v] = hard_swish(sum[m][v]); });
    else if (finish.cut.cuts())
        each([&](int m, int v, std::ptrdiff_t) __attribute__((always_inline)) {
            sum[m][v] = I::min(high, I::max(low, sum[m][v]));
        });
    const auto store = [&](auto* to) __attribute__((always_inline)) {
        each([&](int m, int v, std::ptrdiff_t place) __attribute__((always_inline)) {
            whole || left(v) >= I::lanes ? I::store(to + place, sum[m][v]) : I::store(to + place, sum[m][v], left(v));
        });
    };
    if (!corner.y.half) {
        store(static_cast<float*>(corner.y.data));
        return 0;
    }
    if (!finish.cut.fits_half()) {
        auto largest = I::zero();  // which a NaN leaves as it is
        each([&](int m, int v, std::ptrdiff_t) __attribute__((always_inline)) {
            largest = I::max(sum[m][v], largest);
            if (finish.cut.low < 0.0f) largest = I::max(I::zero() - sum[m][v], largest);
        });
        if (__builtin_expect(I::any_at_least(largest, half_overflow), 0)) {
            float all[rows * vectors * I::lanes];
            each([&](int m, int v, std::ptrdiff_t) __attribute__((always_inline)) {
                I::store(all + (m * vectors + v) * I::lanes, sum[m][v]);
            });
            return store_slowly(all, rows, vectors, corner, at);
        }
    }
    store(static_cast<Half*>(corner.y.data));
    return 0;
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
            y[v] = cut.swish ? hard_swish(y[v]) : I::min(high, I::max(low, y[v]));
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
