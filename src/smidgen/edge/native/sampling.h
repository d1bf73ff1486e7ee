// The choice of the next token, as transformers' processors define it.
#pragma once
#include <cstddef>
#include <vector>

#include "kernels.h"

namespace smidgen {

// xoshiro256++ seeded by splitmix64.
class Random {
public:
    explicit Random(uint64_t seed = 0);
    uint64_t next();
    float uniform() { return float(next() >> 40) * 0x1p-24f; }  // [0, 1)

private:
    uint64_t state_[4];
};

// What the sampler remembers of the request in a slot. Memory is taken when a request is assigned.
struct SamplerState {
    EdgeSampling params{};
    std::vector<int32_t> bias_ids;
    std::vector<float> bias_values;
    std::vector<int32_t> history;  // prompt and answer
    size_t prompt = 0;
    std::vector<uint32_t> counts;  // occurrences in the answer, [vocab]; only for presence and frequency penalties
    std::vector<uint8_t> seen;     // occurrence in prompt or answer, [vocab]; only for the repetition penalty
    std::vector<int32_t> seen_ids, answer_ids;
    Random random;

    void assign(const EdgeSampling&, int vocab, const int32_t* tokens, int length, int capacity);
    void append(int token);
};

class Sampler {
public:
    Sampler(int vocab, const Kernels&);
    // Penalties, bias, n-gram rule; `logits` [vocab] is overwritten. Returns false where a logit is NaN or infinite.
    bool penalize(const SamplerState&, float* logits) const;
    // Temperature and filters: the kept tokens, most probable first, in candidates(); false where none is allowed.
    bool filter(const SamplerState&, float* logits);
    int draw(SamplerState&);  // of the candidates
    int greedy(const float* logits) const;  // -1 where none is allowed
    bool choose(SamplerState&, float* logits, EdgeChoice& choice);

    const std::vector<int32_t>& ids() const { return ids_; }
    const std::vector<float>& values() const { return values_; }

private:
    int vocab_;
    const Kernels& k_;
    std::vector<int32_t> ids_, order_;
    std::vector<float> values_, weights_;
};

}  // namespace smidgen
