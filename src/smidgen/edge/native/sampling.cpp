#include "sampling.h"

#include <algorithm>
#include <cmath>

namespace smidgen {
namespace {

constexpr float kGreedyBelow = 1e-6f;  // dividing by less could overflow
constexpr int kBlock = 256;

uint64_t splitmix(uint64_t& x) {
    uint64_t z = (x += 0x9e3779b97f4a7c15ull);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
}

uint64_t rotate_left(uint64_t x, int k) { return (x << k) | (x >> (64 - k)); }

}  // namespace

Random::Random(uint64_t seed) {
    for (uint64_t& part : state_) part = splitmix(seed);
}

uint64_t Random::next() {
    const uint64_t result = rotate_left(state_[0] + state_[3], 23) + state_[0], shifted = state_[1] << 17;
    state_[2] ^= state_[0];
    state_[3] ^= state_[1];
    state_[1] ^= state_[2];
    state_[0] ^= state_[3];
    state_[2] ^= shifted;
    state_[3] = rotate_left(state_[3], 45);
    return result;
}

void SamplerState::assign(const EdgeSampling& p, int vocab, const int32_t* tokens, int length, int capacity) {
    params = p;
    bias_ids.assign(p.bias_ids, p.bias_ids + p.num_bias);
    bias_values.assign(p.bias_values, p.bias_values + p.num_bias);
    params.bias_ids = nullptr, params.bias_values = nullptr;
    const bool penalized = p.repetition_penalty != 1, counted = p.presence_penalty != 0 || p.frequency_penalty != 0;
    seen.assign(penalized ? size_t(vocab) : 0, 0);
    counts.assign(counted ? size_t(vocab) : 0, 0);
    history.clear(), seen_ids.clear(), answer_ids.clear();
    const size_t most = size_t(std::max(capacity, length + 1));
    history.reserve(most);
    if (penalized) seen_ids.reserve(most);
    if (counted) answer_ids.reserve(most);
    prompt = size_t(length);
    random = Random(p.seed);
    for (int i = 0; i < length; i++) append(tokens[i]);
}

void SamplerState::append(int token) {
    const bool answer = history.size() >= prompt;
    if (history.size() == history.capacity()) history.erase(history.begin());  // a context that slides
    history.push_back(token);
    if (!seen.empty() && !seen[size_t(token)]) seen[size_t(token)] = 1, seen_ids.push_back(token);
    if (!counts.empty() && answer && counts[size_t(token)]++ == 0) answer_ids.push_back(token);
}

Sampler::Sampler(int vocab, const Kernels& kernels) : vocab_(vocab), k_(kernels) {
    ids_.reserve(size_t(vocab)), order_.reserve(size_t(vocab)), values_.reserve(size_t(vocab)), weights_.reserve(size_t(vocab));
}

bool Sampler::penalize(const SamplerState& s, float* logits) const {
    const EdgeSampling& p = s.params;
    if (!k_.finite(logits, vocab_)) return false;
    for (size_t i = 0; i < s.bias_ids.size(); i++)
        if (s.bias_ids[i] >= 0 && s.bias_ids[i] < vocab_) logits[s.bias_ids[i]] += s.bias_values[i];
    for (int32_t token : s.seen_ids) {
        float& x = logits[token];
        x = x > 0 ? x / p.repetition_penalty : x * p.repetition_penalty;
    }
    for (int32_t token : s.answer_ids)
        logits[token] -= p.presence_penalty + p.frequency_penalty * float(s.counts[size_t(token)]);
    const size_t n = size_t(p.no_repeat_ngram_size), length = s.history.size();
    if (n && length + 1 >= n) {
        const int32_t* suffix = s.history.data() + length - (n - 1);
        for (size_t i = 0; i + n <= length; i++)
            if (std::equal(suffix, suffix + n - 1, s.history.data() + i)) logits[s.history[i + n - 1]] = -INFINITY;
    }
    return true;
}

int Sampler::greedy(const float* logits) const {
    const float top = k_.largest(logits, vocab_);
    if (top == -INFINITY) return -1;
    int start = 0;  // of the block that holds it: whole blocks are compared without a branch for each number
    for (; start + kBlock <= vocab_; start += kBlock) {
        int equal = 0;
        for (int i = start; i < start + kBlock; i++) equal |= logits[i] == top;
        if (equal) break;
    }
    return int(std::find(logits + start, logits + vocab_, top) - logits);
}

// Kept tokens are a prefix of the tokens sorted by logit, ties by descending id: transformers' ascending sort for top-p
// drops the lower id first. Ties at the edge of top-k are all kept.
bool Sampler::filter(const SamplerState& s, float* logits) {
    const EdgeSampling& p = s.params;
    ids_.clear(), values_.clear();
    float largest = -INFINITY;
    for (int i = 0; i < vocab_; i++) {
        logits[i] /= p.temperature;
        largest = std::max(largest, logits[i]);
    }
    if (largest == -INFINITY) return false;
    const bool by_k = p.top_k > 0 && p.top_k < vocab_, by_p = p.top_p < 1, by_min = p.min_p > 0;
    float floor = -INFINITY;
    if (by_min && !by_p && !by_k) floor = largest + std::log(p.min_p) - 1;  // a little below, exactly decided later
    for (int i = 0; i < vocab_; i++)
        if (logits[i] > -INFINITY && logits[i] >= floor) ids_.push_back(i);
    auto before = [&](int32_t a, int32_t b) { return logits[a] != logits[b] ? logits[a] > logits[b] : a > b; };
    if (by_k && size_t(p.top_k) < ids_.size()) {
        std::nth_element(ids_.begin(), ids_.begin() + p.top_k - 1, ids_.end(), before);
        const float last = logits[ids_[size_t(p.top_k) - 1]];
        ids_.erase(std::remove_if(ids_.begin(), ids_.end(), [&](int32_t i) { return logits[i] < last; }), ids_.end());
    }
    if (by_p) {
        // Only as many as may be needed are sorted.
        double total = 0;
        for (int32_t i : ids_) total += std::exp(double(logits[i]) - largest);
        size_t sorted = 0, kept = 0;
        double sum = 0;
        while (kept < ids_.size()) {
            if (kept == sorted) {
                const size_t more = std::min(ids_.size(), sorted ? sorted * 8 : 64);
                std::partial_sort(ids_.begin() + long(sorted), ids_.begin() + long(more), ids_.end(), before);
                sorted = more;
            }
            if (kept && float(sum / total) >= p.top_p) break;
            sum += std::exp(double(logits[ids_[kept++]]) - largest);
        }
        ids_.resize(kept);
    } else if (ids_.size() < size_t(vocab_)) {
        std::sort(ids_.begin(), ids_.end(), before);
    }
    if (by_min) {
        double total = 0, most = 0;
        for (int32_t i : ids_) total += std::exp(double(logits[i]) - largest);
        most = 1 / total;
        ids_.erase(std::remove_if(ids_.begin(), ids_.end(),
                                  [&](int32_t i) { return float(std::exp(double(logits[i]) - largest) / total) < p.min_p * float(most); }),
                   ids_.end());
    }
    for (int32_t i : ids_) values_.push_back(logits[i]);
    return true;
}

int Sampler::draw(SamplerState& s) {
    float largest = -INFINITY;
    for (float value : values_) largest = std::max(largest, value);
    double total = 0;
    weights_.clear();
    for (float value : values_) {
        const float weight = std::exp(value - largest);
        weights_.push_back(weight);
        total += weight;
    }
    const double target = double(s.random.uniform()) * total;
    double sum = 0;
    for (size_t i = 0; i < ids_.size(); i++) {
        sum += weights_[i];
        if (target < sum) return ids_[i];
    }
    return ids_.back();
}

bool Sampler::choose(SamplerState& s, float* logits, EdgeChoice& choice) {
    choice = {-1, 0};
    if (!penalize(s, logits)) {
        choice.token = -2;
        return false;
    }
    if (s.params.temperature < kGreedyBelow)
        choice.token = greedy(logits);
    else if (filter(s, logits))
        choice.token = draw(s);
    if (choice.token >= 0) s.append(choice.token);
    return choice.token >= 0;
}

}  // namespace smidgen
