#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <system_error>
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

// The cores that a thread may run on, as far as the system tells.
struct Cores {
#ifdef __linux__
    cpu_set_t set{};
    bool known = sched_getaffinity(0, sizeof set, &set) == 0;  // of the thread that makes this

    int count() const {
        return known ? std::max(1, CPU_COUNT(&set)) : std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    }
    void hold_this_thread() const {
        const Cores now;
        if (known && now.known && !CPU_EQUAL(&set, &now.set)) sched_setaffinity(0, sizeof set, &set);
    }
#else
    int count() const { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }
    void hold_this_thread() const {}
#endif
};

int initial_limit() {
    const char* wanted = std::getenv("OMP_NUM_THREADS");
    const int n = wanted != nullptr ? std::atoi(wanted) : 0;
    return n >= 1 ? n : Cores().count();
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

// Workers that sleep between runs and keep to the cores that the caller has at the time. Never destroyed: they may still wait when the process ends.
class Pool {
public:
    // False, and nothing done, if the system has no threads left.
    bool run(int n, void (*task)(const void*, int), const void* context) {
        if (!has(n - 1)) return false;
        {
            std::lock_guard<std::mutex> lock(mutex_);
            task_ = task, context_ = context, size_ = n, left_ = n - 1;
            cores_ = Cores();
            ++round_;
        }
        start_.notify_all();
        task(context, 0);
        for (int spin = 0; spin < spins && left_.load(std::memory_order_acquire) > 0; ++spin) pause();
        std::unique_lock<std::mutex> lock(mutex_);
        done_.wait(lock, [this] { return left_.load() == 0; });
        return true;
    }

private:
    static constexpr int spins = 2000;  // tens of microseconds: as long as waking up takes

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }

    // Start workers until there are n.
    bool has(int n) {
        try {
            for (; n_workers_ < n; ++n_workers_) std::thread(&Pool::work, this, n_workers_ + 1, round_.load()).detach();
        } catch (const std::system_error&) {
            return false;
        }
        return true;
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
            const Cores cores = cores_;
            lock.unlock();
            cores.hold_this_thread();
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
    Cores cores_;
};

}  // namespace

void set_threads(int n) { limit() = std::max(1, n); }
int threads() { return limit(); }

Team::Team() : size_(limit()) {
    if (size_ > 1) size_ = std::min(size_, Cores().count());
}

void Team::dispatch(void (*task)(const void*, int), const void* context) const {
    static std::mutex taken;
    static Pool* pool = nullptr;
    static long owner = -1;
    if (size_ > 1 && taken.try_lock()) {
        const std::lock_guard<std::mutex> lock(taken, std::adopt_lock);
        if (owner != process()) pool = new Pool, owner = process();  // a forked child has no workers
        if (pool->run(size_, task, context)) return;
    }
    for (int i = 0; i < size_; ++i) task(context, i);  // alone, another run has the pool, or there are no threads left
}

}  // namespace parsimony
