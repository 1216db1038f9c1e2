// Memory for weights and activations: aligned to cache lines, and to huge pages where there is enough of it.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace parsimony {

// Zeros. Streaming weights through 4 KiB pages costs a page walk each; huge pages take it away. What is not
// much smaller comes from the system, which gives zeros, and memory only for what is touched.
template <class T>
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(std::size_t count) : count_(count) {
        constexpr std::size_t line = 64, huge = std::size_t{2} << 20;
        // The prefetch of a stream runs past its end; some spare pages keep that inside the allocation.
        const std::size_t wanted = count * sizeof(T) + 16384;
#ifdef __linux__
        if (wanted >= huge / 8) {
            const std::size_t size = (wanted + huge - 1) / huge * huge, mapped = size + huge;
            void* start = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (start == MAP_FAILED) throw std::bad_alloc();
            void* aligned = reinterpret_cast<void*>((reinterpret_cast<std::uintptr_t>(start) + huge - 1) / huge * huge);
            madvise(aligned, size, MADV_HUGEPAGE);
            data_ = {static_cast<T*>(aligned), Free{start, mapped}};
            return;
        }
#endif
        const std::size_t size = (wanted + line - 1) / line * line;
        void* memory = std::aligned_alloc(line, size);
        if (memory == nullptr) throw std::bad_alloc();
        std::memset(memory, 0, size);
        data_.reset(static_cast<T*>(memory));
    }
    T* data() const { return data_.get(); }
    std::size_t size() const { return count_; }

private:
    struct Free {
        void* start = nullptr;  // of what the system gave
        std::size_t mapped = 0;

        void operator()(T* p) const {
#ifdef __linux__
            if (mapped > 0) {
                munmap(start, mapped);
                return;
            }
#endif
            std::free(p);
        }
    };
    std::unique_ptr<T, Free> data_;
    std::size_t count_ = 0;
};

}  // namespace parsimony
