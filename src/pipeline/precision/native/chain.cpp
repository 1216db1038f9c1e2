#include "chain.hpp"

#include <algorithm>
#include <cstring>

#include "clock.hpp"
#include "packing.hpp"

namespace parsimony {
namespace {

constexpr std::int64_t cache_bytes = 384 << 10;  // bytes that stay in a level 2 cache beside weights and scratch

std::size_t row_bytes_of(const Layer& layer) {
    return layer.output_size / layer.rows() * (layer.stored.half_output ? sizeof(Half) : sizeof(float));
}

std::size_t size_of(bool half) { return half ? sizeof(Half) : sizeof(float); }

// Rows of what `layer` gives, in whole lines, that some results of the layer after it need.
Range needed(const Layer& layer, const Layer& next, Range results) {
    const Range rows = next.reach(results);
    const std::int64_t line = layer.rows_together();
    return {rows.begin / line * line, ceil_divide(rows.end, line) * line};
}

std::int64_t needed_at_most(const Layer& layer, const Layer& next, std::int64_t results) {
    // Windows in the middle reach furthest; wherever they start within a line of the layer before.
    const std::int64_t step = next.rows_together(), middle = std::max<std::int64_t>(0, next.rows() - results) / 2 / step * step;
    std::int64_t most = 0;
    for (std::int64_t k = 0; k <= layer.rows_together(); ++k) {
        const std::int64_t from = std::min(middle + k * step, next.rows() - step);
        most = std::max(most, needed(layer, next, {from, std::min(next.rows(), from + results)}).size());
    }
    return std::min(layer.rows(), most + layer.rows_together());
}

}  // namespace

bool Chain::links(const Layer& first, const Layer& second) {
    return first.rows() > 0 && second.rows() > 0 && first.rows() == second.input_rows() &&
           (first.rows_together() == 1 || first.rows_together() % second.input_rows_together() == 0) &&
           static_cast<std::int64_t>(first.rows() * row_bytes_of(first)) > cache_bytes &&
           std::max(first.weight_bytes, second.weight_bytes) <= cache_bytes;
}

Chain::Chain(std::vector<const Layer*> layers) : layers_(std::move(layers)) {
    for (const Layer* layer : layers_) {
        scratch_ = std::max(scratch_, (layer->workspace(1) + 63) / 64 * 64);
        if (layer->rows_together() > 1) line_ = layer->rows_together();
    }
    const Layer& last = *layers_.back();
    if (last.rows_together() > 1) line_ = last.rows_together();
    lines_ = ceil_divide(last.rows(), line_);
    // As many lines as leave what is handed on in the cache, by bisection.
    std::int64_t fits = 1, too_many = lines_ + 1;
    while (too_many - fits > 1) {
        const std::int64_t lines = (fits + too_many) / 2;
        plan(lines);
        (workspace_ - scratch_ <= static_cast<std::size_t>(cache_bytes) ? fits : too_many) = lines;
    }
    plan(fits);
}

void Chain::plan(std::int64_t lines) {
    lines_per_strip_ = lines;
    links_.assign(layers_.size() - 1, {});
    std::int64_t rows = lines * line_;
    workspace_ = scratch_;
    for (std::size_t i = links_.size(); i-- > 0;) {
        rows = needed_at_most(*layers_[i], *layers_[i + 1], rows);
        links_[i] = {row_bytes_of(*layers_[i]), workspace_};
        workspace_ += rows * links_[i].row_bytes / 64 * 64 + 3 * 64;  // apart, as a network's buffers
    }
}

std::int64_t Chain::run(const ChainCall& call, const Team& team, unsigned char* workspace, double* seconds) const {
    const std::int64_t all = call.batch * lines_;
    std::int64_t flops = 0;
    for (const Layer* layer : layers_) flops += layer->flops(1);
    // Lines enough for a thread, and few beside them that its neighbors compute, too.
    const std::int64_t grain = std::max(ceil_divide(2 * worth_a_thread * lines_, flops),
                                        std::min(lines_per_strip_, ceil_divide(all, team.size())));
    return share(team, all, grain, 1, [&](Part part, int thread) {
        std::int64_t saturated = 0;
        for (std::int64_t line = part.begin; line < part.end;) {
            const std::int64_t image = line / lines_, first = line % lines_;
            const std::int64_t n = std::min(lines_ - first, part.end - line);
            saturated += run_lines(call, image, {first, first + n}, workspace + thread * workspace_,
                                   thread == 0 ? seconds : nullptr);
            line += n;
        }
        return saturated;
    });
}

std::int64_t Chain::run_lines(const ChainCall& call, std::int64_t image, Range lines, unsigned char* workspace,
                              double* seconds) const {
    const std::size_t n = layers_.size();
    std::array<Range, longest_chain> held{}, wanted{};
    // Rows before these are computed, and counted, by whoever has the lines before, too.
    std::array<std::int64_t, longest_chain> own{};
    own[n - 1] = lines.begin * line_;
    for (std::size_t i = n - 1; i-- > 0;)
        own[i] = own[i + 1] == 0 ? 0 : needed(*layers_[i], *layers_[i + 1], {0, own[i + 1]}).end;
    const auto* x = static_cast<const unsigned char*>(call.x) + image * layers_[0]->input_size * size_of(layers_[0]->stored.half_input);
    auto* y = static_cast<unsigned char*>(call.y) + image * layers_[n - 1]->rows() * row_bytes_of(*layers_[n - 1]);
    std::int64_t saturated = 0;
    for (std::int64_t line = lines.begin; line < lines.end; line += lines_per_strip_) {
        wanted[n - 1] = {line * line_, std::min(std::min(line + lines_per_strip_, lines.end) * line_, layers_[n - 1]->rows())};
        for (std::size_t i = n - 1; i-- > 0;) {
            wanted[i] = {held[i].end, held[i].end};
            if (wanted[i + 1].size() == 0) continue;
            const Range rows = needed(*layers_[i], *layers_[i + 1], wanted[i + 1]);
            // What is needed again moves to the front.
            auto* buffer = workspace + links_[i].offset;
            if (held[i].size() == 0 || rows.begin >= held[i].end)
                held[i] = {rows.begin, rows.begin};
            else if (rows.begin > held[i].begin) {
                std::memmove(buffer, buffer + (rows.begin - held[i].begin) * links_[i].row_bytes,
                             (held[i].end - rows.begin) * links_[i].row_bytes);
                held[i].begin = rows.begin;
            }
            wanted[i] = {held[i].end, std::max(held[i].end, rows.end)};
            held[i].end = wanted[i].end;
        }
        for (std::size_t i = 0; i < n; ++i) {
            if (wanted[i].size() == 0) continue;
            const double start = seconds != nullptr ? now() : 0.0;
            const Layer& layer = *layers_[i];
            const std::size_t row = row_bytes_of(layer);
            const auto* residual = static_cast<const unsigned char*>(call.residuals[i]);
            const std::size_t residual_row = layer.output_size / layer.rows() * size_of(layer.stored.residual == Storage::half);
            const auto run = [&](Range rows) -> std::int64_t {
                if (rows.size() == 0) return 0;
                auto* to = i + 1 == n ? y + rows.begin * row
                                      : workspace + links_[i].offset + (rows.begin - held[i].begin) * row;
                const void* from = i == 0 ? x : workspace + links_[i - 1].offset;
                const void* added = residual == nullptr ? nullptr : residual + (image * layer.rows() + rows.begin) * residual_row;
                return layer.run_rows({from, i == 0 ? 0 : held[i - 1].begin, added, to, rows}, workspace);
            };
            const std::int64_t shared = std::clamp(own[i], wanted[i].begin, wanted[i].end);
            run({wanted[i].begin, shared});
            saturated += run({shared, wanted[i].end});
            if (seconds != nullptr) seconds[i] += now() - start;
        }
    }
    return saturated;
}

}  // namespace parsimony
