// AVX-512 with AMX: products of bfloat16 in tiles of 16 x 16 results, eight times as fast as the dot products of pairs.
//
// A binary16 number is the sum of two bfloat16: `high` has 8 of its 11 bits and what is left has no more. So a product of
// two binary16 is high high + high low + low high + low low, of which the last, at most 2^-16 of the whole, is left out:
// weights and activations that are *split* multiply as binary16 at a third of bfloat16's rate.
//
// A tile of the left side is 16 rows of 16 pairs, one of the right side 16 pairs for 16 outputs, which is how panels lie.
#include "avx512.hpp"

#include <sys/syscall.h>
#include <unistd.h>

namespace {

using namespace parsimony;

#include "convert.inl"
#include "functions.inl"
#include "tile.inl"
#include "multiply.inl"
#include "convolve.inl"
#include "dot.inl"

// What rounding to bfloat16 leaves, rounded itself, which is exact for binary16. Of infinity nothing that is a number.
struct Low : Dot {
    static Isa::Vector rest(Isa::Vector v) {
        const auto bits = reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v));
        return _mm512_sub_ps(v, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
    }
    static void stage(Source x, std::int64_t at, Activation* to, std::int64_t n) {
        stage_pairs(x, at, to, n, [](Isa::Vector v) { return rest(v); });
    }
    static void stage_pixels(Source x, std::int64_t at, Activation* to, std::int64_t n, std::int64_t channels) {
        fill_pixels(x, at, to, n, channels, [](Isa::Vector v) { return rest(v); });
    }
};

// Rows of `n` numbers as pairs, to whole steps of sixteen pairs: zeros follow, for the weights behind the last ones are
// multiplied as well. Low parts go `low` further on.
template <bool split, class From>
void stage_rows(const From* x, std::int64_t rows, std::int64_t n, std::int64_t distance, BrainPair* to, std::int64_t step,
                std::int64_t low) {
    for (std::int64_t m = 0; m < rows; ++m, x += distance, to += step)
        for (std::int64_t i = 0; i < n; i += 32) {
            const std::int64_t left = n - i;
            const auto first = left >= 16 ? Isa::load(x + i) : Isa::load(x + i, left);
            const auto second = left >= 32   ? Isa::load(x + i + 16)
                                : left > 16 ? Isa::load(x + i + 16, left - 16)
                                            : Isa::zero();
            const auto high = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(to + i / 2, high);
            if constexpr (split) {
                const auto rest_of = [](Isa::Vector v, __m256i bits) {
                    return _mm512_sub_ps(v, _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16)));
                };
                const auto below = _mm512_cvtne2ps_pbh(rest_of(second, _mm512_extracti64x4_epi64(high, 1)),
                                                       rest_of(first, _mm512_castsi512_si256(high)));
                _mm512_storeu_si512(to + low + i / 2, reinterpret_cast<__m512i>(below));
            }
        }
}

template <class Weight>
constexpr bool is_split = sizeof(Weight) == 2 * sizeof(BrainPair);

constexpr std::int64_t largest = 16;  // rows of a tile, and pairs of a step

// The shapes of the tiles: four of sums, two of the left side, two of the right one.
struct Shapes {
    Shapes(std::int64_t rows, std::int64_t pairs) {
        struct alignas(64) {
            std::uint8_t palette = 1, start = 0, reserved[14] = {};
            std::uint16_t row_bytes[16] = {};
            std::uint8_t rows[16] = {};
        } shapes;
        for (int tile = 0; tile < 8; ++tile) {
            shapes.row_bytes[tile] = static_cast<std::uint16_t>(tile == 4 || tile == 5 ? 4 * pairs : 64);
            shapes.rows[tile] = static_cast<std::uint8_t>(tile < 6 ? rows : pairs);
        }
        asm volatile("" ::: "memory");
        _tile_loadconfig(&shapes);
    }
    ~Shapes() { _tile_release(); }
    Shapes(const Shapes&) = delete;
    Shapes& operator=(const Shapes&) = delete;
};

// One side of a product, in bytes: where it starts, from row to row, from tile to tile, and to its low parts.
struct Side {
    const char* data;
    std::ptrdiff_t row, tile, low;
};

template <int n>
inline void load_left(const char* p, const Side& side) {
    _tile_loadd(4, p, side.row);
    if constexpr (n > 1) _tile_loadd(5, p + side.tile, side.row);
}

template <int n>
inline void load_right(const char* p, const Side& side) {
    _tile_loadd(6, p, side.row);
    if constexpr (n > 1) _tile_loadd(7, p + side.tile, side.row);
}

