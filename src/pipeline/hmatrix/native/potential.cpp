#include "potential.hpp"

#include <cmath>

#include "loops.hpp"

namespace hmatrix {

namespace {

struct Vector {
    double x, y, z;
};
inline Vector operator-(Vector a, Vector b) { return {a.x - b.x, a.y - b.y, a.z - b.z}; }
inline Vector operator*(double s, Vector a) { return {s * a.x, s * a.y, s * a.z}; }
inline double dot(Vector a, Vector b) { return a.x * b.x + a.y * b.y + a.z * b.z; }
inline Vector cross(Vector a, Vector b) {
    return {a.y * b.z - a.z * b.y, a.z * b.x - a.x * b.z, a.x * b.y - a.y * b.x};
}
inline Vector corner(const double* triangle, int i) {
    return {triangle[3 * i], triangle[3 * i + 1], triangle[3 * i + 2]};
}

// The mean of 1/|x - y| for x at the points of a rule on `outer`, y all over `inner`.
class Mean {
  public:
    Mean(const In2<double>& coordinates, const In<double>& weights)
        : coordinates_(coordinates.data()), weights_(weights.data()), n_(static_cast<int>(weights.shape(0))) {
        for (auto* values : {&length_, &lower_, &t_, &height_, &potential_}) values->resize(3 * n_);
    }

    double operator()(const double* outer, const double* inner) {
        const Vector a = corner(inner, 0), normal = cross(corner(inner, 1) - a, corner(inner, 2) - a);
        const double twice = std::sqrt(dot(normal, normal));
        const Vector unit = (1 / twice) * normal;
        for (int e = 0; e < 3; ++e) {
            const Vector start = corner(inner, e), edge = corner(inner, (e + 1) % 3) - start;
            const double length = std::sqrt(dot(edge, edge));
            const Vector along = (1 / length) * edge, outward = cross(along, unit);
            // A rule's points are means of the corners, and so are their places along the edge, beside and above it.
            double lower[3], t[3], height[3];
            for (int i = 0; i < 3; ++i) {
                const Vector from = start - corner(outer, i);
                lower[i] = dot(from, along), t[i] = dot(from, outward), height[i] = dot(from, unit);
            }
            for (int q = 0; q < n_; ++q) {
                const double* c = coordinates_ + 3 * q;
                const int at = e * n_ + q;
                length_[at] = length;
                lower_[at] = c[0] * lower[0] + c[1] * lower[1] + c[2] * lower[2];
                t_[at] = c[0] * t[0] + c[1] * t[1] + c[2] * t[2];
                height_[at] = std::abs(c[0] * height[0] + c[1] * height[1] + c[2] * height[2]);
            }
        }
        loops().edges(3 * n_, length_.data(), lower_.data(), t_.data(), height_.data(), potential_.data());
        double sum = 0;
        for (int at = 0; at < 3 * n_; ++at) sum += weights_[at % n_] * potential_[at];
        return sum / (twice / 2);
    }

  private:
    const double *coordinates_, *weights_;
    int n_;
    std::vector<double> length_, lower_, t_, height_, potential_;
};

}  // namespace

Out<double> symmetric_means(In2<double> targets, In2<double> sources, In2<double> coordinates, In<double> weights) {
    std::vector<double> means(targets.shape(0));
    Mean mean(coordinates, weights);
    for (size_t p = 0; p < means.size(); ++p) {
        if (p % 4096 == 0) heed_interrupts();
        const double *x = targets.data() + 9 * p, *y = sources.data() + 9 * p;
        means[p] = (mean(x, y) + mean(y, x)) / 2;
    }
    return give(std::move(means));
}

}  // namespace hmatrix
