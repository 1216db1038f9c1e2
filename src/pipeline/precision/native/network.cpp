#include "network.hpp"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "clock.hpp"

namespace parsimony {
namespace {

std::size_t bytes_of(const Layer& layer, std::int64_t batch) {
    return layer.output_size * batch * (layer.stored.half_output ? sizeof(Half) : sizeof(float));
}

void check(const std::vector<Step>& steps) {
    for (std::size_t i = 0; i < steps.size(); ++i) {
        const Layer& layer = *steps[i].layer;
        const std::string name = "step " + std::to_string(i);
        const auto known = [&](std::int64_t value) { return value >= 0 && value <= static_cast<std::int64_t>(i); };
        if (!known(steps[i].input)) throw std::invalid_argument(name + " reads a value that no step before it gives");
        const auto size = [&](std::int64_t value) {
            return value == 0 ? steps[0].layer->input_size : steps[value - 1].layer->output_size;
        };
        const auto half = [&](std::int64_t value) {
            return value == 0 ? steps[0].layer->stored.half_input : steps[value - 1].layer->stored.half_output;
        };
        if (size(steps[i].input) != layer.input_size || half(steps[i].input) != layer.stored.half_input)
            throw std::invalid_argument(name + " does not take what value " + std::to_string(steps[i].input) + " is");
        if ((layer.stored.residual != Storage::none) != (steps[i].residual >= 0))
            throw std::invalid_argument(name + " has a residual where its layer takes none, or none where it takes one");
        if (steps[i].residual < 0) continue;
        if (!known(steps[i].residual) || size(steps[i].residual) != layer.other_size() ||
            half(steps[i].residual) != (layer.stored.residual == Storage::half))
            throw std::invalid_argument(name + " cannot add value " + std::to_string(steps[i].residual));
    }
}

}  // namespace

Network::Network(std::vector<Step> steps, std::int64_t max_batch) : steps_(std::move(steps)), max_batch_(max_batch) {
    if (steps_.empty() || max_batch < 1) throw std::invalid_argument("a network has steps and a batch of at least 1");
    check(steps_);
    const std::size_t n = steps_.size();
    std::vector<int> readers(n, 0);
    for (const Step& step : steps_)
        for (const std::int64_t value : {step.input, step.residual})
            if (value > 0) ++readers[value - 1];
    const auto linked = [&](std::size_t i) {  // to the step after it
        return i + 1 < n && readers[i] == 1 && steps_[i + 1].input == static_cast<std::int64_t>(i) + 1 &&
               steps_[i + 1].residual != steps_[i + 1].input && Chain::links(*steps_[i].layer, *steps_[i + 1].layer);
    };
    std::vector<std::size_t> end(n);  // by step: the last one of its stage
    for (std::size_t i = 0; i < n;) {
        std::size_t last = i;
        while (last - i + 1 < longest_chain && linked(last)) ++last;
        std::vector<const Layer*> layers;
        for (std::size_t j = i; j <= last; ++j) layers.push_back(steps_[j].layer.get()), end[j] = last;
        const auto chain = last > i ? std::make_shared<const Chain>(layers) : nullptr;
        if (chain) workspace_bytes_ = std::max(workspace_bytes_, chain->workspace());
        stages_.push_back({static_cast<std::int64_t>(i), static_cast<std::int64_t>(last), chain});
        i = last + 1;
    }
    // What a stage reads is read until its end.
    std::vector<std::size_t> last_reader(n, 0);
    for (std::size_t i = 0; i < n; ++i)
        for (const std::int64_t value : {steps_[i].input, steps_[i].residual})
            if (value > 0) last_reader[value - 1] = end[i];
    std::vector<std::size_t> sizes, free_from;  // by buffer: its bytes, and the step from which on it is free
    buffer_of_.assign(n, -1);
    for (std::size_t i = 0; i < n; ++i) {
        for (const std::int64_t batch : {std::int64_t{1}, max_batch})
            workspace_bytes_ = std::max(workspace_bytes_, steps_[i].layer->workspace(batch));
        if (i + 1 == n) break;
        if (end[i] != i) continue;
        int chosen = -1;
        for (std::size_t b = 0; b < sizes.size() && chosen < 0; ++b)
            if (free_from[b] <= i) chosen = static_cast<int>(b);
        if (chosen < 0) {
            chosen = static_cast<int>(sizes.size());
            sizes.push_back(0);
            free_from.push_back(0);
        }
        sizes[chosen] = std::max(sizes[chosen], bytes_of(*steps_[i].layer, max_batch));
        free_from[chosen] = std::max(last_reader[i], i) + 1;
        buffer_of_[i] = chosen;
    }
    for (const std::size_t bytes : sizes) buffers_.emplace_back(bytes + apart * buffers_.size());
    workspace_.at_least(workspace_bytes_ * Team().size());
}

std::int64_t Network::run(const void* x, void* y, std::int64_t batch, double* seconds) {
    const Team team;
    std::size_t needed = workspace_bytes_;
    for (const auto& step : steps_) needed = std::max(needed, step.layer->workspace(batch));
    unsigned char* workspace = workspace_.at_least(needed * team.size());
    const auto value = [&](std::int64_t number) -> const void* {
        return number < 0 ? nullptr : number == 0 ? x : buffer(buffer_of_[number - 1]);
    };
    if (seconds != nullptr) std::fill_n(seconds, steps_.size(), 0.0);
    std::int64_t saturated = 0;
    for (const Stage& stage : stages_) {
        const Step& first = steps_[stage.first];
        void* to = stage.last + 1 == static_cast<std::int64_t>(steps_.size()) ? y : buffer(buffer_of_[stage.last]);
        double* notes = seconds == nullptr ? nullptr : seconds + stage.first;
        if (stage.chain != nullptr) {
            ChainCall call{value(first.input), {}, to, batch};
            for (std::int64_t i = stage.first; i <= stage.last; ++i) call.residuals[i - stage.first] = value(steps_[i].residual);
            saturated += stage.chain->run(call, team, workspace, notes);
            continue;
        }
        const double start = seconds != nullptr ? now() : 0.0;
        saturated += first.layer->run({value(first.input), value(first.residual), to, batch}, team, workspace);
        if (notes != nullptr) *notes = now() - start;
    }
    return saturated;
}

std::int64_t Network::run_channels_first(const Routines& table, const float* x, std::int64_t channels, float* y,
                                         std::int64_t result_channels, std::int64_t batch) {
    const std::int64_t inputs = steps_.front().layer->input_size, outputs = steps_.back().layer->output_size;
    const Team team;
    // Matrices of one row or one column are the same either way.
    const auto changes = [](std::int64_t n, std::int64_t size) { return n > 1 && n < size; };
    std::int64_t saturated = 0;
    for (std::int64_t first = 0; first < batch; first += max_batch_) {
        const std::int64_t n = std::min(batch - first, max_batch_);
        const float* from = x + first * inputs;
        float* to = y + first * outputs;
        const float* given = from;
        float* result = to;
        if (changes(channels, inputs)) {
            auto* reordered = reinterpret_cast<float*>(given_.at_least(n * inputs * sizeof(float)));
            transpose(table, from, reordered, n, channels, inputs / channels, team);
            given = reordered;
        }
        if (changes(result_channels, outputs))
            result = reinterpret_cast<float*>(result_.at_least(n * outputs * sizeof(float)));
        saturated += run(given, result, n);
        if (result != to) transpose(table, result, to, n, outputs / result_channels, result_channels, team);
    }
    return saturated;
}

std::size_t Network::buffer_bytes() const {
    std::size_t total = workspace_bytes_;
    for (std::size_t number = 0; number < buffers_.size(); ++number) total += buffers_[number].size() - apart * number;
    return total;
}

}  // namespace parsimony
