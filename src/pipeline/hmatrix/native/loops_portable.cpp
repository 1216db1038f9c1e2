#define HMATRIX_LOOPS loops_portable
#define HMATRIX_LOOPS_NAME "portable"
#include "loops.inc"

namespace hmatrix {

const Loops& loops() {
#ifdef HMATRIX_X86
    static const Loops& fastest = [&]() -> const Loops& {
        __builtin_cpu_init();
        if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
            return loops_avx512;
        if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return loops_avx2;
        return loops_portable;
    }();
    return fastest;
#else
    return loops_portable;
#endif
}

}  // namespace hmatrix
