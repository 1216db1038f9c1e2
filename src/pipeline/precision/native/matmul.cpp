// Products of activations with activations: the second matrix is packed into panels in each run.
#include <utility>

#include "packing.hpp"

namespace parsimony {
namespace {

class Matmul final : public Layer {
public:
    Matmul(const Routines& table, Matrices a, Matrices b, float factor, std::int64_t inputs, std::int64_t others,
           Stored storage)
        : table_(table), a_(std::move(a)), b_(std::move(b)) {
        input_size = inputs;
        residual_size = others;
        n_ = static_cast<std::int64_t>(a_.offsets.size());
        output_size = n_ * a_.rows * b_.columns;
        stored = storage;
        vectors_ = vectors_for(table, b_.columns, a_.rows);
        width_ = vectors_ * table.lanes;
        n_panels_ = ceil_divide(b_.columns, width_);
        scale_ = Buffer<float>(n_panels_ * width_);
        bias_ = Buffer<float>(n_panels_ * width_);
        std::fill_n(scale_.data(), n_panels_ * width_, factor);
        product_.inputs = a_.columns;
        product_.vector = false;
        product_.inputs_per_block = std::min<std::int64_t>(a_.columns, 1024);
        product_.rows_per_block = std::max<std::int64_t>(96, 65536 / product_.inputs_per_block);
    }
    std::int64_t run(const Call& call, const Team& team, unsigned char* workspace) const override {
        const std::int64_t grain = ceil_divide(8 * worth_a_thread, 2 * a_.rows * a_.columns * b_.columns);
        return share(team, call.batch * n_, grain, 1, [&](Part part, int thread) {
            auto* own = reinterpret_cast<float*>(workspace + thread * bytes());
            std::int64_t saturated = 0;
            for (std::int64_t item = part.begin; item < part.end; ++item) saturated += multiply(call, item, own);
            return saturated;
        });
    }
    std::size_t workspace(std::int64_t) const override { return bytes(); }
    std::int64_t conversions(std::int64_t batch) const override {
        return batch * n_ * (stored.half_input * a_.rows * a_.columns +
                             (stored.residual == Storage::half) * b_.rows * b_.columns) +
               stored.half_output * batch * output_size;
    }
    std::int64_t flops(std::int64_t batch) const override { return 2 * batch * output_size * a_.columns; }
    std::string routine(std::int64_t) const override {
        return "product of activations " + tile_name(table_, vectors_, "activations as");
    }

private:
    std::int64_t multiply(const Call& call, std::int64_t item, float* own) const {
        const std::int64_t image = item / n_, number = item % n_;
        float *left = own, *panels = left + left_size(), *line = panels + panel_size();
        const Source x{call.x, stored.half_input}, other{call.residual, stored.residual == Storage::half};
        for (std::int64_t i = 0; i < a_.rows; ++i)
            read(x, image * input_size + a_.offsets[number] + i * a_.row_step, a_.column_step, a_.columns,
                 left + i * a_.columns, line);
        pack(other, image * residual_size + b_.offsets[number], panels, line);
        const Panels<float> packed{panels, 1, b_.columns, a_.columns, vectors_};
        const Epilogue epilogue{scale_.data(), bias_.data(), {nullptr, false}, false, {}};
        const std::int64_t size = stored.half_output ? sizeof(Half) : sizeof(float);
        const Target y{static_cast<char*>(call.y) + item * a_.rows * b_.columns * size, stored.half_output};
        const ScratchSize inner = scratch();
        return table_.single.multiply(packed, epilogue, product_, {left, false}, y, {0, a_.rows, 0, n_panels_},
                                      inner.at(reinterpret_cast<unsigned char*>(line + line_size()), 0));
    }

    // `n` numbers, `step` apart, as binary32.
    void read(Source x, std::int64_t from, std::int64_t step, std::int64_t n, float* to, float* line) const {
        if (!x.half) {
            const float* p = static_cast<const float*>(x.data) + from;
            for (std::int64_t i = 0; i < n; ++i) to[i] = p[i * step];
            return;
        }
        const Half* p = static_cast<const Half*>(x.data) + from;
        if (step != 1) {
            Half* close = reinterpret_cast<Half*>(line);
            for (std::int64_t i = 0; i < n; ++i) close[i] = p[i * step];
            p = close;
        }
        table_.half_to_float(p, to, n);
    }

    void pack(Source other, std::int64_t from, float* panels, float* line) const {
        float* wide = line + longest();
        const bool by_rows = b_.column_step == 1 || b_.rows == 1;
        if (b_.columns % width_ != 0)
            std::fill_n(panels + (n_panels_ - 1) * width_ * b_.rows, width_ * b_.rows, 0.0f);
        if (by_rows)
            for (std::int64_t k = 0; k < b_.rows; ++k) {
                read(other, from + k * b_.row_step, b_.column_step, b_.columns, wide, line);
                for (std::int64_t panel = 0; panel < n_panels_; ++panel)
                    std::memcpy(panels + (panel * b_.rows + k) * width_, wide + panel * width_,
                                std::min(width_, b_.columns - panel * width_) * sizeof(float));
            }
        else
            for (std::int64_t j = 0; j < b_.columns; ++j) {
                read(other, from + j * b_.column_step, b_.row_step, b_.rows, wide, line);
                float* column = panels + j / width_ * width_ * b_.rows + j % width_;
                for (std::int64_t k = 0; k < b_.rows; ++k) column[k * width_] = wide[k];
            }
    }

    std::int64_t longest() const {
        return ScratchSize::lines(std::max({a_.columns, b_.rows, b_.columns}));
    }
    std::int64_t left_size() const { return ScratchSize::lines(a_.rows * a_.columns); }
    std::int64_t panel_size() const { return n_panels_ * width_ * a_.columns + 1024; }  // fetched ahead of their end
    std::int64_t line_size() const { return 2 * longest(); }
    ScratchSize scratch() const {
        const std::int64_t rows = std::min(a_.rows, product_.rows_per_block);
        const bool blocks = product_.inputs_per_block < a_.columns;
        return {rows * Winograd::odd_lines(product_.inputs_per_block), 0, blocks ? rows * n_panels_ * width_ : 0};
    }
    std::size_t bytes() const {
        return static_cast<std::size_t>(left_size() + panel_size() + line_size()) * sizeof(float) + scratch().bytes();
    }

    const Routines& table_;
    Matrices a_, b_;
    std::int64_t n_;
    int vectors_;
    std::int64_t width_, n_panels_;
    Buffer<float> scale_, bias_;
    Product product_{};
};

}  // namespace

LayerPointer make_product(const Routines& table, Matrices a, Matrices b, float factor, std::int64_t inputs,
                          std::int64_t others, Stored stored) {
    return std::make_shared<Matmul>(table, std::move(a), std::move(b), factor, inputs, others, stored);
}

}  // namespace parsimony