template <int rows, int columns>
inline void multiply_add() {
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (columns > 1) _tile_dpbf16ps(1, 4, 7);
    if constexpr (rows > 1) _tile_dpbf16ps(2, 5, 6);
    if constexpr (rows > 1 && columns > 1) _tile_dpbf16ps(3, 5, 7);
}

// How far ahead weights are fetched while they are read for the first time: a line of a panel is too short for the
// hardware to see where they go on.
constexpr std::ptrdiff_t distance = 8192;

// `rows` x `columns` tiles of sums over runs of pairs, `pairs` of them in a step, the tiles' rows `height` each.
template <bool split, int rows, int columns>
void sum_tiles(Side left, Side right, const Runs& runs, std::int64_t pairs, std::int64_t height, bool first,
               const Sums& to) {
    const std::ptrdiff_t line = to.stride * static_cast<std::ptrdiff_t>(sizeof(float));
    float* below = to.data + height * to.stride;
    // The compiler does not know that tiles are loaded from memory.
    asm volatile("" ::: "memory");
    if (to.add) {
        _tile_loadd(0, to.data, line);
        if constexpr (columns > 1) _tile_loadd(1, to.data + 16, line);
        if constexpr (rows > 1) _tile_loadd(2, below, line);
        if constexpr (rows > 1 && columns > 1) _tile_loadd(3, below + 16, line);
    } else {
        _tile_zero(0);
        if constexpr (columns > 1) _tile_zero(1);
        if constexpr (rows > 1) _tile_zero(2);
        if constexpr (rows > 1 && columns > 1) _tile_zero(3);
    }
    const char* w = right.data;
    for (std::int64_t r = 0; r < runs.count; ++r) {
        const char* x = left.data + runs.starts[r] * static_cast<std::ptrdiff_t>(sizeof(BrainPair));
        for (std::int64_t k = 0; k < runs.length; k += pairs) {
            if (first)
                for (const char* p = w + distance; p < w + distance + pairs * right.row; p += 64)
                    _mm_prefetch(p, _MM_HINT_T0);
            load_right<columns>(w, right);
            if constexpr (split) {
                load_left<rows>(x + left.low, left);
                multiply_add<rows, columns>();
                load_left<rows>(x, left);
                multiply_add<rows, columns>();
                load_right<columns>(w + right.low, right);
            } else {
                load_left<rows>(x, left);
            }
            multiply_add<rows, columns>();
            x += pairs * sizeof(BrainPair);
            w += pairs * right.row;
        }
    }
    _tile_stored(0, to.data, line);
    if constexpr (columns > 1) _tile_stored(1, to.data + 16, line);
    if constexpr (rows > 1) _tile_stored(2, below, line);
    if constexpr (rows > 1 && columns > 1) _tile_stored(3, below + 16, line);
    asm volatile("" ::: "memory");
}

// The same for one or two tiles of rows and a whole panel.
template <bool split>
void sum_panel(const Side& left, Side right, const Runs& runs, std::int64_t pairs, std::int64_t height, int rows,
               int vectors, bool first, Sums to) {
    for (int v = 0; v < vectors; v += 2) {
        const bool two = v + 1 < vectors;
        if (rows > 1)
            two ? sum_tiles<split, 2, 2>(left, right, runs, pairs, height, first && v == 0, to)
                : sum_tiles<split, 2, 1>(left, right, runs, pairs, height, first && v == 0, to);
        else
            two ? sum_tiles<split, 1, 2>(left, right, runs, pairs, height, first && v == 0, to)
                : sum_tiles<split, 1, 1>(left, right, runs, pairs, height, first && v == 0, to);
        right.data += 2 * right.tile;
        to.data += 2 * Isa::lanes;
    }
}

// A panel's weights: lines of pairs for its outputs, behind each line of high parts that of the low ones.
template <class Weight>
Side panel_side(const Weight* w, int vectors) {
    const std::ptrdiff_t line = vectors * Isa::lanes * static_cast<std::ptrdiff_t>(sizeof(BrainPair));
    return {reinterpret_cast<const char*>(w), is_split<Weight> ? 2 * line : line, 64, line};
}

// Heights that cut `n` rows into as few tiles as there can be, nearly equal ones.
inline std::int64_t height_of(std::int64_t n) {
    const std::int64_t tiles = (n + largest - 1) / largest;
    return (n + tiles - 1) / tiles;
}

