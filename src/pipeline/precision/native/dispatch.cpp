// Which instruction sets this processor has, asked at run time.
#include <cstring>

#include "routines.hpp"

namespace parsimony {

int available(const Routines* tables[], int capacity) {
    int n = 0;
    const auto offer = [&](const Routines& table) {
        if (n < capacity) tables[n++] = &table;
    };
#ifdef PARSIMONY_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl"))
        offer(avx512_routines());
    if (avx2) offer(avx2_routines());
#endif
    offer(portable_routines());
    return n;
}

const Routines* find(const char* name) {
    const Routines* tables[max_routines];
    const int n = available(tables, max_routines);
    for (int i = 0; i < n; ++i)
        if (std::strcmp(tables[i]->name, name) == 0) return tables[i];
    return nullptr;
}

}  // namespace parsimony
