// Memory of what is kept for long, in pages of its own.
#pragma once

#include <cstddef>
#include <cstring>
#include <new>
#include <type_traits>
#include <utility>

namespace hmatrix {

// Pages that are given back to the system as soon as they are unmapped. Both take whole pages' bytes; nullptr: none left.
void* map_pages(size_t bytes);
void unmap_pages(void* first, size_t bytes);
// Bytes of so many pages that hold these.
size_t whole_pages(size_t bytes);
// Gives what is free on the heap back to the system, as far as it makes whole pages.
void release_free_memory();

// Numbers that become more at the end, and stay while much else comes and goes. On the heap they would lie between
// blocks that are freed around them, and what is free there stays with the process. Pages that nothing was written to
// take no memory, so that there may be more room than is needed.
template <class T>
class Pages {
    static_assert(std::is_trivially_copyable_v<T>);

  public:
    Pages() = default;
    Pages(Pages&& other) noexcept { swap(other); }
    Pages& operator=(Pages&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Pages() {
        if (first_) unmap_pages(first_, bytes_);
    }

    T* data() { return first_; }
    size_t size() const { return size_; }
    size_t room() const { return bytes_ / sizeof(T) - size_; }

    // Makes room for so many more numbers.
    void reserve(size_t more) {
        if (more <= room()) return;
        const size_t bytes = whole_pages((size_ + more) * sizeof(T));
        void* found = map_pages(bytes);
        if (!found) throw std::bad_alloc();
        if (size_) std::memcpy(found, first_, size_ * sizeof(T));
        if (first_) unmap_pages(first_, bytes_);
        first_ = static_cast<T*>(found), bytes_ = bytes;
    }

    // Adds so many numbers, and returns where they are to be written.
    T* add(size_t count) {
        if (count > room()) reserve(count > size_ ? count : size_);
        T* to = first_ + size_;
        size_ += count;
        return to;
    }

    // Gives back the room behind the last number.
    void trim() {
        const size_t used = whole_pages(size_ * sizeof(T));
        if (used == bytes_) return;
        unmap_pages(reinterpret_cast<char*>(first_) + used, bytes_ - used);
        bytes_ = used;
        if (used == 0) first_ = nullptr;
    }

  private:
    void swap(Pages& other) {
        std::swap(first_, other.first_);
        std::swap(size_, other.size_);
        std::swap(bytes_, other.bytes_);
    }

    T* first_ = nullptr;
    size_t size_ = 0, bytes_ = 0;
};

}  // namespace hmatrix
