// The sum of two activations, as at the end of a residual block.

template <class From, class Residual>
std::int64_t add_as(const From* x, const Residual* residual, Target y, bool relu, Activation activation, Part part) {
    using I = Isa;
    std::int64_t saturated = 0, at = part.begin;
    const auto result = [relu, activation](I::Vector a, I::Vector b) {
        if (activation.function != Function::none) return activated(a + b, activation);
        return relu ? I::max(I::zero(), a + b) : a + b;
    };
    for (; at + I::lanes <= part.end; at += I::lanes)
        saturated += store_results(result(I::load(x + at), I::load(residual + at)), y, at, I::lanes);
    if (const std::int64_t n = part.end - at; n > 0)
        saturated += store_results(result(I::load(x + at, n), I::load(residual + at, n)), y, at, n);
    return saturated;
}

template <class From>
std::int64_t add_from(const From* x, Source residual, Target y, bool relu, Activation activation, Part part) {
    return residual.half ? add_as(x, static_cast<const Half*>(residual.data), y, relu, activation, part)
                         : add_as(x, static_cast<const float*>(residual.data), y, relu, activation, part);
}

inline std::int64_t add(Source x, Source residual, Target y, bool relu, Activation activation, Part part) {
    return x.half ? add_from(static_cast<const Half*>(x.data), residual, y, relu, activation, part)
                  : add_from(static_cast<const float*>(x.data), residual, y, relu, activation, part);
}
