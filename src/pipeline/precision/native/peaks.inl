// Loops that do nothing but one thing, to find how fast the processor does it.

// Keep a value alive in a register without storing it.
inline void keep(Isa::Vector& v) {
#if defined(__x86_64__) || defined(__i386__)
    asm volatile("" : "+v"(v));
#elif defined(__aarch64__)
    asm volatile("" : "+w"(v));
#else
    asm volatile("" : "+m"(v));
#endif
}

inline double peak_fma(std::int64_t iterations) {
    using I = Isa;
    constexpr int chains = 12;  // more than latency times throughput of any processor so far
    I::Vector sum[chains];
#pragma GCC unroll 12
    for (int j = 0; j < chains; ++j) sum[j] = I::all(static_cast<float>(j));
    auto a = I::all(0.999f), b = I::all(1e-3f);
    for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
        for (int j = 0; j < chains; ++j) {
            sum[j] = I::fma(sum[j], a, b);
            keep(sum[j]);
        }
    }
    return 2.0 * chains * I::lanes * static_cast<double>(iterations);
}

inline double peak_convert(const Half* p, std::int64_t n) {
    using I = Isa;
    std::int64_t i = 0;
    for (; i + 8 * I::lanes <= n; i += 8 * I::lanes) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) {
            auto v = I::load(p + i + j * I::lanes);
            keep(v);
        }
    }
    return static_cast<double>(i);
}

// Reading kernels: one stream; one stream with prefetch; four streams at once. Which is fastest depends on the level.
template <int streams, int ahead>
double read(const float* p, std::int64_t n) {
    using I = Isa;
    constexpr int vectors = 8 / streams;
    const std::int64_t part = n / streams;
    I::Vector sum[streams][vectors];
#pragma GCC unroll 8
    for (int s = 0; s < streams; ++s)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) sum[s][v] = I::zero();
    for (std::int64_t i = 0; i + vectors * I::lanes <= part; i += vectors * I::lanes) {
#pragma GCC unroll 8
        for (int s = 0; s < streams; ++s) {
#pragma GCC unroll 8
            for (int v = 0; v < vectors; ++v)
                sum[s][v] = sum[s][v] + I::load(p + s * part + i + v * I::lanes);
            if constexpr (ahead > 0) {
#pragma GCC unroll 8
                for (int f = 0; f < vectors * I::lanes; f += 16) __builtin_prefetch(p + s * part + i + f + ahead);
            }
        }
    }
#pragma GCC unroll 8
    for (int s = 0; s < streams; ++s)
#pragma GCC unroll 8
        for (int v = 0; v < vectors; ++v) keep(sum[s][v]);
    return 4.0 * static_cast<double>(n);
}

inline double peak_read(const float* p, std::int64_t n, int kernel) {
    return kernel == 0 ? read<1, 0>(p, n) : kernel == 1 ? read<1, 1024>(p, n) : read<4, 0>(p, n);
}
