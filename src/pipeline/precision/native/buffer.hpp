// Memory for weights and activations: aligned to cache lines, and to huge pages where there is enough of it.
#pragma once

#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace parsimony {

// Zeros. Streaming weights through 4 KiB pages costs a page walk each; huge pages take it away.
template <class T>
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(std::size_t count) : count_(count) {
        constexpr std::size_t line = 64, huge = std::size_t{2} << 20;
        // The prefetch of a stream runs past its end; a spare page keeps that inside the allocation.
        const std::size_t wanted = count * sizeof(T) + 4096;
        const std::size_t alignment = wanted >= huge ? huge : line;
        const std::size_t size = (wanted + alignment - 1) / alignment * alignment;
        void* memory = std::aligned_alloc(alignment, size);
        if (memory == nullptr) throw std::bad_alloc();
#ifdef __linux__
        if (alignment == huge) madvise(memory, size, MADV_HUGEPAGE);
#endif
        std::memset(memory, 0, size);
        data_.reset(static_cast<T*>(memory));
    }
    T* data() const { return data_.get(); }
    std::size_t size() const { return count_; }

private:
    struct Free {
        void operator()(T* p) const { std::free(p); }
    };
    std::unique_ptr<T, Free> data_;
    std::size_t count_ = 0;
};

}  // namespace parsimony
