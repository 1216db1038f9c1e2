// Layers over numbers and rows: functions, scalings, normalizations, softmax, and results chosen by place.
#include <utility>

#include "packing.hpp"

namespace parsimony {
namespace {

const void* at(Source x, std::int64_t n) {
    return static_cast<const char*>(x.data) + n * static_cast<std::int64_t>(x.half ? sizeof(Half) : sizeof(float));
}

class Map final : public Layer {
public:
    Map(const Routines& table, std::int64_t size, Activation activation, Stored storage)
        : table_(table), activation_(activation) {
        input_size = output_size = size;
        stored = storage;
    }
    std::int64_t run(const Call& call, const Team& team, unsigned char*) const override {
        const Source x{call.x, stored.half_input}, factor{call.residual, stored.residual == Storage::half};
        return share(team, call.batch * input_size, worth_a_thread / 8, 1, [&](Part part, int) {
            return table_.map(x, factor, {call.y, stored.half_output}, activation_, part);
        });
    }
    std::size_t workspace(std::int64_t) const override { return 0; }
    std::int64_t conversions(std::int64_t batch) const override {
        return stored.half_input * batch * input_size + converted_results(batch);
    }
    std::int64_t flops(std::int64_t batch) const override { return batch * input_size; }
    std::string routine(std::int64_t) const override {
        return std::string(stored.residual == Storage::none ? "function of each number, " : "product of numbers, ") +
               table_.name;
    }

private:
    const Routines& table_;
    Activation activation_;
};

class Scale final : public Layer {
public:
    Scale(const Routines& table, std::int64_t channels, std::int64_t pixels, Stored storage)
        : table_(table), channels_(channels), pixels_(pixels) {
        input_size = output_size = channels * pixels;
        residual_size = channels;
        stored = storage;
    }
    std::int64_t run(const Call& call, const Team& team, unsigned char*) const override {
        const Source x{call.x, stored.half_input}, factors{call.residual, stored.residual == Storage::half};
        return share(team, call.batch * pixels_, ceil_divide(worth_a_thread / 3, channels_), 1, [&](Part part, int) {
            return table_.scale(x, factors, {call.y, stored.half_output}, channels_, pixels_, part);
        });
    }
    std::size_t workspace(std::int64_t) const override { return 0; }
    std::int64_t conversions(std::int64_t batch) const override {
        return batch * input_size * (stored.half_input + stored.half_output + (stored.residual == Storage::half));
    }
    std::int64_t flops(std::int64_t batch) const override { return batch * input_size; }
    std::string routine(std::int64_t) const override { return std::string("scaling of channels, ") + table_.name; }

private:
    const Routines& table_;
    std::int64_t channels_, pixels_;
};

class Normalization final : public Layer {
public:
    Normalization(const Routines& table, const float* weight, const float* bias, std::int64_t width, std::int64_t rows,
                  float epsilon, Stored storage)
        : table_(table), weight_(width), bias_(width), width_(width), rows_(rows), epsilon_(epsilon) {
        std::copy_n(weight, width, weight_.data());
        std::copy_n(bias, width, bias_.data());
        input_size = output_size = width * rows;
        weight_bytes = 2 * width * static_cast<std::int64_t>(sizeof(float));
        stored = storage;
    }
    std::int64_t run(const Call& call, const Team& team, unsigned char*) const override {
        return share(team, call.batch * rows_, ceil_divide(worth_a_thread / 8, width_), 1, [&](Part part, int) {
            return table_.normalize({call.x, stored.half_input}, {call.y, stored.half_output}, weight_.data(),
                                    bias_.data(), width_, epsilon_, part);
        });
    }
    std::size_t workspace(std::int64_t) const override { return 0; }
    std::int64_t conversions(std::int64_t batch) const override {
        return batch * input_size * (3 * stored.half_input + stored.half_output);
    }
    std::int64_t flops(std::int64_t batch) const override { return 5 * batch * input_size; }
    std::string routine(std::int64_t) const override { return std::string("normalization of rows, ") + table_.name; }

private:
    const Routines& table_;
    Buffer<float> weight_, bias_;
    std::int64_t width_, rows_;
    float epsilon_;
};

class Softmax final : public Layer {
public:
    Softmax(const Routines& table, std::int64_t width, std::int64_t rows, Stored storage)
        : table_(table), width_(width), rows_(rows) {
        input_size = output_size = width * rows;
        stored = storage;
    }
    std::int64_t run(const Call& call, const Team& team, unsigned char* workspace) const override {
        const ScratchSize size = scratch();
        const std::int64_t grain = ceil_divide(worth_a_thread / 16, width_);
        return share(team, call.batch * rows_, grain, 1, [&](Part part, int thread) {
            return table_.softmax({call.x, stored.half_input}, {call.y, stored.half_output}, width_, part,
                                  size.at(workspace, thread).activations);
        });
    }
    std::size_t workspace(std::int64_t) const override { return scratch().bytes(); }
    std::int64_t conversions(std::int64_t batch) const override {
        return batch * input_size * (stored.half_input + stored.half_output);
    }
    std::int64_t flops(std::int64_t batch) const override { return 5 * batch * input_size; }
    std::string routine(std::int64_t) const override { return std::string("softmax of rows, ") + table_.name; }

private:
    ScratchSize scratch() const { return {width_, 0, 0}; }

