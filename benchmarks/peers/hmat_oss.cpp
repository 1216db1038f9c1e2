// One problem with hmat-oss: assemble, multiply, factorize, solve; figures as one line of JSON.
//
// hmat_oss POINTS N DIMENSION KERNEL PARAMETER DIAGONAL TOLERANCE LOOSE RIGHT_HAND_SIDE SOLUTION
//   POINTS, RIGHT_HAND_SIDE  raw doubles, N x DIMENSION and N; SOLUTION is written likewise
//   KERNEL                   exponential: exp(-r / PARAMETER); inverse: 1 / r
//   LOOSE                    0: Cholesky at TOLERANCE and one solve; else a second matrix, factorized at LOOSE,
//                            preconditions conjugate gradients on the first until the residual is TOLERANCE
//
// Standard admissibility with eta 2, median clustering, leaves of 100, partially pivoted ACA: the best of the settings
// tried on these problems. One thread.
#include <hmat/hmat.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

extern "C" void openblas_set_num_threads(int);

namespace {

using Vector = std::vector<double>;

struct Problem {
    int n, dimension;
    bool exponential;
    double inverse_length, diagonal;
    Vector points;  // coordinate by coordinate, so that a column of the matrix vectorizes
};

Problem problem;

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Vector read(const char* path, size_t count) {
    Vector values(count);
    std::ifstream file(path, std::ios::binary);
    if (!file.read(reinterpret_cast<char*>(values.data()), std::streamsize(count * sizeof(double)))) {
        std::fprintf(stderr, "%s: expected %zu doubles\n", path, count);
        std::exit(2);
    }
    return values;
}

void column(const int* rows, int count, int source, double* out) {
    for (int i = 0; i < count; i++) out[i] = 0;
    for (int k = 0; k < problem.dimension; k++) {
        const double* x = problem.points.data() + size_t(k) * problem.n;
        const double y = x[source];
        for (int i = 0; i < count; i++) out[i] += (x[rows[i]] - y) * (x[rows[i]] - y);
    }
    if (problem.exponential)
        for (int i = 0; i < count; i++) out[i] = std::exp(-std::sqrt(out[i]) * problem.inverse_length);
    else
        for (int i = 0; i < count; i++) out[i] = 1 / std::sqrt(out[i]);
    for (int i = 0; i < count; i++)
        if (rows[i] == source) out[i] = problem.diagonal;
}

struct Block {
    int row_start, column_start;
    const int *row_map, *column_map;
};

void release(void* block) { delete static_cast<Block*>(block); }

void prepare(int row_start, int, int column_start, int, int* rows, int*, int* columns, int*, void*,
             hmat_block_info_t* info) {
    info->user_data = new Block{row_start, column_start, rows, columns};
    info->release_user_data = release;
}

void compute(void* data, int row, int n_rows, int first_column, int n_columns, void* out) {
    const auto* block = static_cast<const Block*>(data);
    for (int j = 0; j < n_columns; j++)
        column(block->row_map + block->row_start + row, n_rows,
               block->column_map[block->column_start + first_column + j], static_cast<double*>(out) + size_t(j) * n_rows);
}

double dot(const Vector& a, const Vector& b) {
    double sum = 0;
    for (size_t i = 0; i < a.size(); i++) sum += a[i] * b[i];
    return sum;
}

}  // namespace

int main(int argc, char** argv) {
    if (argc != 11) return 2;
    const int n = std::atoi(argv[2]), d = std::atoi(argv[3]);
    const double tolerance = std::atof(argv[7]), loose = std::atof(argv[8]);
    const Vector points = read(argv[1], size_t(n) * d), b = read(argv[9], n);
    problem = {n, d, std::string(argv[4]) == "exponential", 1 / std::atof(argv[5]), std::atof(argv[6]), Vector(size_t(n) * d)};
    for (int i = 0; i < n; i++)
        for (int k = 0; k < d; k++) problem.points[size_t(k) * n + i] = points[size_t(i) * d + k];
    openblas_set_num_threads(1);

    hmat_settings_t settings;
    hmat_get_parameters(&settings);
    settings.maxLeafSize = 100;
    hmat_set_parameters(&settings);
    hmat_interface_t hmat;
    hmat_init_default_interface(&hmat, HMAT_DOUBLE_PRECISION);
    hmat.init();

    double start = seconds();
    auto* tree = hmat_create_cluster_tree(const_cast<double*>(points.data()), d, n,
                                          hmat_create_clustering_max_dof(hmat_create_clustering_median(), 100));
    const auto assemble = [&](double accuracy) {
        auto* matrix = hmat.create_empty_hmatrix_admissibility(tree, tree, 1, hmat_create_admissibility_standard(2.0));
        hmat_assemble_context_t context;
        hmat_assemble_context_init(&context);
        context.compression = hmat_create_compression_aca_partial(accuracy);
        context.user_context = &problem;
        context.prepare = prepare;
        context.block_compute = compute;
        context.lower_symmetric = 1;
        context.progress = nullptr;
        hmat.set_low_rank_epsilon(matrix, accuracy);
        hmat.assemble_generic(matrix, &context);
        return matrix;
    };
    auto* matrix = assemble(tolerance);
    const double build = seconds() - start;

    hmat_info_t info;
    hmat.get_info(matrix, &info);
    const double bytes = 8.0 * info.compressed_size;
    double one = 1, zero = 0, product = 1e300;
    Vector y(n);
    for (int repeat = 0; repeat < 7; repeat++) {
        Vector x = b;
        const double begin = seconds();
        hmat.gemm_dense('N', 'N', 'L', &one, matrix, x.data(), &zero, y.data(), 1);
        product = std::min(product, seconds() - begin);
    }

    start = seconds();
    auto* factor = loose > 0 ? assemble(loose) : hmat.copy(matrix);
    hmat_factorization_context_t context;
    hmat_factorization_context_init(&context);
    context.factorization = hmat_factorization_llt;
    context.progress = nullptr;
    hmat.factorize_generic(factor, &context);
    const double factorize = seconds() - start;
    hmat.get_info(factor, &info);
    const double factor_bytes = 8.0 * info.compressed_size;

    start = seconds();
    int iterations = 0;
    Vector x(n, 0.0), r = b;
    const auto precondition = [&](Vector v) {
        hmat.solve_systems(factor, v.data(), 1);
        return v;
    };
    if (loose > 0) {
        Vector z = precondition(r), p = z, q(n);
        double rz = dot(r, z);
        while (std::sqrt(dot(r, r) / dot(b, b)) > tolerance && iterations < 300) {
            Vector copy = p;
            hmat.gemv('N', &one, matrix, copy.data(), &zero, q.data(), 1);
            const double step = rz / dot(p, q);
            for (int i = 0; i < n; i++) x[i] += step * p[i], r[i] -= step * q[i];
            z = precondition(r);
            const double former = rz;
            rz = dot(r, z);
            for (int i = 0; i < n; i++) p[i] = z[i] + rz / former * p[i];
            iterations++;
        }
    } else {
        x = precondition(b);
    }
    const double solve = seconds() - start;

    std::ofstream(argv[10], std::ios::binary).write(reinterpret_cast<const char*>(x.data()), std::streamsize(n * sizeof(double)));
    std::printf("{\"build\": %.6g, \"bytes\": %.17g, \"product\": %.6g, \"factorize\": %.6g, \"factor_bytes\": %.17g, "
                "\"solve\": %.6g, \"iterations\": %d, \"version\": \"%s\"}\n",
                build, bytes, product, factorize, factor_bytes, solve, iterations, hmat_get_version());
}
