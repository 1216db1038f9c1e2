// Layers that follow each other strip by strip, so that what one gives the next stays in the near caches.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "layer.hpp"

namespace parsimony {

constexpr std::size_t longest_chain = 16;  // so that a run needs no memory of its own

// What a chain reads and writes: arrays of a whole batch.
struct ChainCall {
    const void* x;
    std::array<const void*, longest_chain> residuals;  // by layer; null: none
    void* y;
    std::int64_t batch;
};

// Every layer but the first is given what the one before it gives, which nothing else reads. Results are those of the
// layers one after the other, bit for bit. Rows that no window reads, as some strides leave between windows, may not be
// computed, so that what saturates there may not be counted.
class Chain {
public:
    explicit Chain(std::vector<const Layer*> layers);
    // Whether a strip of the first layer's results is better handed on than all of them: they are large, and what every
    // strip reads anew, the weights, is not.
    static bool links(const Layer& first, const Layer& second);

    std::int64_t size() const { return static_cast<std::int64_t>(layers_.size()); }
    // For each thread.
    std::size_t workspace() const { return workspace_; }
    // Returns how many results were saturated. With `seconds`, notes there how long each layer took on the first thread.
    std::int64_t run(const ChainCall& call, const Team& team, unsigned char* workspace, double* seconds) const;

private:
    // Results that are handed on: the bytes of a row, and where they lie in the workspace.
    struct Link {
        std::size_t row_bytes, offset;
    };
    void plan(std::int64_t lines);
    std::int64_t run_lines(const ChainCall& call, std::int64_t image, Range lines, unsigned char* workspace,
                           double* seconds) const;

    std::vector<const Layer*> layers_;
    std::vector<Link> links_;
    std::int64_t line_ = 1, lines_, lines_per_strip_;  // of the last layer's results: rows of a line, lines of a sample
    std::size_t scratch_ = 0, workspace_ = 0;
};

}  // namespace parsimony
