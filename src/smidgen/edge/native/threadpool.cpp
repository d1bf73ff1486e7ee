#include "threadpool.h"

#include <chrono>

namespace smidgen {
namespace {

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

constexpr int kSpinsInBarrier = 4000;                            // then the processor goes to whoever needs it
constexpr std::chrono::microseconds kSpinBetweenSteps{200};      // longer pauses sleep

}  // namespace

void wait_a_little(int looks) {
    if (looks < 5 * kSpinsInBarrier)
        pause();
    else
        std::this_thread::yield();
}

ThreadPool::ThreadPool(int threads) : size_(threads) {
    for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { serve(i); });
}

ThreadPool::~ThreadPool() {
    stop_ = true;
    generation_.fetch_add(1);
    { std::lock_guard<std::mutex> lock(mutex_); }
    wake_.notify_all();
    for (auto& worker : workers_) worker.join();
}

void ThreadPool::run(void (*work)(void*, int), void* argument) {
    if (size_ == 1) return work(argument, 0);
    work_ = work;
    argument_ = argument;
    generation_.fetch_add(1);
    if (sleeping_.load() > 0) {
        { std::lock_guard<std::mutex> lock(mutex_); }
        wake_.notify_all();
    }
    work(argument, 0);
    barrier();
}

void ThreadPool::barrier() {
    if (size_ == 1) return;
    const unsigned phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) == size_ - 1) {
        arrived_.store(0, std::memory_order_relaxed);
        phase_.fetch_add(1, std::memory_order_release);
        return;
    }
    for (int spins = 0; phase_.load(std::memory_order_acquire) == phase; spins++) {
        if (spins < kSpinsInBarrier)
            pause();
        else
            std::this_thread::yield();
    }
}

void ThreadPool::serve(int thread) {
    unsigned seen = 0;
    while (true) {
        const auto start = std::chrono::steady_clock::now();
        for (int spins = 0; generation_.load(std::memory_order_acquire) == seen; spins++) {
            pause();
            if (spins % 64 != 63 || std::chrono::steady_clock::now() - start < kSpinBetweenSteps) continue;
            sleeping_.fetch_add(1);
            {
                std::unique_lock<std::mutex> lock(mutex_);
                wake_.wait(lock, [&] { return generation_.load() != seen; });
            }
            sleeping_.fetch_sub(1);
        }
        seen = generation_.load(std::memory_order_acquire);
        if (stop_) return;
        work_(argument_, thread);
        barrier();
    }
}

}  // namespace smidgen
