// Direct convolution, and the choice between the routines for a convolution.
#include <stdexcept>

#include "packing.hpp"

namespace parsimony {
namespace {

// Whether the windows are single pixels, some of which no window reads.
bool skips(const Window& w) {
    return w.kernel_height == 1 && w.kernel_width == 1 && (w.stride_height > 1 || w.stride_width > 1) &&
           w.pad_height == 0 && w.pad_width == 0 && w.pad_bottom == 0 && w.pad_right == 0;
}

template <class Weight>
class Convolutional final : public Layer {
public:
    Convolutional(const Routines& table, const Affine& affine, const Window& w, std::int64_t image_channels, Stored storage)
        : table_(table),
          packed_(table, affine, w.groups, vectors_for(table, affine.outputs / w.groups, w.out_width)) {
        input_size = image_channels * w.height * w.width;
        output_size = affine.outputs * w.out_height * w.out_width;
        weight_bytes = packed_.n_bytes();
        stored = storage;
        shape_.channels = w.channels, shape_.image_channels = image_channels;
        shape_.height = shape_.image_height = w.height, shape_.width = shape_.image_width = w.width;
        shape_.every_row = shape_.every_column = 1;
        shape_.out_height = w.out_height, shape_.out_width = w.out_width;
        shape_.kernel_height = w.kernel_height, shape_.kernel_width = w.kernel_width;
        shape_.stride_height = w.stride_height, shape_.stride_width = w.stride_width;
        shape_.pad_height = w.pad_height, shape_.pad_width = w.pad_width;
        shape_.pad_bottom = w.pad_bottom, shape_.pad_right = w.pad_right;
        shape_.dilation_height = w.dilation_height, shape_.dilation_width = w.dilation_width;
        shape_.group_channels = w.channels / w.groups;
        if (skips(w) && w.channels == image_channels) {
            shape_.every_row = w.stride_height, shape_.every_column = w.stride_width;
            shape_.height = w.out_height, shape_.width = w.out_width;
            shape_.stride_height = shape_.stride_width = 1;
        }
        constexpr std::int64_t depth = depth_of<Weight>;
        const std::int64_t row = shape_.padded_width() * w.channels / depth;
        // Without dilation or groups the taps of a kernel row are neighbors: one run.
        const std::int64_t runs_per_row = w.dilation_width == 1 && w.groups == 1 ? 1 : w.kernel_width;
        for (std::int64_t i = 0; i < w.kernel_height; ++i)
            for (std::int64_t j = 0; j < runs_per_row; ++j)
                runs_.push_back(i * w.dilation_height * row + j * w.dilation_width * w.channels / depth);
        shape_.runs = runs_.data();
        shape_.n_runs = static_cast<std::int64_t>(runs_.size());
        shape_.run_length = w.kernel_width / runs_per_row * shape_.group_channels / depth;
        // Frames of a quarter of a MiB together: they stay near while every panel passes over them.
        const std::int64_t images = 65536 / shape_.padded_size();
        shape_.images_per_block = std::min<std::int64_t>(16, std::max<std::int64_t>(1, images));
    }
    std::int64_t run(const Call& call, const Team& team, unsigned char* workspace) const override {
        const ScratchSize size = scratch(call.batch);
        const Epilogue epilogue = packed_.coefficients.epilogue(call.residual, stored.residual);
        const Source x{call.x, stored.half_input};
        const Target y{call.y, stored.half_output};
        return share(team, call.batch, 1, packed_.n_panels, [&](Part part, int thread) {
            return routines_of<Weight>(table_).convolve(packed_.panels, epilogue, shape_, x, y, part,
                                                        size.at(workspace, thread));
        });
    }
    std::size_t workspace(std::int64_t batch) const override { return scratch(batch).bytes(); }
    std::int64_t conversions(std::int64_t batch) const override {
        const std::int64_t images = std::min(batch, shape_.images_per_block);
        const std::int64_t tiles =
            images * shape_.out_height * ceil_divide(shape_.out_width, max_rows(table_, packed_.panels.vectors));
        const bool once = scratch(batch).panel > 0 && tiles >= table_.widen_from_tiles;
        const std::int64_t weights = std::is_same_v<Weight, Half> ? packed_.n_weights() : 0;
        return weights * ceil_divide(batch, shape_.images_per_block) * (once ? 1 : tiles) +
               stored.half_input * batch * shape_.image_channels * shape_.height * shape_.width + converted_results(batch);
    }
    std::int64_t flops(std::int64_t batch) const override {
        return 2 * batch * output_size * packed_.panels.inputs * depth_of<Weight> * (copies_of<Weight> == 2 ? 3 : 1);
    }
    std::string routine(std::int64_t) const override {
        return "direct convolution " + tile_name(table_, packed_.panels.vectors, storage_name<Weight>);
    }

private:
    ScratchSize scratch(std::int64_t batch) const {
        const std::int64_t width = packed_.panels.vectors * table_.lanes;
        const std::int64_t frames = std::min(batch, shape_.images_per_block) * shape_.padded_size();
        const std::int64_t beyond = depth_of<Weight> == 2 ? spare * shape_.stride_width * shape_.channels : 0;
        return {copies_of<Weight> * (frames + beyond) / depth_of<Weight>,
                widened_size<Weight>(table_, width * packed_.panels.inputs), 0};
    }

