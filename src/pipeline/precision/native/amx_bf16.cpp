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
#include "finish.inl"
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
    constexpr std::ptrdiff_t ahead = 2048;
    for (std::int64_t m = 0; m < rows; ++m, x += distance, to += step)
        for (std::int64_t i = 0; i < n; i += 32) {
            const std::int64_t left = n - i;
            const auto first = left >= 16 ? Isa::load(x + i) : Isa::load(x + i, left);
            const auto second = left >= 32   ? Isa::load(x + i + 16)
                                : left > 16 ? Isa::load(x + i + 16, left - 16)
                                            : Isa::zero();
            const auto high = reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
            _mm512_storeu_si512(to + i / 2, high);
            _mm_prefetch(reinterpret_cast<const char*>(x + i) + ahead, _MM_HINT_T0);
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

template <int n>
inline void load_left(const char* p, std::ptrdiff_t row, std::ptrdiff_t tile) {
    _tile_loadd(4, p, row);
    if constexpr (n > 1) _tile_loadd(5, p + tile, row);
}

template <int n>
inline void load_right(const char* p, std::ptrdiff_t row) {
    _tile_loadd(6, p, row);
    if constexpr (n > 1) _tile_loadd(7, p + 64, row);
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
constexpr std::ptrdiff_t distance = 16384;

// Sums of tiles that wait for what is done to them before they are stored: vectors are free for it while the next tiles
// multiply. Of every `period` places the first `kept` are results, the others lie beyond the end of a row.
//
// Its fields are set one by one: a copy as a vector of what was just written in parts would wait for these writes.
struct Waiting {
    const float* sums;
    std::ptrdiff_t stride;
    std::int64_t next = 0, end = 0;  // places, of which `begin` is the first of the sums
    std::int64_t begin, period, kept;
    const Corner* corner;
    std::ptrdiff_t at;  // the number of place 0
    std::int64_t saturated = 0;

    // `work(first place, its result's number, how many)` for places [from, to), a run of results at a time.
    template <class Work>
    void for_results(std::int64_t from, std::int64_t to, const Work& work) const {
        if (period == kept) return work(from, at + from * corner->stride, to - from);
        while (from < to) {
            const std::int64_t column = from % period, left = smaller(period - column, to - from);
            const std::int64_t inside = smaller(kept - column, left);
            if (inside > 0) work(from, at + (from / period * kept + column) * corner->stride, inside);
            from += left;
        }
    }
    // Fetch where the results will go, and what will be added to them.
    void fetch() const {
        const auto lines = [](const void* data, bool half, std::ptrdiff_t first, std::int64_t n) {
            const std::ptrdiff_t size = half ? sizeof(Half) : sizeof(float);
            const char* p = static_cast<const char*>(data) + first * size;
            for (const char* stop = p + n * size; p < stop; p += 64) __builtin_prefetch(p, 1, 3);
        };
        const Source& residual = corner->epilogue.residual;
        for_results(begin, end, [&](std::int64_t, std::ptrdiff_t first, std::int64_t n) {
            for (; n > 0; --n, first += corner->stride) {
                lines(corner->y.data, corner->y.half, first, corner->n);
                if (residual.data != nullptr) lines(residual.data, residual.half, first, corner->n);
            }
        });
    }
    void finish(std::int64_t n) {
        const std::int64_t stop = smaller(end, next + n);
        for_results(next, stop, [&](std::int64_t place, std::ptrdiff_t first, std::int64_t count) {
            saturated += finish_rows(sums + (place - begin) * stride, stride, count, *corner, first);
        });
        next = stop;
    }
    void finish() {
        if (next < end) finish(end - next);
    }
    // How many to finish beside each of so many steps: a few at least, for a call has a price of its own.
    std::int64_t beside(std::int64_t steps) const {
        constexpr std::int64_t least = 4;
        const std::int64_t share = steps > 8 ? least : (end - next + steps - 1) / steps;
        return share < least ? least : share;
    }
};

// How sums of products run: over runs of pairs, `pairs` of them in a step, in tiles of `height` rows. Distances in bytes:
// from row to row of either side, and to its low parts.
struct Tiling {
    Runs runs;
    std::int64_t pairs, height;
    std::ptrdiff_t left_row, left_low, right_row, right_low;
    int vectors;

    // For panels of weights: lines of pairs for their outputs, behind each line of high parts that of the low ones.
    template <bool split>
    static Tiling of(const Runs& runs, std::int64_t pairs, std::int64_t height, std::ptrdiff_t left_row,
                     std::ptrdiff_t left_low, int vectors) {
        constexpr auto bytes = static_cast<std::ptrdiff_t>(sizeof(BrainPair));
        const std::ptrdiff_t line = vectors * Isa::lanes * bytes;
        return {runs, pairs, height, left_row * bytes, left_low * bytes, split ? 2 * line : line, line, vectors};
    }
    std::int64_t steps() const { return runs.count * ((runs.length + pairs - 1) / pairs); }
};

// `rows` x `columns` tiles of sums, of which the second row's left side is `tile` bytes behind the first one's. `first`:
// the weights have not been read before.
template <bool split, int rows, int columns>
void sum_tiles(const Tiling& t, const char* left, std::ptrdiff_t tile, const char* w, bool first, const Sums& to, int column,
               Waiting& before, std::int64_t beside) {
    const std::ptrdiff_t line = to.stride * static_cast<std::ptrdiff_t>(sizeof(float));
    float* above = to.data + column;
    float* below = above + t.height * to.stride;
    // The compiler does not know that tiles are loaded from memory.
    asm volatile("" ::: "memory");
    if (to.add) {
        _tile_loadd(0, above, line);
        if constexpr (columns > 1) _tile_loadd(1, above + 16, line);
        if constexpr (rows > 1) _tile_loadd(2, below, line);
        if constexpr (rows > 1 && columns > 1) _tile_loadd(3, below + 16, line);
    } else {
        _tile_zero(0);
        if constexpr (columns > 1) _tile_zero(1);
        if constexpr (rows > 1) _tile_zero(2);
        if constexpr (rows > 1 && columns > 1) _tile_zero(3);
    }
    const std::ptrdiff_t left_row = t.left_row, right_row = t.right_row;
    for (std::int64_t r = 0; r < t.runs.count; ++r) {
        const char* x = left + t.runs.starts[r] * static_cast<std::ptrdiff_t>(sizeof(BrainPair));
        for (std::int64_t k = 0; k < t.runs.length; k += t.pairs) {
            if (first)
                for (const char* p = w + distance; p < w + distance + t.pairs * right_row; p += 64)
                    _mm_prefetch(p, _MM_HINT_T0);
            load_right<columns>(w, right_row);
            if constexpr (split) {
                load_left<rows>(x + t.left_low, left_row, tile);
                multiply_add<rows, columns>();
                load_left<rows>(x, left_row, tile);
                multiply_add<rows, columns>();
                load_right<columns>(w + t.right_low, right_row);
            } else {
                load_left<rows>(x, left_row, tile);
            }
            multiply_add<rows, columns>();
            if (before.next < before.end) before.finish(beside);
            x += t.pairs * static_cast<std::ptrdiff_t>(sizeof(BrainPair));
            w += t.pairs * right_row;
        }
    }
    _tile_stored(0, above, line);
    if constexpr (columns > 1) _tile_stored(1, above + 16, line);
    if constexpr (rows > 1) _tile_stored(2, below, line);
    if constexpr (rows > 1 && columns > 1) _tile_stored(3, below + 16, line);
    asm volatile("" ::: "memory");
}

// The same for one or two tiles of rows and a whole panel; finishes what waits, and nothing else then does.
template <bool split>
void sum_panel(const Tiling& t, const char* left, std::ptrdiff_t tile, int rows, const char* w, bool first, const Sums& to,
               Waiting& before) {
    const std::int64_t beside = before.beside(t.steps() * ((t.vectors + 1) / 2));
    for (int v = 0; v < t.vectors; v += 2, w += 128) {
        const bool two = v + 1 < t.vectors;
        const auto sum = rows > 1 ? two ? &sum_tiles<split, 2, 2> : &sum_tiles<split, 2, 1>
                         : two    ? &sum_tiles<split, 1, 2>
                                  : &sum_tiles<split, 1, 1>;
        sum(t, left, tile, w, first && v == 0, to, v * Isa::lanes, before, beside);
    }
    before.finish();
}

// Heights that cut `n` rows into as few tiles as there can be, nearly equal ones.
inline std::int64_t height_of(std::int64_t n) {
    const std::int64_t tiles = (n + largest - 1) / largest;
    return (n + tiles - 1) / tiles;
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
    alignas(64) float two_tiles[2][2 * largest * 4 * Isa::lanes];
    // Whether a level 2 cache keeps the weights for the next rows.
    const bool far = stride * panels.inputs * static_cast<std::int64_t>(sizeof(Weight)) > (1 << 20);
    Waiting waiting[2];
    Corner corners[2];  // of this panel, and of the one before, which may wait
    int turn = 0, of_panel = 0;
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
            const Tiling tiling = Tiling::of<split>({&start, 1, inputs}, largest, height, step, low, panels.vectors);
            const bool only = inputs == panels.inputs, last = k + inputs == panels.inputs;
            for (std::int64_t panel = part.panel_begin; panel < part.panel_end; ++panel) {
                const Weight* w = panels.data + (panel * panels.inputs + k) * width;
                Corner& corner = corners[of_panel ^= 1] = corner_of(panels, epilogue, y, panel, panels.outputs);
                float* sums = scratch.sums + (panel - part.panel_begin) * width;
                for (std::int64_t m = 0; m < rows; m += 2 * height) {
                    const Sums to{only ? two_tiles[turn] : sums + m * stride, only ? width : stride, k > 0};
                    Waiting& results = waiting[turn];
                    results.sums = to.data, results.stride = to.stride;
                    results.begin = row + m, results.end = row + smaller(rows, m + 2 * height);
                    results.next = last ? results.begin : results.end;
                    results.period = results.kept = part.end;
                    results.corner = &corner, results.at = corner.at;
                    if (last) results.fetch();
                    sum_panel<split>(tiling, reinterpret_cast<const char*>(block + m * step), height * tiling.left_row,
                                     m + height < rows ? 2 : 1, reinterpret_cast<const char*>(w),
                                     m == 0 && (row == part.begin || far), to,
                                     waiting[turn ^ 1]);
                    turn ^= 1;
                }
            }
        }
        if (product.inputs_per_block < panels.inputs) waiting[turn ^ 1].finish();  // its sums lie where the next ones go
    }
    waiting[turn ^ 1].finish();
    return waiting[0].saturated + waiting[1].saturated;
}

