#include "pivots.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "precision.hpp"

namespace hmatrix {

template <class C>
void factorize_block(Kind kind, int d, std::vector<C>& X, std::vector<int>& pivots, std::vector<double>& determinant,
                     const int* points) {
    constexpr double epsilon = std::numeric_limits<Real<C>>::epsilon();
    if (kind == Cholesky) {
        std::vector<double> before(d);
        for (int i = 0; i < d; ++i) before[i] = std::real(X[static_cast<int64_t>(i) * d + i]);
        const int info = potrf<C>(d, X.data(), d);
        if (info > 0) throw BadPivot{points[info - 1], std::real(X[static_cast<int64_t>(info - 1) * (d + 1)])};
        for (int i = 0; i < d; ++i) {
            const double root = std::real(X[static_cast<int64_t>(i) * (d + 1)]);
            if (!(root * root > 8 * epsilon * before[i])) throw BadPivot{points[i], root * root};
            determinant[2] += 2 * std::log(root);
        }
        return;
    }
    pivots.resize(d);
    const int info = getrf<C>(d, X.data(), d, pivots.data());
    double largest = 0;
    for (int i = 0; i < d; ++i) largest = std::max<double>(largest, std::abs(X[static_cast<int64_t>(i) * (d + 1)]));
    Complex phase(determinant[0], determinant[1]);
    for (int i = 0; i < d; ++i) {
        const auto u = static_cast<Wide<C>>(X[static_cast<int64_t>(i) * (d + 1)]);
        const double s = std::abs(u);
        if (info > 0 || !(s > epsilon * largest)) {
            if (info > 0 && i != info - 1) continue;
            throw BadPivot{points[i], s};
        }
        phase *= u / s;
        if (pivots[i] != i + 1) phase = -phase;
        determinant[2] += std::log(s);
    }
    determinant[0] = phase.real(), determinant[1] = phase.imag();
}

template void factorize_block<double>(Kind, int, std::vector<double>&, std::vector<int>&, std::vector<double>&,
                                      const int*);
template void factorize_block<float>(Kind, int, std::vector<float>&, std::vector<int>&, std::vector<double>&,
                                     const int*);
template void factorize_block<Complex>(Kind, int, std::vector<Complex>&, std::vector<int>&, std::vector<double>&,
                                       const int*);
template void factorize_block<Single>(Kind, int, std::vector<Single>&, std::vector<int>&, std::vector<double>&,
                                      const int*);

}  // namespace hmatrix
