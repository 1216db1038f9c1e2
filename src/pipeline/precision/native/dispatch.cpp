// Which instruction sets this processor has, asked at run time.
#include <cstdlib>
#include <cstring>

#if defined(PARSIMONY_AVX512_FP16) || defined(PARSIMONY_AMX)
#include <cpuid.h>
#endif

#include "routines.hpp"

namespace parsimony {

#if defined(PARSIMONY_AVX512_FP16) || defined(PARSIMONY_AMX)
// A bit of leaf 7's EDX: 22 and 24 AMX with BF16, 23 AVX512-FP16, which __builtin_cpu_supports knows in few compilers.
// Asked once: in a virtual machine the instruction takes its host 10 microseconds.
static bool has_feature(int bit) {
    static const unsigned features = [] {
        unsigned a = 0, b = 0, c = 0, d = 0;
        return __get_cpuid_count(7, 0, &a, &b, &c, &d) ? d : 0;
    }();
    return features >> bit & 1;
}
#endif

// Whether PARSIMONY_WITHOUT names an instruction set: names with commas between them, to run as an older processor would.
static bool left_out(const char* name) {
    const char* at = std::getenv("PARSIMONY_WITHOUT");
    const std::size_t n = std::strlen(name);
    for (; at != nullptr && *at != 0; at += *at == ',') {
        const std::size_t length = std::strcspn(at, ",");
        if (length == n && std::strncmp(at, name, n) == 0) return true;
        at += length;
    }
    return false;
}

int available(const Routines* tables[], int capacity) {
    int n = 0;
    const auto offer = [&](const Routines& table) {
        if (n < capacity && !left_out(table.name)) tables[n++] = &table;
    };
#ifdef PARSIMONY_X86
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512vl");
#ifdef PARSIMONY_AMX
    if (avx512 && __builtin_cpu_supports("avx512bf16") && has_feature(22) && has_feature(24) && permits_tiles())
        offer(amx_bf16_routines());
#endif
#ifdef PARSIMONY_AVX512_BF16
    if (avx512 && __builtin_cpu_supports("avx512bf16")) offer(avx512_bf16_routines());
#endif
#ifdef PARSIMONY_AVX512_FP16
    if (avx512 && has_feature(23)) offer(avx512_fp16_routines());
#endif
    if (avx512) offer(avx512_routines());
    if (avx2) offer(avx2_routines());
#endif
#ifdef PARSIMONY_NEON
    offer(neon_routines());
#endif
    if (n < capacity) tables[n++] = &portable_routines();  // which is never left out
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
