// Winograd layers: weights transformed in binary64 and rounded once.
#include <cmath>
#include <stdexcept>

#include "packing.hpp"

namespace parsimony {
namespace {

// G of F(m, 3); see winograd.inl for the points.
struct Points {
    int size;
    double g[6][3];
};

Points points_of(int m) {
    if (m == 2) return {4, {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}}};
    const double a = std::sqrt(0.5), b = std::sqrt(2.0), u = -1.0 / 1.5, v = 1.0 / 6.0;
    return {6, {{1, 0, 0}, {u, u * a, u / 2}, {u, -u * a, u / 2}, {v, v * b, v * 2}, {v, -v * b, v * 2}, {0, 0, 1}}};
}

// G g G^T of one output and one channel.
void transform(const Points& points, const double (&g)[3][3], double* to) {
    double half[6][3];
    for (int i = 0; i < points.size; ++i)
        for (int j = 0; j < 3; ++j)
            half[i][j] = points.g[i][0] * g[0][j] + points.g[i][1] * g[1][j] + points.g[i][2] * g[2][j];
    for (int i = 0; i < points.size; ++i)
        for (int j = 0; j < points.size; ++j)
            *to++ = half[i][0] * points.g[j][0] + half[i][1] * points.g[j][1] + half[i][2] * points.g[j][2];
}

double power_of_two(int exponent) {  // of a normal number
    const std::uint64_t bits = static_cast<std::uint64_t>(1023 + exponent) << 52;
    double x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

// Round to binary16, nearest even, a number that is known to be in its range. Next to 3 * 2^51 units there are whole
// units only, so that adding as many rounds.
Half rounded_to_half(double x) {
    std::uint64_t bits;
    std::memcpy(&bits, &x, sizeof bits);
    const int exponent = static_cast<int>(bits >> 52 & 0x7ff) - 1023;  // of the leading bit
    const double many = 3.0 * power_of_two(51 + std::max(exponent - 10, -24));
    const double magnitude = std::fabs(x) + many - many;
    const Half sign = static_cast<Half>(bits >> 48 & 0x8000);
    if (magnitude < 0x1p-14) return static_cast<Half>(sign | static_cast<int>(magnitude * 0x1p24));
    const auto exact = static_cast<float>(magnitude);
    std::uint32_t wide;
    std::memcpy(&wide, &exact, sizeof wide);
    return static_cast<Half>(sign | ((wide >> 13) - (112 << 10)));
}

template <class Weight>
class WinogradLayer final : public Layer {
public:
    WinogradLayer(const Routines& table, const Affine& affine, const Window& w, Stored storage, int m)
        : table_(table), vectors_(vectors_of(table, affine.outputs, w, m)),
          coefficients_(affine, 1, vectors_ * table.lanes) {
        input_size = w.channels * w.height * w.width;
        output_size = affine.outputs * w.out_height * w.out_width;
        stored = storage;
        shape_ = {m,            w.channels,  w.height,     w.width,    ceil_divide(w.channels, depth_of<Weight>),
                  w.out_height, w.out_width, w.pad_height, w.pad_width,
                  ceil_divide(w.out_height, m), ceil_divide(w.out_width, m), 0};
        pack(affine);
        // Transformed tiles of a third of a MiB, so that a level 2 cache holds them, their products and a panel.
        const std::int64_t fit = 90000 / (shape_.points() * shape_.tile_step());
        const std::int64_t height = max_rows(table, vectors_);
        tiles_per_block_ = std::max(height, fit / height * height);
    }
    std::int64_t run(const Call& call, const Team& team, unsigned char* workspace) const override {
        const Winograd shape = shape_for(call.batch);
        const ScratchSize size = scratch(shape);
        const Epilogue epilogue = coefficients_.epilogue(call.residual, stored.residual);
        const Source x{call.x, stored.half_input};
        const Target y{call.y, stored.half_output};
        constexpr std::int64_t grain = 24;  // tiles for which reading the weights once more pays
        return share(team, call.batch * shape.tiles_per_image(), grain, n_panels_, [&](Part part, int thread) {
            return routines_of<Weight>(table_).winograd(panels_, epilogue, shape, x, y, part,
                                                        size.at(workspace, thread));
        });
    }
    std::size_t workspace(std::int64_t batch) const override { return scratch(shape_for(batch)).bytes(); }
    std::int64_t conversions(std::int64_t batch) const override {
        const Winograd shape = shape_for(batch);
        const std::int64_t tiles = batch * shape.tiles_per_image();
        const std::int64_t high = ceil_divide(shape.tiles_per_block, max_rows(table_, vectors_));
        const bool once = scratch(shape).panel > 0 && high >= table_.widen_from_tiles;
        const std::int64_t weights = std::is_same_v<Weight, Half> ? static_cast<std::int64_t>(weights_.size()) : 0;
        const std::int64_t inputs = tiles * shape.points() * shape.channels;
        return weights * ceil_divide(tiles, shape.tiles_per_block) * (once ? 1 : high) + stored.half_input * inputs +
               converted_results(batch);
    }
    std::int64_t flops(std::int64_t batch) const override {
        return 2 * batch * shape_.tiles_per_image() * shape_.points() * shape_.channels * panels_.outputs;
    }
    std::string routine(std::int64_t) const override {
        const std::string m = std::to_string(shape_.m);
        return "Winograd F(" + m + "x" + m + ", 3x3) " + tile_name(table_, vectors_, storage_name<Weight>);
    }

private:
    static int vectors_of(const Routines& table, std::int64_t outputs, const Window& w, int m) {
        return vectors_for(table, outputs, ceil_divide(w.out_height, m) * ceil_divide(w.out_width, m));
    }

    // Tiles per block for a batch: as many as fit, in blocks of nearly equal size.
    Winograd shape_for(std::int64_t batch) const {
        Winograd shape = shape_;
        const std::int64_t tiles = std::max<std::int64_t>(1, batch * shape.tiles_per_image());  // a batch may be empty
        shape.tiles_per_block = ceil_divide(tiles, ceil_divide(tiles, tiles_per_block_));
        return shape;
    }
    ScratchSize scratch(const Winograd& shape) const {
        const std::int64_t width = vectors_ * table_.lanes;
        return {shape.points() * shape.point_step() + shape.channels,
                widened_size<Weight>(table_, width * shape.inputs), shape.points() * shape.sum_step(width)};
    }

    void pack(const Affine& affine) {
        const std::int64_t width = vectors_ * table_.lanes, channels = shape_.channels, points = shape_.points();
        const std::int64_t inputs = shape_.inputs;
        n_panels_ = ceil_divide(affine.outputs, width);
        weights_ = Buffer<Weight>(n_panels_ * points * inputs * width);
        weight_bytes = static_cast<std::int64_t>(weights_.size() * sizeof(Weight));
        panels_ = {weights_.data(), 1, affine.outputs, inputs, vectors_};
        const Points matrix = points_of(shape_.m);
        std::vector<double> transformed(channels * points);
        for (std::int64_t o = 0; o < affine.outputs; ++o) {
            double largest = 0.0;
            for (std::int64_t c = 0; c < channels; ++c) {
                double g[3][3];
                for (int tap = 0; tap < 9; ++tap)
                    g[tap / 3][tap % 3] = weight_at(affine, o * affine.inputs + tap * channels + c);
                transform(matrix, g, &transformed[c * points]);
            }
            for (const double u : transformed) largest = std::max(largest, std::fabs(u));
            if (!std::isfinite(largest)) throw std::invalid_argument("Winograd takes finite weights only");
            // For binary16, every output has its own power of two, which brings its largest weight to [2^13, 2^14).
            int exponent = 0;
            if (std::is_same_v<Weight, Half> && largest > 0.0) {
                std::frexp(largest, &exponent);
                exponent -= 14;
            }
            coefficients_.scale()[o] = std::ldexp(coefficients_.scale()[o], exponent);
            const double factor = std::ldexp(1.0, -exponent);
            for (std::int64_t c = 0; c < channels; ++c)
                for (std::int64_t point = 0; point < points; ++point) {
                    const double u = transformed[c * points + point] * factor;
                    const std::int64_t row = (o / width * points + point) * inputs + c / depth_of<Weight>;
                    Weight& to = weights_.data()[row * width + o % width];
                    if constexpr (std::is_same_v<Weight, Half>)
                        to = rounded_to_half(u);
                    else if constexpr (std::is_same_v<Weight, float>)
                        to = static_cast<float>(u);
                    else
                        to |= brain(static_cast<float>(u)) << c % 2 * 16;
                }
        }
    }

    const Routines& table_;
    int vectors_;
    Coefficients coefficients_;
    Buffer<Weight> weights_;
    Panels<Weight> panels_{};
    std::int64_t n_panels_ = 0;
    Winograd shape_{};
    std::int64_t tiles_per_block_ = 0;
};

}  // namespace

LayerPointer make_winograd(const Routines& table, const Affine& affine, const Window& w, Stored stored, bool brain,
                           int m) {
    if (brain) return std::make_shared<WinogradLayer<BrainPair>>(table, affine, w, stored, m);
    if (affine.half) return std::make_shared<WinogradLayer<Half>>(table, affine, w, stored, m);
    return std::make_shared<WinogradLayer<float>>(table, affine, w, stored, m);
}

}  // namespace parsimony
