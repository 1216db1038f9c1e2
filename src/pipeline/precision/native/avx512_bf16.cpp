// AVX-512 with BF16: everything that AVX-512 has, and products of pairs of bfloat16 at twice the rate.
#include "avx512.hpp"

namespace {

using namespace parsimony;

#include "convert.inl"
#include "functions.inl"
#include "finish.inl"
#include "tile.inl"
#include "multiply.inl"
#include "convolve.inl"
#include "winograd.inl"
#include "dot.inl"

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

double peak_dots(std::int64_t iterations) {
    constexpr int chains = 12;
    Isa::Vector sum[chains];
    // Without being unrolled this is a call that clears memory, where the sums then stay: half the rate on a Zen 4.
#pragma GCC unroll 12
    for (int j = 0; j < chains; ++j) sum[j] = Isa::zero();
    const Dot::Loaded a = Dot::all(0x3f803f80);
    for (std::int64_t i = 0; i < iterations; ++i) {
#pragma GCC unroll 12
        for (int j = 0; j < chains; ++j) {
            sum[j] = Dot::multiply_add(a, a, sum[j]);
            asm volatile("" : "+v"(sum[j]));
        }
    }
    return 4.0 * chains * Isa::lanes * static_cast<double>(iterations);
}

}  // namespace

const parsimony::Routines& parsimony::avx512_bf16_routines() {
    static const Routines table = [] {
        Routines all = avx512_routines();
        all.name = "avx512_bf16";
        all.peak_pairs = &peak_dots;
        all.brain = {&multiply_pairs, &convolve_pairs, &winograd_pairs, nullptr};
        return all;
    }();
    return table;
}
