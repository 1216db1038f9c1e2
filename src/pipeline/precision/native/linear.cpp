// Linear layers, and convolutions that are one: the same map for every pixel.
#include <stdexcept>

#include "packing.hpp"

namespace parsimony {
namespace {

template <class Weight>
class Linear final : public Layer {
public:
    Linear(const Routines& table, const Affine& affine, Stored storage, std::int64_t rows_per_sample)
        : table_(table),
          // A wide panel suits a vector, and costs rows nothing where a tile of them is still high enough.
          packed_(table, affine, 1, vectors_for(table, affine.outputs, table.max_rows[2])),
          rows_per_sample_(rows_per_sample) {
        input_size = affine.inputs * rows_per_sample;
        output_size = affine.outputs * rows_per_sample;
        weight_bytes = packed_.n_bytes();
        stored = storage;
        product_.inputs = affine.inputs;
        // A quarter of a MiB of activations stays in a level 2 cache; 96 rows share one reading of the weights.
        // In pairs a block is worked off so fast that it should stay in the level 1 cache, with rows of whole tiles.
        constexpr std::int64_t longest = 1024, block = depth_of<Weight> == 2 ? 8192 : 65536;
        constexpr std::int64_t least = depth_of<Weight> == 2 ? 128 : 96;
        product_.inputs_per_block = std::min(packed_.panels.inputs, longest);
        product_.rows_per_block = std::max<std::int64_t>(least, block / product_.inputs_per_block / 16 * 16);
    }
    std::int64_t run(const Call& call, const Team& team, unsigned char* workspace) const override {
        Product product = product_;
        const std::int64_t rows = call.batch * rows_per_sample_;
        product.vector = is_vector(call.batch);
        const ScratchSize size = scratch(call.batch);
        const Epilogue epilogue = packed_.coefficients.epilogue(call.residual, stored.residual);
        const Source x{call.x, stored.half_input};
        const Target y{call.y, stored.half_output};
        constexpr std::int64_t grain = 112;  // rows for which reading the weights once more pays
        return share(team, rows, grain, packed_.n_panels, [&](Part part, int thread) {
            return routines_of<Weight>(table_).multiply(packed_.panels, epilogue, product, x, y, part,
                                                        size.at(workspace, thread));
        });
    }
    std::size_t workspace(std::int64_t batch) const override { return scratch(batch).bytes(); }
    std::int64_t rows() const override { return rows_per_sample_ > 1 ? rows_per_sample_ : 0; }
    std::int64_t run_rows(const Strip& strip, unsigned char* workspace) const override {
        const std::int64_t inputs = product_.inputs * static_cast<std::int64_t>(stored.half_input ? sizeof(Half) : sizeof(float));
        const Source x{static_cast<const char*>(strip.x) + (strip.rows.begin - strip.x_begin) * inputs, stored.half_input};
        return routines_of<Weight>(table_).multiply(
            packed_.panels, packed_.coefficients.epilogue(strip.residual, stored.residual), product_, x,
            {strip.y, stored.half_output}, {0, strip.rows.size(), 0, packed_.n_panels}, scratch(1).at(workspace, 0));
    }
    std::int64_t conversions(std::int64_t batch) const override {
        const std::int64_t rows = batch * rows_per_sample_, height = std::min(rows, product_.rows_per_block);
        const std::int64_t tiles = ceil_divide(height, max_rows(table_, packed_.panels.vectors));
        const bool once = scratch(batch).panel > 0 && tiles >= table_.widen_from_tiles;
        const std::int64_t weights = std::is_same_v<Weight, Half> ? packed_.n_weights() : 0;
        return weights * ceil_divide(rows, product_.rows_per_block) * (once ? 1 : tiles) +
               stored.half_input * batch * input_size + converted_results(batch);
    }
    std::int64_t flops(std::int64_t batch) const override {
        return 2 * batch * rows_per_sample_ * product_.inputs * packed_.panels.outputs * (copies_of<Weight> == 2 ? 3 : 1);
    }
    std::string routine(std::int64_t batch) const override {
        return (is_vector(batch) ? "matrix-vector " : "matrix-matrix ") +
               tile_name(table_, packed_.panels.vectors, storage_name<Weight>);
    }

private:
    bool is_vector(std::int64_t batch) const { return batch * rows_per_sample_ == 1 && depth_of<Weight> == 1; }
    ScratchSize scratch(std::int64_t batch) const {
        if (is_vector(batch)) return {product_.inputs, 0, 0};
        const std::int64_t rows = std::min(batch * rows_per_sample_, product_.rows_per_block);
        const std::int64_t width = packed_.panels.vectors * table_.lanes;
        const bool blocks = product_.inputs_per_block < packed_.panels.inputs;
        const std::int64_t high = depth_of<Weight> == 2 ? rows + spare : rows;
        return {copies_of<Weight> * high * Winograd::odd_lines(product_.inputs_per_block),
                widened_size<Weight>(table_, width * product_.inputs_per_block),
                blocks ? high * packed_.n_panels * width : 0};
    }

    const Routines& table_;
    Packed<Weight> packed_;
    Product product_{};
    std::int64_t rows_per_sample_;
};

}  // namespace

std::string precision_of(const std::string& routine) {
    const std::size_t end = routine.find('_');
    return end == std::string::npos ? "" : routine.substr(end + 1);
}

std::vector<std::string> linear_routines(const Routines& table) {
    std::vector<std::string> names{"product"};
    if (table.brain.multiply != nullptr) names.emplace_back("product_bf16");
    if (table.split.multiply != nullptr) names.emplace_back("product_split");
    return names;
}

LayerPointer make_rows(const Routines& table, const Affine& affine, Stored stored, const std::string& precision,
                       std::int64_t rows_per_sample) {
    if (precision == "split") return std::make_shared<Linear<SplitPair>>(table, affine, stored, rows_per_sample);
    if (precision == "bf16") return std::make_shared<Linear<BrainPair>>(table, affine, stored, rows_per_sample);
    if (affine.half) return std::make_shared<Linear<Half>>(table, affine, stored, rows_per_sample);
    return std::make_shared<Linear<float>>(table, affine, stored, rows_per_sample);
}

LayerPointer make_linear(const Routines& table, const Affine& affine, Stored stored, const std::string& routine) {
    const auto offered = linear_routines(table);
    if (std::find(offered.begin(), offered.end(), routine) == offered.end())
        throw std::invalid_argument("the instruction set '" + std::string(table.name) + "' has no routine '" + routine +
                                    "' for a linear layer");
    return make_rows(table, affine, stored, precision_of(routine), 1);
}

}  // namespace parsimony
