// Functions of results: rational ones, and those made of an exponential.
//
// exp(x) = 2^n exp(r) with n the nearest integer to x log2(e), which an addition of 1.5 * 2^23 finds and leaves in the
// low bits, and a polynomial of degree 7 in |r| <= log(2) / 2 [1]: relative error below 2e-7. erf is Abramowitz and
// Stegun's 7.1.26, off by 1.5e-7 at most. Both are far below half a unit of binary16, 4.9e-4.
//
// [1] Moshier, "Methods and programs for mathematical functions", 1989 (cephes, expf).

typedef std::uint32_t FloatBits __attribute__((vector_size(4 * Isa::lanes)));

inline Isa::Vector exponential(Isa::Vector x) {
    using I = Isa;
    x = I::min(I::all(89.0f), I::max(I::all(-86.6f), x));  // beyond which it is infinite, or below 2.5e-38
    const auto magic = I::all(12582912.0f);
    const auto shifted = I::fma(x, I::all(1.44269504f), magic);
    const auto n = shifted - magic;
    auto r = I::fma(n, I::all(-0.693359375f), x);
    r = I::fma(n, I::all(2.12194440e-4f), r);
    auto p = I::all(1.9875691500e-4f);
    p = I::fma(p, r, I::all(1.3981999507e-3f));
    p = I::fma(p, r, I::all(8.3334519073e-3f));
    p = I::fma(p, r, I::all(4.1665795894e-2f));
    p = I::fma(p, r, I::all(1.6666665459e-1f));
    p = I::fma(p, r, I::all(5.0000001201e-1f));
    p = I::fma(p, r * r, r + I::all(1.0f));
    FloatBits bits;
    __builtin_memcpy(&bits, &shifted, sizeof bits);
    bits = (bits << 23) + (126u << 23);  // half of the power, for 2^128 is no binary32
    I::Vector power;
    __builtin_memcpy(&power, &bits, sizeof power);
    return p * power * I::all(2.0f);
}

inline Isa::Vector logistic(Isa::Vector x) {
    return Isa::all(1.0f) / (Isa::all(1.0f) + exponential(Isa::zero() - x));
}

inline Isa::Vector magnitude_of(Isa::Vector x) { return Isa::max(Isa::zero() - x, x); }

// Positive and negative parts by maxima and minima, which pass a NaN on.
inline Isa::Vector positive(Isa::Vector x) { return Isa::max(Isa::zero(), x); }
inline Isa::Vector negative(Isa::Vector x) { return Isa::min(Isa::zero(), x); }

inline Isa::Vector hard_swish(Isa::Vector x) {
    using I = Isa;
    return x * I::min(I::all(1.0f), positive(I::fma(x, I::all(1.0f / 6), I::all(0.5f))));
}

// tanh(|x|) = (1 - e) / (1 + e), e = exp(-2 |x|); near zero, where that cancels, a polynomial.
inline Isa::Vector hyperbolic_tangent(Isa::Vector x) {
    using I = Isa;
    const auto z = x * x;
    auto p = I::all(-5.70498872745e-3f);
    p = I::fma(p, z, I::all(2.06390887954e-2f));
    p = I::fma(p, z, I::all(-5.37397155531e-2f));
    p = I::fma(p, z, I::all(1.33314422036e-1f));
    p = I::fma(p, z, I::all(-3.33332819422e-1f));
    const auto near = I::fma(p * z, x, x);
    const auto far = I::all(1.0f) - I::all(2.0f) / (exponential(x + x) + I::all(1.0f));
    float a[I::lanes], b[I::lanes], v[I::lanes];
    I::store(a, near), I::store(b, far), I::store(v, x);
    for (int i = 0; i < I::lanes; ++i) a[i] = v[i] > 0.625f || v[i] < -0.625f ? b[i] : a[i];
    return I::load(a);
}

// 1 - erf(z) for z >= 0.
inline Isa::Vector complementary_error(Isa::Vector z) {
    using I = Isa;
    const auto t = I::all(1.0f) / I::fma(z, I::all(0.3275911f), I::all(1.0f));
    auto p = I::all(1.061405429f);
    p = I::fma(p, t, I::all(-1.453152027f));
    p = I::fma(p, t, I::all(1.421413741f));
    p = I::fma(p, t, I::all(-0.284496736f));
    p = I::fma(p, t, I::all(0.254829592f));
    return p * t * exponential(I::zero() - z * z);
}

// x P(X <= x) for a normal X: from the tail at -|x|, so that nothing cancels below zero.
inline Isa::Vector gaussian_unit(Isa::Vector x) {
    using I = Isa;
    const auto tail = I::all(0.5f) * complementary_error(magnitude_of(x) * I::all(0.70710678f));
    // x >= 0: x (1 - tail); x < 0: x tail. Together max(x, 0) - |x| tail.
    return positive(x) - magnitude_of(x) * tail;
}

template <class Scalar>
inline Isa::Vector each(Isa::Vector x, const Scalar& function) {
    float values[Isa::lanes];
    Isa::store(values, x);
    for (int i = 0; i < Isa::lanes; ++i) values[i] = function(values[i]);
    return Isa::load(values);
}

__attribute__((noinline)) inline Isa::Vector activated(Isa::Vector x, const Activation& activation) {
    using I = Isa;
    switch (activation.function) {
        case Function::none: return x;
        case Function::clip: return I::min(I::all(activation.b), I::max(I::all(activation.a), x));
        case Function::leaky_relu: return I::fma(negative(x), I::all(activation.a), positive(x));
        case Function::hard_sigmoid:
            return I::min(I::all(1.0f), positive(I::fma(x, I::all(1.0f / 6), I::all(0.5f))));
        case Function::hard_swish: return hard_swish(x);
        case Function::sigmoid: return logistic(x);
        case Function::silu: return x * logistic(x);
        case Function::tanh: return hyperbolic_tangent(x);
        case Function::gelu: return gaussian_unit(x);
        case Function::gelu_tanh: {
            const auto u = I::fma(x * x * x, I::all(0.044715f), x) * I::all(2 * 0.79788456f);
            return x * logistic(u);
        }
        case Function::exp: return exponential(x);
        case Function::square: return x * x;
        case Function::sqrt: return each(x, [](float v) { return __builtin_sqrtf(v); });
        case Function::reciprocal: return I::all(1.0f) / x;
        case Function::abs: return magnitude_of(x);
        case Function::log: return each(x, [](float v) { return __builtin_logf(v); });
        case Function::erf: {
            // The sign by a quotient, which is 0 at 0 and would be none of infinities.
            x = I::min(I::all(10.0f), I::max(I::all(-10.0f), x));
            const auto z = magnitude_of(x);
            return (I::all(1.0f) - complementary_error(z)) * (x / I::max(I::all(1e-30f), z));
        }
        case Function::elu:
            return I::fma(exponential(negative(x)) - I::all(1.0f), I::all(activation.a), positive(x));
    }
    return x;
}
