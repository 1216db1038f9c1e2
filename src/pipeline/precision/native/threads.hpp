// A pool of threads that respects the set of cores that the process was given.
#pragma once

namespace parsimony {

// The threads of one run: as many as `set_threads` allows (at first OMP_NUM_THREADS, else one a core) and as the calling
// thread has cores. A caller that pins itself to one core therefore runs alone.
class Team {
public:
    Team();
    explicit Team(int size) : size_(size) {}
    int size() const { return size_; }

    // Call work(0), ..., work(size - 1), each on a thread of its own, the caller's among them.
    template <class Work>
    void run(const Work& work) const {
        const auto call = [](const void* context, int i) { (*static_cast<const Work*>(context))(i); };
        dispatch(call, &work);
    }

private:
    void dispatch(void (*task)(const void*, int), const void* context) const;
    int size_;
};

void set_threads(int n);
int threads();  // the limit that holds now

}  // namespace parsimony
