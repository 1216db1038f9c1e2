// The innermost loops, compiled once per instruction set and chosen when the module is loaded.
//
// Contract of every set: results agree to a few units in the last place, no alignment is asked of any pointer,
// any length including 0 is right.
#pragma once

#include <cstdint>
#include <vector>

namespace hmatrix {

// Functions of the squared distance; `p` are their parameters. All but Gauss, RationalQuadratic and the Materns are 0
// at r = 0.
enum Radial : int {
    Matern12 = 0,           // p0 exp(-r p1)
    Matern32 = 1,           // p0 (1 + z) exp(-z), z = r p1
    Matern52 = 2,           // p0 (1 + z + z^2/3) exp(-z), z = r p1
    Gauss = 3,              // p0 exp(-r^2 p1)
    RationalQuadratic = 4,  // p0 (1 + r^2 p1)^-p2
    Inverse = 5,            // p0 / r
    Logarithm = 6,          // p0 log(r^2)
    Screened = 7,           // p0 exp(-r p1) / r
};

struct Loops {
    const char* name;
    // out (m, n), column-major: sum over the d coordinates of weights[c] (x_c[i] - y_c[j])^2; x is (d, m), y is (d, n)
    void (*squared_distances)(int d, int m, int n, const double* x, const double* y, const double* weights,
                              double* out);
    // value[i] <- f(value[i]) of squared distances
    void (*radial)(int kind, const double* p, int64_t n, double* value);
    // out[2i], out[2i+1] <- p0 exp((i p1 - p2) r)/r of squared distances
    void (*wave)(const double* p, int64_t n, const double* squares, double* out);
    // What an edge adds to the integral of 1/|x - y| over a triangle y: the edge from `lower` on along itself, over
    // `length`, is at distance t from the foot of x in the triangle's plane, of which x is at height `height` >= 0
    void (*edges)(int64_t n, const double* length, const double* lower, const double* t, const double* height,
                  double* out);
    // y (m) += B x, B (m, n) column-major
    void (*multiply_double)(int m, int n, const double* B, const double* x, double* y);
    void (*multiply_float)(int m, int n, const float* B, const double* x, double* y);
    // z (n) += B^T u
    void (*transposed_double)(int m, int n, const double* B, const double* u, double* z);
    void (*transposed_float)(int m, int n, const float* B, const double* u, double* z);
    // both at once, so that B is read once: y += B x, z += B^T u
    void (*both_double)(int m, int n, const double* B, const double* x, double* y, const double* u, double* z);
    void (*both_float)(int m, int n, const float* B, const double* x, double* y, const double* u, double* z);
};

extern const Loops loops_portable;
#ifdef HMATRIX_X86
extern const Loops loops_avx2;
extern const Loops loops_avx512;
#endif

// The sets that this processor runs, the fastest first.
std::vector<const Loops*> available_loops();

// The fastest of them.
const Loops& loops();

}  // namespace hmatrix
