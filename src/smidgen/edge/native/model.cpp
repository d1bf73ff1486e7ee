// A step seen from outside: what may be asked, and the choice of tokens.
#include "model.h"

#include <cmath>

namespace smidgen {

const char* Model::forward(int count, const int32_t* ids, const int32_t* slots, const uint8_t* wanted, float* out) {
    if (count < 1 || count > max_tokens_) return "too many tokens for one pass";
    new_lengths_ = lengths_;
    num_wanted_ = 0;
    for (int i = 0; i < count; i++) {
        if (slots[i] < 0 || slots[i] >= c_.num_slots) return "a slot is out of range";
        if (ids[i] < 0 || ids[i] >= c_.vocab_size) return "a token id is out of range";
        if (i && slots[i] != slots[i - 1])
            for (int j = 0; j < i - 1; j++)
                if (slots[j] == slots[i]) return "tokens of a slot are not neighbours";
        positions_[size_t(i)] = new_lengths_[size_t(slots[i])]++;
        if (positions_[size_t(i)] >= c_.max_seq_len) return "the context is full";
        if (new_lengths_[size_t(slots[i])] - lengths_[size_t(slots[i])] > c_.chunk) return "a chunk is too long";
        if (wanted[i]) wanted_[size_t(num_wanted_++)] = i;
    }
    if (!out && num_wanted_ > logit_rows_) return "too many rows of logits for one pass";
    count_ = count, ids_ = ids, slots_ = slots;
    plan_tasks();
    if (count == 1) find_angles(0);
    for (int i = 0; i < c_.num_layers; i++)
        for (auto* next : {&next_[i].task, &next_[i].inputs, &next_[i].queries, &next_[i].out, &next_[i].feed_forward, &next_[i].down})
            next->store(0, std::memory_order_relaxed);
    next_head_.store(0, std::memory_order_relaxed);
    wanted_first_ = 0;
    wanted_count_ = out ? 0 : num_wanted_;
    pool_->run(work, this);
    lengths_ = new_lengths_;
    for (size_t i = 0; i < lengths_.size(); i++) written_[i] = larger(written_[i], lengths_[i]);
    if (!out) return nullptr;
    for (wanted_first_ = 0; wanted_first_ < num_wanted_; wanted_first_ += logit_rows_) {
        wanted_count_ = smaller(logit_rows_, num_wanted_ - wanted_first_);
        next_head_.store(0, std::memory_order_relaxed);
        pool_->run([](void* self, int thread) { static_cast<Model*>(self)->head_pass(thread); }, this);
        for (int row = 0; row < wanted_count_; row++)
            std::memcpy(out + int64_t(wanted_first_ + row) * c_.vocab_size, logits_ + row * logits_stride_, size_t(c_.vocab_size) * 4);
    }
    return nullptr;
}

int Model::truncate(int slot, int length) {
    if (slot < 0 || slot >= c_.num_slots) return -1;
    int &held = lengths_[size_t(slot)], &written = written_[size_t(slot)];
    if (length >= held) return held;
    for (const Layer& l : layers_)
        // A ring must not have overwritten what the next query sees, by whatever was written behind it since.
        if (l.window && written > l.capacity && length - l.window + 1 < written - l.capacity) length = 0;
    if (length <= 0) written = 0;
    return held = larger(length, 0);
}

const char* Model::assign(int slot, const EdgeSampling& params, int length, const int32_t* history) {
    if (slot < 0 || slot >= c_.num_slots) return "a slot is out of range";
    for (int i = 0; i < length; i++)
        if (history[i] < 0 || history[i] >= c_.vocab_size) return "a token id is out of range";
    samplers_[size_t(slot)].assign(params, c_.vocab_size, history, length, c_.max_seq_len + 1);
    if (params.logprobs >= 0)
        for (auto& raw : raw_) raw.resize(size_t(c_.vocab_size));
    return nullptr;
}

const char* Model::step(int count, const int32_t* ids, const int32_t* slots, const uint8_t* wanted, EdgeChoice* choices) {
    if (const char* error = forward(count, ids, slots, wanted, nullptr)) return error;
    for (int row = 0; row < num_wanted_; row++) {
        SamplerState& state = samplers_[size_t(slots[wanted_[size_t(row)]])];
        float* logits = logits_ + row * logits_stride_;
        if (state.params.logprobs >= 0) std::memcpy(raw_[size_t(row)].data(), logits, size_t(c_.vocab_size) * 4);
        sampler_->choose(state, logits, choices[row]);
        if (state.params.logprobs >= 0 && choices[row].token >= 0) {
            const float* raw = raw_[size_t(row)].data();
            const float top = k_->largest(raw, c_.vocab_size);
            double sum = 0;
            for (int i = 0; i < c_.vocab_size; i++) sum += std::exp(double(raw[i]) - double(top));
            choices[row].logprob = float(double(raw[choices[row].token]) - double(top) - std::log(sum));
        }
    }
    return nullptr;
}

bool Model::top_logprobs(int row, int k, int32_t* ids, float* values) {
    if (row < 0 || row >= num_wanted_ || raw_[size_t(row)].empty() || k > c_.vocab_size) return false;
    const float* raw = raw_[size_t(row)].data();
    const float top = k_->largest(raw, c_.vocab_size);
    double sum = 0;
    for (int i = 0; i < c_.vocab_size; i++) sum += std::exp(double(raw[i]) - double(top));
    int held = 0;  // sorted by insertion: k is small; ties in order of id
    for (int i = 0; i < c_.vocab_size; i++) {
        if (held == k && (k == 0 || raw[i] <= values[k - 1])) continue;
        int at = held < k ? held++ : k - 1;
        for (; at > 0 && values[at - 1] < raw[i]; at--) values[at] = values[at - 1], ids[at] = ids[at - 1];
        values[at] = raw[i], ids[at] = i;
    }
    for (int i = 0; i < k; i++) values[i] = float(double(values[i]) - double(top) - std::log(sum));
    return true;
}

}  // namespace smidgen
