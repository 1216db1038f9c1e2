// The contract between the half-precision layers and the instruction sets.
//
// Every instruction set fills one `Routines` table in a translation unit of its own, compiled with its own flags; a
// table is called only after `available` said that the processor has it. Weights lie in *panels*, activations
// channels-last. `routine_bound` in error.py bounds what the routines may be off by, whatever the order of their sums.
//
//   panel layout   [ceil(outputs / width)][inputs][width], width = vectors * lanes, zeros behind the last output:
//                  one sequential stream of weights for every routine, whatever the batch.
//   activations    [image][row][column][channel], binary16 or binary32.
//   arithmetic     binary32 throughout; binary16 is how numbers are stored. y = scale * (W x) + bias, then ReLU.
//                  `scale` holds powers of two, so the product is exact and each output is rounded once on the way out.
//   saturation     a result that binary16 cannot hold is stored as +-65504 and counted; NaN stays NaN.
#pragma once

#include <cstddef>
#include <cstdint>

namespace parsimony {

using Half = std::uint16_t;  // the bits of an IEEE 754 binary16

struct Source {
    const void* data;
    bool half;
};

struct Target {
    void* data;
    bool half;
};

struct Epilogue {
    const float* scale;  // padded to whole panels, like bias
    const float* bias;
    bool relu;
};

template <class Weight>
struct Panels {
    const Weight* data;
    std::int64_t outputs;
    std::int64_t inputs;
    int vectors;  // 1, 2 or 4 vectors wide
};

struct Convolution {
    std::int64_t channels, height, width;
    std::int64_t out_height, out_width;
    std::int64_t kernel_height, kernel_width;
    std::int64_t stride_height, stride_width;
    std::int64_t pad_height, pad_width;
    std::int64_t dilation_height, dilation_width;
    // Where the taps start in a padded image; taps that are neighbors in memory form one run.
    const std::ptrdiff_t* runs;
    std::int64_t n_runs;
    std::int64_t run_length;
    std::int64_t images_per_block;

    std::int64_t padded_height() const { return height + 2 * pad_height; }
    std::int64_t padded_width() const { return width + 2 * pad_width; }
    std::int64_t padded_size() const { return padded_height() * padded_width() * channels; }
};

struct Pooling {
    std::int64_t channels, height, width;
    std::int64_t out_height, out_width;
    // The window of output (i, j) is rows [row_start[i], row_end[i]) and columns [column_start[j], column_end[j]).
    const std::int64_t* row_start;
    const std::int64_t* row_end;
    const std::int64_t* column_start;
    const std::int64_t* column_end;
    bool average;  // the mean instead of the maximum
    bool relu;
};

struct Scratch {
    float* activations;  // rows_per_block * inputs of them, or images_per_block padded images
    float* panel;        // one panel, for weights that are widened once and used often; null: widen in registers
};

// Both return how many results were saturated.
template <class Weight>
struct WeightRoutines {
    std::int64_t (*multiply)(const Panels<Weight>&, const Epilogue&, Source x, Target y, std::int64_t rows,
                             std::int64_t rows_per_block, Scratch);
    std::int64_t (*convolve)(const Panels<Weight>&, const Epilogue&, const Convolution&, Source x, Target y,
                             std::int64_t images, Scratch);
};

struct Routines {
    const char* name;
    int lanes;
    // A panel of at most so many numbers that at least so many tiles use is widened once and not in every tile.
    std::int64_t widen_at_most, widen_from_tiles;
    int max_rows[3];  // rows of a register tile whose panel is 1, 2, 4 vectors wide; 0: not offered
    WeightRoutines<Half> half;
    WeightRoutines<float> single;
    std::int64_t (*pool)(const Pooling&, Source x, Target y, std::int64_t images);
    void (*half_to_float)(const Half*, float*, std::int64_t);
    void (*float_to_half)(const float*, Half*, std::int64_t);  // nearest even; beyond the range: infinity
    // What the processor can do at most; each returns how much it did, for the caller to divide by time.
    double (*peak_fma)(std::int64_t iterations);                            // floating-point operations
    double (*peak_convert)(const Half*, std::int64_t n);                    // binary16 numbers
    double (*peak_read)(const float*, std::int64_t n, int kernel);          // bytes; n is a multiple of 256
};

constexpr int n_read_kernels = 3;

const Routines& portable_routines();
#ifdef PARSIMONY_X86
const Routines& avx2_routines();
const Routines& avx512_routines();
#endif

// The tables this processor can run, best first; `find` returns null for one that it cannot.
int available(const Routines* tables[], int capacity);
const Routines* find(const char* name);

}  // namespace parsimony