// Fetch where the next panel's results of some rows will go, and what will be added to them.
inline void fetch_results(const Epilogue& e, Target y, std::ptrdiff_t at, std::ptrdiff_t stride, std::int64_t rows) {
    const auto size = [](bool half) { return static_cast<std::ptrdiff_t>(half ? sizeof(Half) : sizeof(float)); };
    for (std::int64_t m = 0; m < rows; ++m) {
        const std::ptrdiff_t place = at + m * stride;
        __builtin_prefetch(static_cast<const char*>(y.data) + place * size(y.half), 1, 3);
        if (e.residual.data != nullptr)
            _mm_prefetch(static_cast<const char*>(e.residual.data) + place * size(e.residual.half), _MM_HINT_T0);
    }
}

template <class Weight>
std::int64_t multiply_tiles(const Panels<Weight>& panels, const Epilogue& epilogue, const Product& product, Source x,
                            Target y, Part part, Scratch scratch) {
    constexpr bool split = is_split<Weight>;
    const std::int64_t width = panels.vectors * Isa::lanes;
    const std::int64_t stride = (part.panel_end - part.panel_begin) * width;
    const std::int64_t step = Winograd::odd_lines(product.inputs_per_block);
    const std::ptrdiff_t start = 0;
    auto* block = reinterpret_cast<BrainPair*>(scratch.activations);
    std::int64_t saturated = 0;
    for (std::int64_t row = part.begin; row < part.end; row += product.rows_per_block) {
        const std::int64_t rows = smaller(part.end - row, product.rows_per_block), height = height_of(rows);
        const std::int64_t low = (rows + largest) * step;
        const Shapes shapes(height, largest);
        for (std::int64_t k = 0; k < panels.inputs; k += product.inputs_per_block) {
            const std::int64_t inputs = smaller(panels.inputs - k, product.inputs_per_block);
            const std::int64_t numbers = smaller(product.inputs - 2 * k, 2 * inputs);
            const std::int64_t from = row * product.inputs + 2 * k;
            if (x.half)
                stage_rows<split>(static_cast<const Half*>(x.data) + from, rows, numbers, product.inputs, block, step, low);
            else
                stage_rows<split>(static_cast<const float*>(x.data) + from, rows, numbers, product.inputs, block, step, low);
            const Runs runs{&start, 1, inputs};
            const bool only = inputs == panels.inputs, last = k + inputs == panels.inputs;
            for (std::int64_t panel = part.panel_begin; panel < part.panel_end; ++panel) {
                const Side right = panel_side(panels.data + (panel * panels.inputs + k) * width, panels.vectors);
                const Corner corner = corner_of(panels, epilogue, y, panel, panels.outputs);
                alignas(64) float two_tiles[2 * largest * 4 * Isa::lanes];
                float* sums = scratch.sums + (panel - part.panel_begin) * width;
                for (std::int64_t m = 0; m < rows; m += 2 * height) {
                    if (panel + 1 < part.panel_end && last) fetch_results(epilogue, y, (row + m) * panels.outputs + (panel + 1) * width, panels.outputs, smaller(rows - m, 2 * height));
                    const std::ptrdiff_t line = step * static_cast<std::ptrdiff_t>(sizeof(BrainPair));
                    const Side left{reinterpret_cast<const char*>(block + m * step), line, height * line,
                                    low * static_cast<std::ptrdiff_t>(sizeof(BrainPair))};
                    const Sums to{only ? two_tiles : sums + m * stride, only ? width : stride, k > 0};
                    sum_panel<split>(left, right, runs, largest, height, m + height < rows ? 2 : 1, panels.vectors, m == 0, to);
                    if (!last) continue;
                    Corner moved = corner;
                    moved.at += (row + m) * panels.outputs;
                    saturated += finish_rows(to.data, to.stride, smaller(rows - m, 2 * height), moved);
                }
            }
        }
    }
    return saturated;
}

// How the outputs of an image are cut: into lines of `count` places, `tiles` tiles of `height` to each. Where the window
// moves by one pixel, the places of a whole image are equally spaced if those beyond the ends of rows are counted.
struct Lines {
    std::int64_t n, count, tiles, height, columns;

    static Lines of(std::int64_t n, std::int64_t count, std::int64_t columns) {
        return {n, count, (count + largest - 1) / largest, height_of(count), columns};
    }
    std::int64_t cost() const { return n * tiles * (height + 4); }
};

inline Lines lines_of(const Convolution& shape) {
    const Lines rows = Lines::of(shape.out_height, shape.out_width, shape.out_width);
    if (shape.stride_height != 1 || shape.stride_width != 1) return rows;
    const std::int64_t count = (shape.out_height - 1) * shape.padded_width() + shape.out_width;
    const Lines whole = Lines::of(1, count, shape.padded_width());
    return whole.cost() < rows.cost() ? whole : rows;
}