    const Routines& table_;
    Packed<Weight> packed_;
    Convolution shape_{};
    std::vector<std::ptrdiff_t> runs_;
};

bool is_pointwise(const Window& w) {
    return w.kernel_height == 1 && w.kernel_width == 1 && w.stride_height == 1 && w.stride_width == 1 &&
           w.pad_height == 0 && w.pad_width == 0 && w.pad_bottom == 0 && w.pad_right == 0 && w.groups == 1;
}

// A layer that multiplies in pairs, as one of even channels: each tap's weights are filled up with a zero.
struct Paired {
    Affine affine;
    Window window;
    std::vector<Half> half{};
    std::vector<float> single{};
};

template <class T>
std::vector<T> with_zeros(const Affine& affine, std::int64_t channels) {
    const std::int64_t taps = affine.outputs * affine.inputs / channels;
    const auto* from = static_cast<const T*>(affine.weights);
    std::vector<T> weights(static_cast<std::size_t>(taps * (channels + 1)));
    for (std::int64_t tap = 0; tap < taps; ++tap)
        std::copy_n(from + tap * channels, channels, weights.begin() + tap * (channels + 1));
    return weights;
}

// Groups of fewer outputs than a vector has lanes, several of them as one, with zeros between them: as many products, and
// more of a tile in use.
template <class T>
std::vector<T> joined(const Affine& affine, const Window& w, std::int64_t groups) {
    const std::int64_t channels = w.channels / w.groups, taps = affine.inputs / channels;
    const std::int64_t outputs = affine.outputs / w.groups;
    const auto* from = static_cast<const T*>(affine.weights);
    std::vector<T> weights(static_cast<std::size_t>(affine.outputs * affine.inputs * groups));
    for (std::int64_t o = 0; o < affine.outputs; ++o)
        for (std::int64_t tap = 0; tap < taps; ++tap)
            std::copy_n(from + o * affine.inputs + tap * channels, channels,
                        weights.begin() + ((o * taps + tap) * groups + o / outputs % groups) * channels);
    return weights;
}

Paired paired(const Affine& affine, const Window& w) {
    Paired all{affine, w};
    const auto replace = [&](auto half, auto single, std::int64_t inputs) {
        all.half = std::move(half), all.single = std::move(single);
        all.affine.weights = affine.half ? static_cast<const void*>(all.half.data()) : all.single.data();
        all.affine.inputs = inputs;
    };
    std::int64_t groups = 1;  // in one
    while (w.groups % (2 * groups) == 0 && groups * affine.outputs / w.groups < 16) groups *= 2;
    if (groups > 1) {
        replace(affine.half ? joined<Half>(affine, w, groups) : std::vector<Half>(),
                affine.half ? std::vector<float>() : joined<float>(affine, w, groups), affine.inputs * groups);
        all.window.groups /= groups;
    } else if (w.channels / w.groups % 2 != 0) {
        replace(affine.half ? with_zeros<Half>(affine, w.channels) : std::vector<Half>(),
                affine.half ? std::vector<float>() : with_zeros<float>(affine, w.channels),
                affine.inputs / w.channels * (w.channels + 1));
        ++all.window.channels;
    }
    return all;
}

}  // namespace

std::vector<std::string> convolution_routines(const Routines& table, const Window& w, std::int64_t outputs) {
    std::vector<std::string> names{"direct"};
    if (w.groups == w.channels && outputs == w.channels && w.groups > 1) names.emplace_back("depthwise");
    const bool in_pairs = w.groups == 1 || w.channels / w.groups % 2 == 0;
    if (table.brain.convolve != nullptr && in_pairs) names.emplace_back("direct_bf16");
    if (table.split.convolve != nullptr && in_pairs) names.emplace_back("direct_split");
    if (w.groups > 1) return names;
    if (w.kernel_height == 3 && w.kernel_width == 3 && w.stride_height == 1 && w.stride_width == 1 &&
        w.dilation_height == 1 && w.dilation_width == 1) {
        names.emplace_back("winograd2");
        names.emplace_back("winograd4");
        if (table.brain.winograd != nullptr) names.emplace_back("winograd2_bf16");
    }
    return names;
}

LayerPointer make_convolution(const Routines& table, const Affine& affine, const Window& w, Stored stored,
                              const std::string& routine) {
    const auto offered = convolution_routines(table, w, affine.outputs);
    if (std::find(offered.begin(), offered.end(), routine) == offered.end()) {
        std::string names;
        for (const auto& name : offered) names += (names.empty() ? "" : ", ") + name;
        throw std::invalid_argument("the routine '" + routine + "' does not do this convolution on '" + table.name +
                                    "'; these do: " + names);
    }
    const std::string algorithm = routine.substr(0, routine.find('_'));
    const std::string precision = precision_of(routine);
    if (algorithm == "winograd2" || algorithm == "winograd4")
        return make_winograd(table, affine, w, stored, precision == "bf16", algorithm == "winograd2" ? 2 : 4);
    if (routine == "depthwise") return make_depthwise(table, affine, w, stored);
    if (is_pointwise(w)) return make_rows(table, affine, stored, precision, w.height * w.width);
    if (precision.empty()) {
        if (affine.half) return std::make_shared<Convolutional<Half>>(table, affine, w, w.channels, stored);
        return std::make_shared<Convolutional<float>>(table, affine, w, w.channels, stored);
    }
    const Paired all = paired(affine, w);
    if (precision == "split")
        return std::make_shared<Convolutional<SplitPair>>(table, all.affine, all.window, w.channels, stored);
    return std::make_shared<Convolutional<BrainPair>>(table, all.affine, all.window, w.channels, stored);
}

}  // namespace parsimony