    const Routines& table_;
    std::int64_t width_, rows_;
};

// Places that follow each other evenly are copied as one run.
class Gather final : public Layer {
public:
    Gather(const Routines& table, const std::int32_t* index, std::int64_t n, std::int64_t inputs, std::int64_t others,
           Stored storage)
        : table_(table) {
        input_size = inputs;
        output_size = n;
        residual_size = others;
        stored = storage;
        for (std::int64_t i = 0; i < n;) {
            const auto source = [&](std::int64_t place) { return place < 0 ? -1 : place < inputs ? 0 : 1; };
            const std::int64_t from = index[i];
            const std::int64_t step = i + 1 < n && source(index[i + 1]) == source(from) ? index[i + 1] - from : 0;
            std::int64_t length = 1;
            while (i + length < n && source(index[i + length]) == source(from) &&
                   index[i + length] == from + length * step)
                ++length;
            // A number that only happens to continue the distance belongs to the run of its successors.
            if (step != 1 && length == 2) length = 1;
            runs_.push_back({static_cast<std::int32_t>(from - (from >= inputs ? inputs : 0)),
                             static_cast<std::int32_t>(length), static_cast<std::int32_t>(length > 1 ? step : 1),
                             static_cast<std::int8_t>(source(from))});
            i += length;
        }
        weight_bytes = static_cast<std::int64_t>(runs_.size() * sizeof(Run));
    }
    std::int64_t run(const Call& call, const Team& team, unsigned char* workspace) const override {
        const Source sources[2] = {{call.x, stored.half_input}, {call.residual, stored.residual == Storage::half}};
        const Target y{call.y, stored.half_output};
        const ScratchSize size = scratch();
        const std::int64_t grain = ceil_divide(worth_a_thread / 3, output_size);
        return share(team, call.batch, grain, 1, [&](Part part, int thread) {
            std::int64_t saturated = 0;
            for (std::int64_t image = part.begin; image < part.end; ++image) {
                const Source own[2] = {{at(sources[0], image * input_size), sources[0].half},
                                       {at(sources[1], image * residual_size), sources[1].half}};
                saturated += gather(own, y, image * output_size, size.at(workspace, thread).activations);
            }
            return saturated;
        });
    }
    std::size_t workspace(std::int64_t) const override { return scratch().bytes(); }
    std::int64_t conversions(std::int64_t batch) const override {
        return stored.half_input == stored.half_output ? 0 : batch * output_size;
    }
    std::int64_t flops(std::int64_t) const override { return 0; }
    std::string routine(std::int64_t) const override { return std::string("copy by place, ") + table_.name; }

private:
    struct Run {
        std::int32_t from, length, step;
        std::int8_t source;  // -1: zeros
    };
    ScratchSize scratch() const { return {2 * longest_, 0, 0}; }

    template <class T>
    static void copy(const Run& run, const void* from, T* to) {
        const T* p = static_cast<const T*>(from) + run.from;
        if (run.step == 1)
            std::memcpy(to, p, run.length * sizeof(T));
        else
            for (std::int32_t i = 0; i < run.length; ++i) to[i] = p[static_cast<std::ptrdiff_t>(i) * run.step];
    }

    std::int64_t gather(const Source* sources, Target y, std::int64_t to, float* scratch) const {
        const std::size_t size = y.half ? sizeof(Half) : sizeof(float);
        std::int64_t saturated = 0;
        for (const Run& whole : runs_) {
            if (whole.source < 0 || sources[whole.source].half == y.half) {
                char* target = static_cast<char*>(y.data) + to * size;
                if (whole.source < 0)
                    std::memset(target, 0, whole.length * size);
                else if (y.half)
                    copy(whole, sources[whole.source].data, reinterpret_cast<Half*>(target));
                else
                    copy(whole, sources[whole.source].data, reinterpret_cast<float*>(target));
                to += whole.length;
                continue;
            }
            for (std::int64_t start = 0; start < whole.length; start += longest_) {
                Run run = whole;
                run.from += static_cast<std::int32_t>(start * whole.step);
                run.length = static_cast<std::int32_t>(std::min(longest_, whole.length - start));
                if (y.half) {
                    copy(run, sources[run.source].data, scratch);
                    Half* target = static_cast<Half*>(y.data) + to;
                    saturated += table_.store(scratch, {target, true}, {0, run.length, 0, 0});
                } else {
                    Half* narrow = reinterpret_cast<Half*>(scratch);
                    copy(run, sources[run.source].data, narrow);
                    table_.half_to_float(narrow, static_cast<float*>(y.data) + to, run.length);
                }
                to += run.length;
            }
        }
        return saturated;
    }

    static constexpr std::int64_t longest_ = 4096;
    const Routines& table_;
    std::vector<Run> runs_;
};

}  // namespace

LayerPointer make_map(const Routines& table, std::int64_t size, Activation activation, Stored stored) {
    return std::make_shared<Map>(table, size, activation, stored);
}

LayerPointer make_scale(const Routines& table, std::int64_t channels, std::int64_t pixels, Stored stored) {
    return std::make_shared<Scale>(table, channels, pixels, stored);
}

LayerPointer make_gather(const Routines& table, const std::int32_t* index, std::int64_t n, std::int64_t inputs,
                         std::int64_t others, Stored stored) {
    return std::make_shared<Gather>(table, index, n, inputs, others, stored);
}

LayerPointer make_normalization(const Routines& table, const float* weight, const float* bias, std::int64_t width,
                                std::int64_t rows, float epsilon, Stored stored) {
    return std::make_shared<Normalization>(table, weight, bias, width, rows, epsilon, stored);
}

LayerPointer make_softmax(const Routines& table, std::int64_t width, std::int64_t rows, Stored stored) {
    return std::make_shared<Softmax>(table, width, rows, stored);
}

}  // namespace parsimony
