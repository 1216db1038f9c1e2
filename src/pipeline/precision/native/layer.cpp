#include "layer.hpp"

#include <algorithm>
#include <stdexcept>

namespace parsimony {
namespace {

std::int64_t ceil_divide(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }

template <class Weight>
const WeightRoutines<Weight>& routines_of(const Routines& table);
template <>
const WeightRoutines<Half>& routines_of(const Routines& table) {
    return table.half;
}
template <>
const WeightRoutines<float>& routines_of(const Routines& table) {
    return table.single;
}

// Weights in panels, with scale and bias padded to whole panels.
template <class Weight>
class Packed {
public:
    Packed(const Routines& table, const Affine& affine, int vectors)
        : widen_from_tiles_(table.widen_from_tiles),
          panels_{nullptr, affine.outputs, affine.inputs, vectors},
          relu_(affine.relu) {
        const std::int64_t width = vectors * table.lanes, padded = ceil_divide(affine.outputs, width) * width;
        weights_ = Buffer<Weight>(padded * affine.inputs);
        scale_ = Buffer<float>(padded);
        bias_ = Buffer<float>(padded);
        std::copy_n(affine.scale, affine.outputs, scale_.data());
        std::copy_n(affine.bias, affine.outputs, bias_.data());
        const auto* source = static_cast<const Weight*>(affine.weights);
        for (std::int64_t o = 0; o < affine.outputs; ++o) {
            Weight* column = weights_.data() + o / width * width * affine.inputs + o % width;
            for (std::int64_t k = 0; k < affine.inputs; ++k) column[k * width] = source[o * affine.inputs + k];
        }
        panels_.data = weights_.data();
        const std::int64_t panel = width * affine.inputs;
        if (sizeof(Weight) == sizeof(Half) && panel <= table.widen_at_most) wide_ = Buffer<float>(panel);
    }
    const Panels<Weight>& panels() const { return panels_; }
    Epilogue epilogue() const { return {scale_.data(), bias_.data(), relu_}; }
    float* wide() const { return wide_.data(); }
    // Weights widened when `n_tiles` tiles pass over every panel, in each of `n_blocks` blocks.
    std::int64_t widened(std::int64_t n_blocks, std::int64_t n_tiles) const {
        if (sizeof(Weight) != sizeof(Half)) return 0;
        const bool once = wide_.data() != nullptr && n_tiles >= widen_from_tiles_;
        return static_cast<std::int64_t>(weights_.size()) * n_blocks * (once ? 1 : n_tiles);
    }

private:
    std::int64_t widen_from_tiles_;
    Panels<Weight> panels_;
    Buffer<Weight> weights_;
    Buffer<float> scale_, bias_, wide_;
    bool relu_;
};

std::string tile_name(const Routines& table, int vectors, bool half) {
    return std::to_string(vectors * table.lanes) + " outputs wide, " + (half ? "fp16" : "fp32") + " weights, " +
           table.name;
}

int max_rows(const Routines& table, int vectors) { return table.max_rows[vectors == 1 ? 0 : vectors == 2 ? 1 : 2]; }

// The width of a panel that wastes least on outputs which are not there. A narrow panel makes more loads per
// multiply-add, which costs it a little; a wide one leaves registers for few rows, so it is taken only where the rows
// are no more than that.
int vectors_for(const Routines& table, std::int64_t outputs, std::int64_t rows) {
    const auto cost = [&](int vectors, double loads) {
        return loads * ceil_divide(outputs, vectors * table.lanes) * vectors;
    };
    const double one = cost(1, 1.2), two = cost(2, 1.02), four = cost(4, 1.0);
    if (table.max_rows[2] > 0 && rows <= table.max_rows[2] && four <= std::min(one, two)) return 4;
    return one < two ? 1 : 2;
}

template <class Weight>
class Linear final : public Layer {
public:
    Linear(const Routines& table, const Affine& affine, Storage storage)
        : table_(table), packed_(table, affine, vectors_for(table, affine.outputs, table.max_rows[2])) {
        input_size = affine.inputs;
        output_size = affine.outputs;
        half_input = storage.half_input;
        half_output = storage.half_output;
        // A quarter of a MiB of widened activations stays in a level 2 cache; 96 rows share one reading of the weights.
        rows_per_block_ = std::max<std::int64_t>(96, 65536 / affine.inputs);
        if (half_input) scratch_ = Buffer<float>(rows_per_block_ * affine.inputs);
    }
    std::int64_t run(const void* x, void* y, std::int64_t batch) const override {
        return routines_of<Weight>(table_).multiply(packed_.panels(), packed_.epilogue(), {x, half_input},
                                                    {y, half_output}, batch, rows_per_block_,
                                                    {scratch_.data(), packed_.wide()});
    }
    std::int64_t conversions(std::int64_t batch) const override {
        const std::int64_t rows = std::min(batch, rows_per_block_);
        const std::int64_t tiles = ceil_divide(rows, max_rows(table_, packed_.panels().vectors));
        return packed_.widened(ceil_divide(batch, rows_per_block_), tiles) + half_input * batch * input_size +
               half_output * batch * output_size;
    }
    std::string routine(std::int64_t batch) const override {
        return (batch == 1 ? "matrix-vector " : "matrix-matrix ") +
               tile_name(table_, packed_.panels().vectors, sizeof(Weight) == sizeof(Half));
    }

private:
    const Routines& table_;
    Packed<Weight> packed_;
    std::int64_t rows_per_block_;
    Buffer<float> scratch_;
};

template <class Weight>
class Convolutional final : public Layer {
public:
    Convolutional(const Routines& table, const Affine& affine, const Window& w, Storage storage)
        : table_(table), packed_(table, affine, vectors_for(table, affine.outputs, w.out_width)) {
        input_size = w.channels * w.height * w.width;
        output_size = affine.outputs * w.out_height * w.out_width;
        half_input = storage.half_input;
        half_output = storage.half_output;
        shape_.channels = w.channels, shape_.height = w.height, shape_.width = w.width;
        shape_.out_height = w.out_height, shape_.out_width = w.out_width;
        shape_.kernel_height = w.kernel_height, shape_.kernel_width = w.kernel_width;
        shape_.stride_height = w.stride_height, shape_.stride_width = w.stride_width;
        shape_.pad_height = w.pad_height, shape_.pad_width = w.pad_width;
        shape_.dilation_height = w.dilation_height, shape_.dilation_width = w.dilation_width;
        const std::int64_t row = shape_.padded_width() * w.channels;
        // Without dilation the taps of a kernel row are neighbors: one run.
        const std::int64_t runs_per_row = w.dilation_width == 1 ? 1 : w.kernel_width;
        for (std::int64_t i = 0; i < w.kernel_height; ++i)
            for (std::int64_t j = 0; j < runs_per_row; ++j)
                runs_.push_back(i * w.dilation_height * row + j * w.dilation_width * w.channels);
        shape_.runs = runs_.data();
        shape_.n_runs = static_cast<std::int64_t>(runs_.size());
        shape_.run_length = w.kernel_width / runs_per_row * w.channels;
        // Frames of a quarter of a MiB together: they stay near while every panel passes over them.
        const std::int64_t images = 65536 / shape_.padded_size();
        shape_.images_per_block = std::min<std::int64_t>(16, std::max<std::int64_t>(1, images));
        scratch_ = Buffer<float>(shape_.images_per_block * shape_.padded_size());
    }
    std::int64_t run(const void* x, void* y, std::int64_t batch) const override {
        return routines_of<Weight>(table_).convolve(packed_.panels(), packed_.epilogue(), shape_, {x, half_input},
                                                    {y, half_output}, batch,
                                                    {scratch_.data(), packed_.wide()});
    }
    std::int64_t conversions(std::int64_t batch) const override {
        const std::int64_t images = std::min(batch, shape_.images_per_block);
        const std::int64_t tiles =
            images * shape_.out_height * ceil_divide(shape_.out_width, max_rows(table_, packed_.panels().vectors));
        return packed_.widened(ceil_divide(batch, shape_.images_per_block), tiles) + half_input * batch * input_size +
               half_output * batch * output_size;
    }
    std::string routine(std::int64_t) const override {
        return "direct convolution " + tile_name(table_, packed_.panels().vectors, sizeof(Weight) == sizeof(Half));
    }

private:
    const Routines& table_;
    Packed<Weight> packed_;
    Convolution shape_{};
    std::vector<std::ptrdiff_t> runs_;
    Buffer<float> scratch_;
};

class Pool final : public Layer {
public:
    Pool(const Routines& table, PoolWindows windows, Storage storage) : table_(table), windows_(std::move(windows)) {
        const auto& w = windows_;
        shape_ = {w.channels,
                  w.height,
                  w.width,
                  static_cast<std::int64_t>(w.row_start.size()),
                  static_cast<std::int64_t>(w.column_start.size()),
                  w.row_start.data(),
                  w.row_end.data(),
                  w.column_start.data(),
                  w.column_end.data(),
                  w.average,
                  w.relu};
        input_size = w.channels * w.height * w.width;
        output_size = w.channels * shape_.out_height * shape_.out_width;
        half_input = storage.half_input;
        half_output = storage.half_output;
        for (std::size_t i = 0; i < w.row_start.size(); ++i)
            for (std::size_t j = 0; j < w.column_start.size(); ++j)
                reads_ += (w.row_end[i] - w.row_start[i]) * (w.column_end[j] - w.column_start[j]) * w.channels;
    }
    std::int64_t run(const void* x, void* y, std::int64_t batch) const override {
        return table_.pool(shape_, {x, half_input}, {y, half_output}, batch);
    }
    std::int64_t conversions(std::int64_t batch) const override {
        return half_input * batch * reads_ + half_output * batch * output_size;
    }
    std::string routine(std::int64_t) const override {
        return std::string(windows_.average ? "mean" : "maximum") + " over windows, " +
               (half_input ? "fp16" : "fp32") + " activations, " + table_.name;
    }

private:
    const Routines& table_;
    PoolWindows windows_;
    Pooling shape_{};
    std::int64_t reads_ = 0;
};

}  // namespace

std::shared_ptr<Layer> make_linear(const Routines& table, const Affine& affine, Storage storage) {
    if (affine.half) return std::make_shared<Linear<Half>>(table, affine, storage);
    return std::make_shared<Linear<float>>(table, affine, storage);
}

std::shared_ptr<Layer> make_convolution(const Routines& table, const Affine& affine, const Window& w, Storage storage) {
    if (affine.half) return std::make_shared<Convolutional<Half>>(table, affine, w, storage);
    return std::make_shared<Convolutional<float>>(table, affine, w, storage);
}

std::shared_ptr<Layer> make_pooling(const Routines& table, const PoolWindows& windows, Storage storage) {
    return std::make_shared<Pool>(table, windows, storage);
}

Chain::Chain(std::vector<std::shared_ptr<Layer>> layers, std::int64_t max_batch)
    : layers_(std::move(layers)), max_batch_(max_batch) {
    if (layers_.empty() || max_batch < 1) throw std::invalid_argument("a chain has layers and a batch of at least 1");
    std::size_t largest[2] = {0, 0};
    for (std::size_t i = 0; i + 1 < layers_.size(); ++i) {
        const Layer &layer = *layers_[i], &next = *layers_[i + 1];
        if (layer.output_size != next.input_size || layer.half_output != next.half_input)
            throw std::invalid_argument("layer " + std::to_string(i + 1) + " of the chain does not take what layer " +
                                        std::to_string(i) + " gives");
        const std::size_t bytes = layer.output_size * max_batch * (layer.half_output ? sizeof(Half) : sizeof(float));
        largest[i % 2] = std::max(largest[i % 2], bytes);
    }
    for (int i = 0; i < 2; ++i) between_[i] = Buffer<unsigned char>(largest[i]);
}

std::int64_t Chain::run(const void* x, void* y, std::int64_t batch) const {
    std::int64_t saturated = 0;
    for (std::size_t i = 0; i < layers_.size(); ++i) {
        void* to = i + 1 == layers_.size() ? y : between_[i % 2].data();
        saturated += layers_[i]->run(x, to, batch);
        x = to;
    }
    return saturated;
}

}  // namespace parsimony