// How outputs are cut into tiles of `height` places: into lines of `count` places, `tiles` of them to each. A line is a
// row of an image or, where the window moves by one pixel, a whole image, whose places are equally spaced if those beyond
// the ends of rows are counted. Of every `period` places the first `kept` are results.
struct Lines {
    bool image;  // whether a line is a whole image
    std::int64_t n, count, tiles, height, period, kept;

    static Lines of(bool image, std::int64_t n, std::int64_t count, std::int64_t period, std::int64_t kept) {
        const std::int64_t height = height_of(count), tiles = (count + height - 1) / height;
        return {image, n, count, tiles, height, image ? period : tiles * height, kept};
    }
    // Steps take as long as their products, one for each row of a tile, but reading the weights takes a while as well,
    // which two tiles share.
    std::int64_t cost() const {
        constexpr std::int64_t least = 44;
        const std::int64_t all = n * tiles, two = 4 * height, one = 2 * height;
        return all / 2 * (two < least ? least : two) + all % 2 * (one < least ? least : one);
    }
};

inline Lines lines_of(const Convolution& shape) {
    const std::int64_t n = shape.out_height, width = shape.out_width, padded = shape.padded_width();
    const Lines rows = Lines::of(false, n, width, width, width);
    if (shape.stride_height != 1 || shape.stride_width != 1) return rows;
    const Lines image = Lines::of(true, 1, (n - 1) * padded + width, padded, width);
    return image.cost() < rows.cost() ? image : rows;
}