template <class Weight>
std::int64_t convolve_tiles(const Panels<Weight>& panels, const Epilogue& epilogue, const Convolution& shape, Source x,
                            Target y, Part part, Scratch scratch) {
    constexpr bool split = is_split<Weight>;
    const std::int64_t width = panels.vectors * Isa::lanes, size = shape.padded_size() / 2;
    const std::int64_t per_group = (panels.outputs + width - 1) / width;
    const std::int64_t row_step = shape.stride_height * shape.padded_width() * shape.channels / 2;
    const std::int64_t step = shape.stride_width * shape.channels / 2;
    const Runs runs{shape.runs, shape.n_runs, shape.run_length};
    std::int64_t pairs = smaller(largest, runs.length);
    while (runs.length % pairs != 0) --pairs;
    const Lines lines = lines_of(shape);
    const Shapes shapes(lines.height, pairs);
    auto* frames = reinterpret_cast<BrainPair*>(scratch.activations);
    const std::int64_t low = smaller(part.end - part.begin, shape.images_per_block) * size;
    std::int64_t saturated = 0;
    for (std::int64_t first = part.begin; first < part.end; first += shape.images_per_block) {
        const std::int64_t n = smaller(part.end - first, shape.images_per_block);
        for (std::int64_t i = 0; i < n; ++i) {
            frame<Dot>(shape, x, first + i, frames + i * size);
            if constexpr (split) frame<Low>(shape, x, first + i, frames + low + i * size);
        }
        for (std::int64_t panel = part.panel_begin; panel < part.panel_end; ++panel) {
            const Side right = panel_side(panels.data + panel * width * panels.inputs, panels.vectors);
            const Corner corner = corner_of(panels, epilogue, y, panel, panels.groups * panels.outputs);
            const BrainPair* group = frames + panel / per_group * shape.group_channels / 2;
            alignas(64) float sums[2 * largest * 4 * Isa::lanes];
            for (std::int64_t line = 0; line < n * lines.n; ++line) {
                const std::int64_t image = line / lines.n, row = line % lines.n;
                const BrainPair* windows = group + image * size + row * row_step;
                for (std::int64_t m = 0; m < lines.count; m += 2 * lines.height) {
                    const std::ptrdiff_t bytes = step * static_cast<std::ptrdiff_t>(sizeof(BrainPair));
                    const Side left{reinterpret_cast<const char*>(windows + m * step), bytes, lines.height * bytes,
                                    low * static_cast<std::ptrdiff_t>(sizeof(BrainPair))};
                    const int rows = m + lines.height < lines.count ? 2 : 1;
                    sum_panel<split>(left, right, runs, pairs, lines.height, rows, panels.vectors, line == 0 && m == 0,
                                     {sums, width, false});
                    const std::int64_t end = smaller(lines.count, m + 2 * lines.height);
                    for (std::int64_t place = m; place < end;) {
                        const std::int64_t column = place % lines.columns;
                        const std::int64_t left_over = smaller(lines.columns - column, end - place);
                        const std::int64_t inside = smaller(shape.out_width - column, left_over);
                        if (inside > 0) {
                            Corner moved = corner;
                            const std::int64_t out_row =
                                (first + image) * shape.out_height + row + place / lines.columns;
                            moved.at += (out_row * shape.out_width + column) * corner.stride;
                            saturated += finish_rows(sums + (place - m) * width, width, inside, moved);
                        }
                        place += left_over;
                    }
                }
            }
        }
    }
    return saturated;
}

double peak_tiles(std::int64_t iterations) {
    const Shapes shapes(largest, largest);
    for (std::int64_t i = 0; i < iterations; ++i) multiply_add<2, 2>();
    return 4.0 * 2 * largest * Isa::lanes * 2 * largest * static_cast<double>(iterations);
}

}  // namespace

// Linux gives a process its tiles when it asks for them.
bool parsimony::permits_tiles() {
    constexpr long request_permission = 0x1023, tile_data = 18;
    static const bool permitted = syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    return permitted;
}

const parsimony::Routines& parsimony::amx_bf16_routines() {
    static const Routines table = [] {
        Routines all = avx512_bf16_routines();
        all.name = "amx_bf16";
        all.peak_pairs = &peak_tiles;
        all.brain.multiply = &multiply_tiles<BrainPair>;
        all.brain.convolve = &convolve_tiles<BrainPair>;
        all.split = {&multiply_tiles<SplitPair>, &convolve_tiles<SplitPair>, nullptr, nullptr};
        return all;
    }();
    return table;
}
