// Layers without weights: pooling and the sum of two activations.
#include <utility>

#include "packing.hpp"

namespace parsimony {
namespace {

class Pool final : public Layer {
public:
    Pool(const Routines& table, PoolWindows windows, Stored storage) : table_(table), windows_(std::move(windows)) {
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
                  w.relu,
                  w.divisor};
        input_size = w.channels * w.height * w.width;
        output_size = w.channels * shape_.out_height * shape_.out_width;
        stored = storage;
        for (std::size_t i = 0; i < w.row_start.size(); ++i)
            for (std::size_t j = 0; j < w.column_start.size(); ++j)
                reads_ += (w.row_end[i] - w.row_start[i]) * (w.column_end[j] - w.column_start[j]) * w.channels;
    }
    std::int64_t run(const Call& call, const Team& team, unsigned char*) const override {
        const std::int64_t grain = ceil_divide(worth_a_thread * shape_.out_height, reads_);
        return share(team, call.batch * shape_.out_height, grain, 1, [&](Part part, int) {
            return table_.pool(shape_, {call.x, stored.half_input}, {call.y, stored.half_output}, part);
        });
    }
    std::size_t workspace(std::int64_t) const override { return 0; }
    std::int64_t conversions(std::int64_t batch) const override {
        if (!windows_.average && stored.half_input && stored.half_output && shape_.compares_bits(table_.lanes)) return 0;
        return stored.half_input * batch * reads_ + stored.half_output * batch * output_size;
    }
    std::int64_t flops(std::int64_t batch) const override { return batch * reads_; }
    std::string routine(std::int64_t) const override {
        return std::string(windows_.average ? "mean" : "maximum") + " over windows, " + table_.name;
    }

private:
    const Routines& table_;
    PoolWindows windows_;
    Pooling shape_{};
    std::int64_t reads_ = 0;
};

class Addition final : public Layer {
public:
    Addition(const Routines& table, std::int64_t size, bool relu, Activation activation, Stored storage)
        : table_(table), relu_(relu), activation_(activation) {
        input_size = output_size = size;
        stored = storage;
    }
    std::int64_t run(const Call& call, const Team& team, unsigned char*) const override {
        const Source x{call.x, stored.half_input}, residual{call.residual, stored.residual == Storage::half};
        return share(team, call.batch * input_size, worth_a_thread / 3, 1, [&](Part part, int) {
            return table_.add(x, residual, {call.y, stored.half_output}, relu_, activation_, part);
        });
    }
    std::size_t workspace(std::int64_t) const override { return 0; }
    std::int64_t conversions(std::int64_t batch) const override {
        return stored.half_input * batch * input_size + converted_results(batch);
    }
    std::int64_t flops(std::int64_t batch) const override { return batch * input_size; }
    std::string routine(std::int64_t) const override { return std::string("addition, ") + table_.name; }

private:
    const Routines& table_;
    bool relu_;
    Activation activation_;
};

}  // namespace

LayerPointer make_pooling(const Routines& table, const PoolWindows& windows, Stored stored) {
    return std::make_shared<Pool>(table, windows, stored);
}

LayerPointer make_addition(const Routines& table, std::int64_t size, bool relu, Activation activation,
                           Stored stored) {
    return std::make_shared<Addition>(table, size, relu, activation, stored);
}

}  // namespace parsimony
