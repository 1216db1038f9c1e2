#include "memory.hpp"

#include <sys/mman.h>
#include <unistd.h>

#ifdef __GLIBC__
#include <malloc.h>
#endif

namespace hmatrix {

void* map_pages(size_t bytes) {
    void* found = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return found == MAP_FAILED ? nullptr : found;
}

void unmap_pages(void* first, size_t bytes) { munmap(first, bytes); }

size_t whole_pages(size_t bytes) {
    static const size_t page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    return (bytes + page - 1) / page * page;
}

void release_free_memory() {
#ifdef __GLIBC__
    malloc_trim(0);  // freed memory between what is kept stays with the process otherwise
#endif
}

}  // namespace hmatrix
