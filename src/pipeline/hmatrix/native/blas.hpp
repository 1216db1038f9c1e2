// BLAS and LAPACK by SciPy's own function pointers (scipy.linalg.cython_blas, cython_lapack): no library to link.
//
// Column-major throughout. `gemm('T', ...)` transposes without conjugation, as complex symmetric matrices want it.
#pragma once

#include <complex>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace hmatrix {

using Complex = std::complex<double>;
using Single = std::complex<float>;

// The real type of a real or complex one.
template <class T>
using Real = decltype(std::abs(T()));

template <class T>
struct Routines {
    void (*gemm)(char*, char*, int*, int*, int*, T*, T*, int*, T*, int*, T*, T*, int*);
    void (*gemv)(char*, int*, int*, T*, T*, int*, T*, int*, T*, T*, int*);
    void (*herk)(char*, char*, int*, int*, Real<T>*, T*, int*, Real<T>*, T*, int*);  // syrk where T is real
    void (*trsm)(char*, char*, char*, char*, int*, int*, T*, T*, int*, T*, int*);
    void (*trmm)(char*, char*, char*, char*, int*, int*, T*, T*, int*, T*, int*);
    void (*potrf)(char*, int*, T*, int*, int*);
    void (*getrf)(int*, int*, T*, int*, int*, int*);
    void (*getrs)(char*, int*, int*, T*, int*, int*, T*, int*, int*);
};

// Operations that this thread has done: those of products and factorizations, and kFlopsPerEntry for each kernel entry.
inline thread_local double flop_count = 0;
constexpr double kFlopsPerEntry = 20;

// The table of a type, filled by `load_routines`.
template <class T>
inline Routines<T>& routines() {
    static Routines<T> table;
    return table;
}

// Fills the tables of all four types; raises ImportError's C++ twin when SciPy lacks a routine.
void load_routines();

// C (m, n) <- alpha op(A) op(B) + beta C
template <class T>
inline void gemm(char ta, char tb, int m, int n, int k, T alpha, const T* A, int lda, const T* B, int ldb, T beta, T* C,
                 int ldc) {
    flop_count += 2.0 * m * n * k;
    if (m == 0 || n == 0) return;
    routines<T>().gemm(&ta, &tb, &m, &n, &k, &alpha, const_cast<T*>(A), &lda, const_cast<T*>(B), &ldb, &beta, C, &ldc);
}

// Lower triangle of C (n, n) += A^H A, A (m, n)
template <class T>
inline void add_gram(int n, int m, const T* A, int lda, T* C, int ldc) {
    flop_count += 1.0 * m * n * n;
    if (m == 0 || n == 0) return;
    char uplo = 'L', t = std::is_same_v<T, Real<T>> ? 'T' : 'C';
    Real<T> one = 1;
    routines<T>().herk(&uplo, &t, &n, &m, &one, const_cast<T*>(A), &lda, &one, C, &ldc);
}

// y <- alpha op(A) x + beta y
template <class T>
inline void gemv(char t, int m, int n, T alpha, const T* A, int lda, const T* x, T beta, T* y) {
    flop_count += 2.0 * m * n;
    if (m == 0 || n == 0) return;
    int one = 1;
    routines<T>().gemv(&t, &m, &n, &alpha, const_cast<T*>(A), &lda, const_cast<T*>(x), &one, &beta, y, &one);
}

// B (m, n) <- op(A)^-1 B (side L) or B op(A)^-1 (side R), A triangular
template <class T>
inline void trsm(char side, char uplo, char t, char diag, int m, int n, const T* A, int lda, T* B, int ldb) {
    flop_count += side == 'L' ? 1.0 * m * m * n : 1.0 * n * n * m;
    if (m == 0 || n == 0) return;
    T one(1);
    routines<T>().trsm(&side, &uplo, &t, &diag, &m, &n, &one, const_cast<T*>(A), &lda, B, &ldb);
}

// B (m, n) <- op(A) B (side L), A triangular
template <class T>
inline void trmm(char side, char uplo, char t, char diag, int m, int n, const T* A, int lda, T* B, int ldb) {
    if (m == 0 || n == 0) return;
    T one(1);
    routines<T>().trmm(&side, &uplo, &t, &diag, &m, &n, &one, const_cast<T*>(A), &lda, B, &ldb);
}

// Lower Cholesky factor in place; returns 0 or the order of the first leading minor that is not positive.
template <class T>
inline int potrf(int n, T* A, int lda) {
    flop_count += 1.0 * n * n * n / 3;
    char uplo = 'L';
    int info = 0;
    if (n > 0) routines<T>().potrf(&uplo, &n, A, &lda, &info);
    return info;
}

// LU with row pivots in place; returns 0 or the index (from 1) of an exactly zero pivot.
template <class T>
inline int getrf(int n, T* A, int lda, int* pivots) {
    flop_count += 2.0 * n * n * n / 3;
    int info = 0;
    if (n > 0) routines<T>().getrf(&n, &n, A, &lda, pivots, &info);
    return info;
}

template <class T>
inline void getrs(char t, int n, int m, const T* A, int lda, const int* pivots, T* B, int ldb) {
    flop_count += 2.0 * n * n * m;
    int info = 0;
    if (n == 0 || m == 0) return;
    routines<T>().getrs(&t, &n, &m, const_cast<T*>(A), &lda, const_cast<int*>(pivots), B, &ldb, &info);
}

}  // namespace hmatrix
