// Depthwise layers: weights [tap][channel].
#include "packing.hpp"

namespace parsimony {
namespace {

template <class Weight>
class Depthwise final : public Layer {
public:
    Depthwise(const Routines& table, const Affine& affine, const Window& w, Stored storage)
        : table_(table), coefficients_(affine, 1, table.lanes), weights_(affine.inputs * w.channels) {
        input_size = w.channels * w.height * w.width;
        output_size = w.channels * w.out_height * w.out_width;
        weight_bytes = static_cast<std::int64_t>(weights_.size() * sizeof(Weight));
        stored = storage;
        shape_.channels = w.channels, shape_.height = w.height, shape_.width = w.width;
        shape_.out_height = w.out_height, shape_.out_width = w.out_width;
        shape_.kernel_height = w.kernel_height, shape_.kernel_width = w.kernel_width;
        shape_.stride_height = w.stride_height, shape_.stride_width = w.stride_width;
        shape_.pad_height = w.pad_height, shape_.pad_width = w.pad_width;
        shape_.pad_bottom = w.pad_bottom, shape_.pad_right = w.pad_right;
        shape_.dilation_height = w.dilation_height, shape_.dilation_width = w.dilation_width;
        shape_.group_channels = 1, shape_.image_channels = w.channels;
        const auto* source = static_cast<const Weight*>(affine.weights);
        for (std::int64_t c = 0; c < w.channels; ++c)
            for (std::int64_t tap = 0; tap < affine.inputs; ++tap)
                weights_.data()[tap * w.channels + c] = source[c * affine.inputs + tap];
    }
    std::int64_t run(const Call& call, const Team& team, unsigned char*) const override {
        const Epilogue epilogue = coefficients_.epilogue(call.residual, stored.residual);
        const Source x{call.x, stored.half_input};
        const Target y{call.y, stored.half_output};
        const std::int64_t grain = ceil_divide(2 * worth_a_thread * shape_.out_height, flops(1));
        return share(team, call.batch * shape_.out_height, grain, 1, [&](Part part, int) {
            return routines_of<Weight>(table_).depthwise(weights_.data(), epilogue, shape_, x, y, part);
        });
    }
    std::size_t workspace(std::int64_t) const override { return 0; }
    std::int64_t rows() const override { return shape_.out_height * shape_.out_width; }
    std::int64_t input_rows() const override { return shape_.height * shape_.width; }
    std::int64_t input_rows_together() const override { return shape_.width; }
    std::int64_t rows_together() const override { return shape_.out_width; }
    Range reach(Range results) const override {
        if (results.size() == 0) return {0, 0};
        const std::int64_t first = results.begin / shape_.out_width, last = (results.end - 1) / shape_.out_width;
        const std::int64_t from = first * shape_.stride_height - shape_.pad_height;
        const std::int64_t to = last * shape_.stride_height - shape_.pad_height +
                                (shape_.kernel_height - 1) * shape_.dilation_height + 1;
        return {std::clamp<std::int64_t>(from, 0, shape_.height) * shape_.width,
                std::clamp<std::int64_t>(to, 0, shape_.height) * shape_.width};
    }
    std::int64_t run_rows(const Strip& strip, unsigned char*) const override {
        Convolution shape = shape_;
        shape.first_line = strip.x_begin / shape_.width;
        const Part lines{strip.rows.begin / shape_.out_width, strip.rows.end / shape_.out_width, 0, 0};
        shape.first_out_line = lines.begin;
        return routines_of<Weight>(table_).depthwise(weights_.data(), coefficients_.epilogue(strip.residual, stored.residual),
                                                     shape, {strip.x, stored.half_input}, {strip.y, stored.half_output}, lines);
    }
    std::int64_t conversions(std::int64_t batch) const override {
        const bool half_weights = std::is_same_v<Weight, Half>;
        // In blocks, outputs share their inputs and weights; otherwise each tap reads both.
        std::int64_t inputs = flops(batch) / 2, weights = inputs;
        if (slides(shape_)) {
            const std::int64_t rows = batch * shape_.out_height * shape_.channels, kernel = shape_.kernel_width;
            // Two lines of outputs read so many of the image instead of twice the kernel's.
            const bool in_pairs = pairs_lines(shape_, table_.lanes) && shape_.out_height > 1;
            const std::int64_t lines = in_pairs ? kernel + shape_.stride_height : 2 * kernel;
            const bool wide = shape_.out_width >= depthwise_block;
            const std::int64_t blocks = wide ? ceil_divide(shape_.out_width, depthwise_block) : 0;
            const std::int64_t others = wide ? 0 : shape_.out_width;
            const std::int64_t columns = (depthwise_block - 1) * shape_.stride_width + kernel;
            inputs = rows * lines * (blocks * columns + others * kernel) / 2;
            weights = rows * kernel * kernel * (blocks + others);
        }
        return stored.half_input * inputs + half_weights * weights +
               converted_results(batch);
    }
    std::int64_t flops(std::int64_t batch) const override {
        return 2 * batch * output_size * shape_.kernel_height * shape_.kernel_width;
    }
    std::string routine(std::int64_t) const override {
        return std::string("depthwise convolution, ") + storage_name<Weight> + " weights, " + table_.name;
    }

private:
    const Routines& table_;
    Coefficients coefficients_;
    Buffer<Weight> weights_;
    Convolution shape_{};
};

}  // namespace

LayerPointer make_depthwise(const Routines& table, const Affine& affine, const Window& w, Stored stored) {
    if (affine.half) return std::make_shared<Depthwise<Half>>(table, affine, w, stored);
    return std::make_shared<Depthwise<float>>(table, affine, w, stored);
}

}  // namespace parsimony