template <class Weight>
std::int64_t convolve_tiles(const Panels<Weight>& panels, const Epilogue& epilogue, const Convolution& shape, Source x,
                            Target y, Part part, Scratch scratch) {
    constexpr bool split = is_split<Weight>;
    constexpr auto bytes = static_cast<std::ptrdiff_t>(sizeof(BrainPair));
    const std::int64_t width = panels.vectors * Isa::lanes, size = shape.padded_size() / 2;
    const std::int64_t per_group = (panels.outputs + width - 1) / width;
    const std::int64_t row_step = shape.stride_height * shape.padded_width() * shape.channels / 2;
    const std::int64_t step = shape.stride_width * shape.channels / 2;
    std::int64_t pairs = smaller(largest, shape.run_length);
    while (shape.run_length % pairs != 0) --pairs;
    const Lines lines = lines_of(shape);
    const Shapes shapes(lines.height, pairs);
    auto* frames = reinterpret_cast<BrainPair*>(scratch.activations);
    const std::int64_t low = smaller(part.end - part.begin, shape.images_per_block) * size;
    const Tiling tiling = Tiling::of<split>({shape.runs, shape.n_runs, shape.run_length}, pairs, lines.height, step, low,
                                            panels.vectors);
    alignas(64) float sums[2][2 * largest * 4 * Isa::lanes];
    Waiting waiting[2];
    Corner corners[2];  // of this panel, and of the one before, which may wait
    int turn = 0, of_panel = 0;
    for (std::int64_t first = part.begin; first < part.end; first += shape.images_per_block) {
        const std::int64_t n = smaller(part.end - first, shape.images_per_block);
        for (std::int64_t i = 0; i < n; ++i) {
            frame<Dot>(shape, x, first + i, frames + i * size);
            if constexpr (split) frame<Low>(shape, x, first + i, frames + low + i * size);
        }
        // Rows of all images follow each other, and two tiles may belong to different ones.
        const std::int64_t tiles = lines.image ? lines.tiles : n * lines.n * lines.tiles;
        for (std::int64_t panel = part.panel_begin; panel < part.panel_end; ++panel) {
            const auto* w = reinterpret_cast<const char*>(panels.data + panel * width * panels.inputs);
            Corner& corner = corners[of_panel ^= 1] = corner_of(panels, epilogue, y, panel, panels.groups * panels.outputs);
            const BrainPair* group = frames + panel / per_group * shape.group_channels / 2;
            for (std::int64_t image = 0; image < (lines.image ? n : 1); ++image) {
                const auto at = [&](std::int64_t tile) {
                    const std::int64_t line = tile / lines.tiles, place = tile % lines.tiles * lines.height;
                    return (image + line / lines.n) * size + line % lines.n * row_step + place * step;
                };
                std::int64_t next = at(0);
                for (std::int64_t tile = 0; tile < tiles; tile += 2) {
                    const bool two = tile + 1 < tiles;
                    const std::int64_t here = next, second = two ? at(tile + 1) : here;
                    if (tile + 2 < tiles) next = at(tile + 2);
                    Waiting& results = waiting[turn];
                    results.sums = sums[turn], results.stride = width;
                    results.begin = results.next = tile * lines.height;
                    results.end = smaller(tile + 2, tiles) * lines.height;
                    if (lines.image) results.end = smaller(results.end, lines.count);
                    results.period = lines.period, results.kept = lines.kept;
                    results.corner = &corner;
                    results.at = corner.at + (first + image) * shape.out_height * shape.out_width * corner.stride;
                    results.fetch();
                    sum_panel<split>(tiling, reinterpret_cast<const char*>(group + here),
                                     (second - here) * static_cast<std::ptrdiff_t>(sizeof(BrainPair)), two ? 2 : 1, w,
                                     image == 0 && tile == 0, {sums[turn], width, false}, waiting[turn ^ 1]);
                    turn ^= 1;
                }
            }
        }
    }
    waiting[turn ^ 1].finish();
    return waiting[0].saturated + waiting[1].saturated;
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
