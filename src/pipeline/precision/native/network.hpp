// Layers that feed each other, over buffers that are planned once.
#pragma once

#include <cstdint>
#include <vector>

#include "buffer.hpp"
#include "chain.hpp"
#include "layer.hpp"

namespace parsimony {

// Memory for the scratch of layers, grown when more threads ask for it and otherwise left alone.
class Workspace {
public:
    unsigned char* at_least(std::size_t bytes) {
        if (bytes > memory_.size()) memory_ = Buffer<unsigned char>(bytes);
        return memory_.data();
    }

private:
    Buffer<unsigned char> memory_;
};

// Value 0 is the network's input, value i + 1 what step i gives; the last step gives the output.
struct Step {
    LayerPointer layer;
    std::int64_t input;
    std::int64_t residual;  // -1: none
};

// A graph of layers in the order of their execution. A value's buffer serves again once its last reader has run.
class Network {
public:
    Network(std::vector<Step> steps, std::int64_t max_batch);
    // Returns how many results were saturated. With `seconds`, notes each step's wall time there; in a
    // chain it is that of the first thread.
    std::int64_t run(const void* x, void* y, std::int64_t batch, double* seconds = nullptr);
    // Run on images whose channels come first, in binary32 and a batch of any size, with results in that order. No channels:
    // what is no image, or lies as layers have it.
    std::int64_t run_channels_first(const Routines& table, const float* x, std::int64_t channels, float* y,
                                    std::int64_t result_channels, std::int64_t batch);
    const std::vector<Step>& steps() const { return steps_; }
    std::int64_t max_batch() const { return max_batch_; }
    std::size_t buffer_bytes() const;
    std::int64_t n_stages() const { return static_cast<std::int64_t>(stages_.size()); }

private:
    // Buffers do not start at the same place of a page, or a layer's loads would wait for stores 4096 bytes behind them,
    // whose addresses end alike.
    static constexpr std::size_t apart = 3 * 64;
    unsigned char* buffer(int number) const { return buffers_[number].data() + apart * number; }

    // Step `first`, or those of a chain.
    struct Stage {
        std::int64_t first, last;
        std::shared_ptr<const Chain> chain;  // null: one step
    };

    std::vector<Step> steps_;
    std::vector<Stage> stages_;
    std::int64_t max_batch_;
    std::vector<int> buffer_of_;  // by step; -1: the caller's, or handed on in strips
    std::vector<Buffer<unsigned char>> buffers_;
    std::size_t workspace_bytes_ = 0;  // per thread
    Workspace workspace_, given_, result_;
};

}  // namespace parsimony
