// Independent work on several threads.
#pragma once

#include <atomic>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace hmatrix {

// Calls work(state, i) for i = 0, ..., count - 1, each once, on up to `threads` threads with a state of their own from
// make(). The caller's thread is one of them, and calls between() after each of its shares. What is thrown first is
// thrown again when all have stopped. Work must not touch Python where there is more than one thread.
template <class Make, class Work, class Between>
void share(int count, int threads, Make make, Work work, Between between) {
    std::atomic<int> next{0};
    std::mutex mutex;
    std::exception_ptr thrown;
    const auto run = [&](auto after) {
        try {
            auto state = make();
            for (int i; (i = next.fetch_add(1)) < count; after()) work(state, i);
        } catch (...) {
            next = count;
            const std::lock_guard<std::mutex> lock(mutex);
            if (!thrown) thrown = std::current_exception();
        }
    };
    std::vector<std::thread> others;
    for (int t = 1; t < threads && t < count; ++t) others.emplace_back(run, [] {});
    run(between);
    for (auto& other : others) other.join();
    if (thrown) std::rethrow_exception(thrown);
}

}  // namespace hmatrix
