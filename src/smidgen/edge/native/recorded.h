// The operations of a recorded step of the PyTorch engine (see smidgen/inference/lowering.py), run one after the other on
// the memory of its tensors.
#pragma once
#include "kernels.h"
#include "threadpool.h"

namespace smidgen {

// Threads, and for each the room that an operation needs.
class RecordedRunner {
public:
    RecordedRunner(int threads, const Kernels& kernels) : kernels_(kernels), pool_(threads), room_(size_t(threads)) {}

    // Null, or what is wrong.
    const char* run(const EdgeOperation* operations, int64_t count);

private:
    void work(float* room);
    void help(float* room);
    bool take_part(float* room);
    void run_part(const EdgeOperation&, int part, int parts, float* room);
    void map(const EdgeOperation&, int part, int parts);
    void product(const EdgeOperation&, int part, int parts, float* room);
    void rows(const EdgeOperation&, int part, int parts, float* room);
    int parts(const EdgeOperation&) const;

    const Kernels& kernels_;
    ThreadPool pool_;
    std::vector<std::vector<float>> room_;
    const EdgeOperation* operations_ = nullptr;
    int64_t count_ = 0;
    alignas(64) std::atomic<uint64_t> ticket_{0};  // which operation is shared, and in the low 32 bits its next part
    alignas(64) std::atomic<int> done_{0};         // parts of it
    std::atomic<bool> has_wrong_index_{false};
};

}  // namespace smidgen
