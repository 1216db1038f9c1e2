#define HMATRIX_LOOPS loops_portable
#define HMATRIX_LOOPS_NAME "portable"
#include "loops.inc"

namespace hmatrix {

std::vector<const Loops*> available_loops() {
    std::vector<const Loops*> sets;
#ifdef HMATRIX_X86
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        sets.push_back(&loops_avx512);
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets.push_back(&loops_avx2);
#endif
    sets.push_back(&loops_portable);
    return sets;
}

const Loops& loops() {
    static const Loops& fastest = *available_loops().front();
    return fastest;
}

}  // namespace hmatrix
