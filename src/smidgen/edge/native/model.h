// A loaded decoder: weights, caches, and one forward pass over tokens of any slots.
#pragma once
#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "repack.h"
#include "sampling.h"

namespace smidgen {

constexpr int kRowsOfATask = 8;      // queries of few tokens that share the reading of keys; of prompts kLanes

inline int64_t tiled(int rows) { return round_up(rows, kTile); }

// What the input of a product goes through (EdgeActivation) where that is not left to the product's codes.
void round_input(float* x, int n, int activation);

struct Layer {
    Matrix q, k, v, o, gate, up, down, q_a, q_b, kv_a;
    Absorbed absorbed;
    const float *input_norm = nullptr, *attention_out_norm = nullptr;
    const float *feed_forward_norm = nullptr, *feed_forward_out_norm = nullptr;
    const float *q_norm = nullptr, *k_norm = nullptr, *attention_sub_norm = nullptr, *feed_forward_sub_norm = nullptr;
    const float *q_a_norm = nullptr, *kv_a_norm = nullptr;
    int window = 0, rope = 0;
    int latent_rounding = 0;  // EdgeActivation
    // The cache: [slot][head][tile][dim][16], and for int8 a scale for each position and segment.
    int capacity = 0;
    uint8_t *keys = nullptr, *values = nullptr;
    float *key_scales = nullptr, *value_scales = nullptr;
};

struct Task {
    int token, tokens, kv_head, head, heads;
};

class Model {
public:
    Model(const EdgeConfig&, const EdgeMatrix& embedding, const EdgeMatrix& head, const EdgeTensor& final_norm,
          const EdgeLayer* layers);

    // Token ids behind what their slots hold. Returns an error or nothing. Logits of wanted tokens stay in logits(row)
    // where `out` is null, else they are written there.
    const char* forward(int count, const int32_t* ids, const int32_t* slots, const uint8_t* wanted, float* out);
    int truncate(int slot, int length);
    const char* assign(int slot, const EdgeSampling&, int length, const int32_t* history);
    const char* step(int count, const int32_t* ids, const int32_t* slots, const uint8_t* wanted, EdgeChoice* choices);
    bool top_logprobs(int row, int k, int32_t* ids, float* values);

    uint64_t weight_bytes() const { return weight_bytes_; }
    uint64_t cache_bytes() const { return cache_bytes_; }

private:
    static void work(void* self, int thread) { static_cast<Model*>(self)->pass(thread); }
    void pass(int thread);
    void attend(int thread, const Layer&, const Task&);
    void finish_heads(int thread, const Layer&, const Task&, const float* inverse);
    void write_cache(int token, int head, Layer&);
    void find_angles(int token);
    void rotate(float* x, int token, int table) const;
    void head_pass(int thread);
    void prepare(Inputs&, int first, int last, int n, std::initializer_list<const Matrix*> consumers,
                 const float* source = nullptr, int64_t source_stride = 0) const;
    struct Product {
        const Matrix* matrix;
        float* y;
        int64_t stride;
    };
    void multiply_tiles(int thread, std::initializer_list<Product>, const Inputs&, int tokens, int first, int last);
    void multiply(int thread, std::initializer_list<Product>, const Inputs&, int tokens, std::atomic<int>& next);
    void multiply_heads(int thread, const Layer&, const Inputs&, int head0, int head1, int64_t key_at, int64_t value_at);
    void split_rows(int thread, int tokens, int& first, int& last) const;
    Inputs take_inputs(int rows, bool blocks);
    void plan_tasks();
    template <class T>
    T* take(size_t count) {
        return static_cast<T*>(work_->take(count * sizeof(T)));
    }

    EdgeConfig c_;
    const Kernels* k_;
    std::unique_ptr<ThreadPool> pool_;
    std::unique_ptr<Arena> weights_, cache_, work_;
    EdgeMatrix embedding_;
    Matrix head_;
    const float* final_norm_ = nullptr;
    std::vector<Layer> layers_;
    std::vector<float> frequencies_[2];
    uint64_t weight_bytes_ = 0, cache_bytes_ = 0;
    int max_tokens_, logit_rows_, stride_ = 0;
    int value_dim_ = 0, key_dim_ = 0, cache_heads_ = 0, element_ = 2;
    int64_t qkv_stride_ = 0, attention_stride_ = 0, hidden_stride_ = 0, inner_stride_ = 0, logits_stride_ = 0;

    // What a pass works on.
    int count_ = 0, num_wanted_ = 0;
    const int32_t* ids_ = nullptr;
    const int32_t* slots_ = nullptr;
    std::vector<int32_t> lengths_, positions_, wanted_;
    std::vector<int32_t> new_lengths_, written_;
    std::vector<Task> tasks_;
    // What threads take next of a layer: tasks of attention, tiles of each product.
    struct Next {
        std::atomic<int> task, inputs, queries, out, feed_forward, down;
    };
    std::unique_ptr<Next[]> next_;
    std::atomic<int> next_head_{0};
    float *residual_ = nullptr, *qkv_ = nullptr, *latent_ = nullptr, *attended_ = nullptr, *out_ = nullptr;
    float *gate_ = nullptr, *up_ = nullptr, *cosines_[2] = {}, *sines_[2] = {}, *logits_ = nullptr;
    int wanted_first_ = 0, wanted_count_ = 0;
    Inputs shared_;
    struct Private {
        float *residual, *temporary, *query, *scores, *mixed, *head, *lanes;
        Inputs inputs;
        uint8_t* scratch;
        const void** tiles;
        const float **scales, **value_scales;
        const void** value_tiles;
    };
    std::vector<Private> own_;
    std::vector<SamplerState> samplers_;
    std::unique_ptr<Sampler> sampler_;
    std::vector<float> top_values_;
    std::vector<int32_t> top_ids_;
    std::vector<std::vector<float>> raw_;  // logits before penalties of rows that want log-probabilities
};

}  // namespace smidgen
