// Threads that run one function together and meet at barriers: they spin for a while, then sleep.
#pragma once
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

namespace smidgen {

// Between two looks at what another thread will change; after many of them the processor goes to whoever needs it.
void wait_a_little(int looks);

class ThreadPool {
public:
    explicit ThreadPool(int threads);
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return size_; }
    // `work(argument, thread)` on every thread; the caller is thread 0. Returns when all are done.
    void run(void (*work)(void*, int), void* argument);
    // Inside run: waits until every thread is here.
    void barrier();

private:
    void serve(int thread);

    int size_;
    std::vector<std::thread> workers_;
    void (*work_)(void*, int) = nullptr;
    void* argument_ = nullptr;
    alignas(64) std::atomic<unsigned> generation_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<unsigned> phase_{0};
    alignas(64) std::atomic<int> sleeping_{0};
    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<bool> stop_{false};
};

}  // namespace smidgen
