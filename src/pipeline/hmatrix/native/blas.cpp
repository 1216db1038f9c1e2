#include "blas.hpp"

#include <nanobind/nanobind.h>

namespace hmatrix {

namespace {

template <class F>
void find(nanobind::handle table, const char* name, F& pointer) {
    nanobind::object capsule = table[name];
    void* address = PyCapsule_GetPointer(capsule.ptr(), PyCapsule_GetName(capsule.ptr()));
    if (!address) throw nanobind::python_error();
    pointer = reinterpret_cast<F>(address);
}

template <class T>
void fill(char letter, nanobind::handle blas, nanobind::handle lapack) {
    Routines<T>& r = routines<T>();
    auto name = [letter](const char* rest) { return std::string(1, letter) + rest; };
    find(blas, name("gemm").c_str(), r.gemm);
    find(blas, name("gemv").c_str(), r.gemv);
    find(blas, name(std::is_same_v<T, Real<T>> ? "syrk" : "herk").c_str(), r.herk);
    find(blas, name("trsm").c_str(), r.trsm);
    find(blas, name("trmm").c_str(), r.trmm);
    find(lapack, name("potrf").c_str(), r.potrf);
    find(lapack, name("getrf").c_str(), r.getrf);
    find(lapack, name("getrs").c_str(), r.getrs);
}

}  // namespace

void load_routines() {
    nanobind::object blas = nanobind::module_::import_("scipy.linalg.cython_blas").attr("__pyx_capi__");
    nanobind::object lapack = nanobind::module_::import_("scipy.linalg.cython_lapack").attr("__pyx_capi__");
    fill<float>('s', blas, lapack);
    fill<double>('d', blas, lapack);
    fill<Single>('c', blas, lapack);
    fill<Complex>('z', blas, lapack);
}

}  // namespace hmatrix
