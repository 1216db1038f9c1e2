// Conversions between binary16 and binary32, and the widening copy that other routines stage activations with.

template <class From, class To>
void convert(const From* from, To* to, std::int64_t n) {
    std::int64_t i = 0;
    for (; i + Isa::lanes <= n; i += Isa::lanes) Isa::store(to + i, Isa::load(from + i));
    if (i < n) Isa::store(to + i, Isa::load(from + i, n - i), n - i);
}

inline void widen(Source x, std::int64_t at, float* to, std::int64_t n) {
    x.half ? convert(static_cast<const Half*>(x.data) + at, to, n)
           : convert(static_cast<const float*>(x.data) + at, to, n);
}

template <class T>
void clear(T* to, std::int64_t n) {
    for (std::int64_t i = 0; i < n; ++i) to[i] = T{};
}

inline std::int64_t smaller(std::int64_t a, std::int64_t b) { return a < b ? a : b; }
