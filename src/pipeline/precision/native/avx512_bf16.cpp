// AVX-512 with BF16: everything that AVX-512 has, and products of pairs of bfloat16 at twice the rate.
#include "avx512.hpp"

namespace {

using namespace parsimony;

#include "convert.inl"
#include "functions.inl"
#include "tile.inl"
#include "multiply.inl"
#include "convolve.inl"
#include "winograd.inl"

// Activations and weights in pairs of bfloat16; two products and their sum per lane and step. Subnormal numbers, below
// 2^-126, count as zero in this instruction.
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
        for (std::int64_t i = 0; i < n; i += 32, to += 16) {
            const auto low = load_source(x, at + i, n - i);
            const auto high = n - i > 16 ? load_source(x, at + i + 16, n - i - 16) : Isa::zero();
            const auto pairs = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(high, low));
            const std::int64_t left = (n - i + 1) / 2;
            _mm512_mask_storeu_epi32(to, left >= 16 ? 0xffff : static_cast<__mmask16>((1u << left) - 1), pairs);
        }
    }
    static void store(Activation* to, Isa::Vector v) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
    }
};

std::int64_t multiply_pairs(const Panels<BrainPair>& panels, const Epilogue& epilogue, const Product& product, Source x,
                            Target y, Part part, Scratch scratch) {
    return multiply_rows<Dot>(panels, epilogue, product, x, y, part, scratch);
}

std::int64_t convolve_pairs(const Panels<BrainPair>& panels, const Epilogue& epilogue, const Convolution& shape,
                            Source x, Target y, Part part, Scratch scratch) {
    return convolve_as<Dot>(panels, epilogue, shape, x, y, part, scratch);
}

// F(2, 3) only: the larger transforms of F(4, 3) cancel more of bfloat16's eight bits than a layer can spare.
std::int64_t winograd_pairs(const Panels<BrainPair>& panels, const Epilogue& epilogue, const Winograd& shape, Source x,
                            Target y, Part part, Scratch scratch) {
    return winograd_as<Dot, 2>(panels, epilogue, shape, x, y, part, scratch);
}

}  // namespace

const parsimony::Routines& parsimony::avx512_bf16_routines() {
    static const Routines table = [] {
        Routines all = avx512_routines();
        all.name = "avx512_bf16";
        all.brain = {&multiply_pairs, &convolve_pairs, &winograd_pairs, nullptr};
        return all;
    }();
    return table;
}
