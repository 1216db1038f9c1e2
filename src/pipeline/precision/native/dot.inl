// Activations and weights in pairs of bfloat16; two products and their sum per lane and step. Subnormal numbers, below
// 2^-126, count as zero in these instructions.
struct Dot {
    using Stored = BrainPair;
    using Activation = BrainPair;
    using Loaded = __m512i;
    static constexpr std::int64_t depth = 2;
    static Loaded load(const Stored* p) { return _mm512_loadu_si512(p); }
    static Loaded all(Activation a) { return _mm512_set1_epi32(static_cast<int>(a)); }
    static Isa::Vector multiply_add(Loaded a, Loaded w, Isa::Vector sum) {
        return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(a), reinterpret_cast<__m512bh>(w));
    }
    // Round `n` numbers to nearest even; the last pair is filled with zero.
    static void stage(Source x, std::int64_t at, Activation* to, std::int64_t n) {
        stage_pairs(x, at, to, n, [](Isa::Vector v) { return v; });
    }
    static void stage_pixels(Source x, std::int64_t at, Activation* to, std::int64_t n, std::int64_t channels) {
        fill_pixels(x, at, to, n, channels, [](Isa::Vector v) { return v; });
    }
    static void store(Activation* to, Isa::Vector v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
    }

protected:
    // Pixels of an odd number of channels, each filled up with a zero.
    template <class Change>
    static void fill_pixels(Source x, std::int64_t at, Activation* to, std::int64_t n, std::int64_t channels,
                            const Change& change) {
        std::int64_t i = 0;
        if (channels == 3)  // of colors four lie in a vector
            for (; i + 8 <= n; i += 8, to += 16) {
                const auto four = [&](std::int64_t pixel) {
                    return change(_mm512_maskz_expand_ps(0x7777, load_source(x, at + pixel * 3, 12)));
                };
                _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(four(i + 4), four(i))));
            }
        for (; i < n; ++i, to += (channels + 1) / 2) stage_pairs(x, at + i * channels, to, channels, change);
    }
    template <class Change>
    static void stage_pairs(Source x, std::int64_t at, Activation* to, std::int64_t n, const Change& change) {
        std::int64_t i = 0;
        if (x.half)
            for (const Half* p = static_cast<const Half*>(x.data) + at; i + 32 <= n; i += 32, to += 16) {
                const auto low = change(Isa::load(p + i)), high = change(Isa::load(p + i + 16));
                _mm512_storeu_si512(to, reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low)));
            }
        for (; i < n; i += 32, to += 16) {
            const auto low = load_source(x, at + i, n - i);
            const auto high = n - i > 16 ? load_source(x, at + i + 16, n - i - 16) : Isa::zero();
            const auto pairs = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(change(high), change(low)));
            const std::int64_t left = (n - i + 1) / 2;
            _mm512_mask_storeu_epi32(to, left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1), pairs);
        }
    }
};
