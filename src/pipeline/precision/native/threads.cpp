#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#ifdef __linux__
#include <sched.h>
#endif
#ifdef __unix__
#include <unistd.h>
#endif

namespace parsimony {
namespace {

int cores_of_this_thread() {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

int initial_limit() {
    const char* wanted = std::getenv("OMP_NUM_THREADS");
    const int n = wanted != nullptr ? std::atoi(wanted) : 0;
    return n >= 1 ? n : cores_of_this_thread();
}

std::atomic<int>& limit() {
    static std::atomic<int> n{initial_limit()};
    return n;
}

long process() {
#ifdef __unix__
    return getpid();
#else
    return 0;
#endif
}

// Workers that sleep between runs. Never destroyed: they may still wait when the process ends.
class Pool {
public:
    void run(int n, void (*task)(const void*, int), const void* context) {
        {
            std::lock_guard<std::mutex> lock(mutex_);
            task_ = task, context_ = context, size_ = n, left_ = n - 1;
            ++round_;
            while (n_workers_ < n - 1) {
                ++n_workers_;
                std::thread(&Pool::work, this, n_workers_, round_ - 1).detach();
            }
        }
        start_.notify_all();
        task(context, 0);
        for (int spin = 0; spin < spins && left_.load(std::memory_order_acquire) > 0; ++spin) pause();
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return left_.load() == 0; });
    }

private:
    static constexpr int spins = 2000;  // tens of microseconds: as long as waking up takes

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    void work(int number, long seen) {
        for (;;) {
            for (int spin = 0; spin < spins && round_.load(std::memory_order_acquire) == seen; ++spin) pause();
            std::unique_lock<std::mutex> lock(mutex_);
            start_.wait(lock, [&] { return round_.load() != seen; });
            seen = round_;
            if (number >= size_) continue;
            const auto task = task_;
            const auto* context = context_;
            lock.unlock();
            task(context, number);
            lock.lock();
            if (--left_ == 0) done_.notify_one();
        }
    }

    std::mutex mutex_;
    std::condition_variable start_, done_;
    std::atomic<long> round_{0};
    std::atomic<int> left_{0};
    int n_workers_ = 0, size_ = 0;
    void (*task_)(const void*, int) = nullptr;
    const void* context_ = nullptr;
};

}  // namespace

void set_threads(int n) { limit() = std::max(1, n); }
int threads() { return limit(); }

Team::Team() : size_(limit()) {
    if (size_ > 1) size_ = std::min(size_, cores_of_this_thread());
}

void Team::dispatch(void (*task)(const void*, int), const void* context) const {
    static std::mutex taken;
    static Pool* pool = nullptr;
    static long owner = -1;
    if (size_ > 1 && taken.try_lock()) {
        const std::lock_guard<std::mutex> lock(taken, std::adopt_lock);
        if (owner != process()) pool = new Pool, owner = process();  // a forked child has no workers
        pool->run(size_, task, context);
        return;
    }
    for (int i = 0; i < size_; ++i) task(context, i);  // alone, or another run has the pool
}

}  // namespace parsimony
