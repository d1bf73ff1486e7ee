// Loading: weights packed, caches and working memory taken once.
#include <cmath>
#include <stdexcept>

#include "model.h"

namespace smidgen {
namespace {

constexpr int kLogitRows = 16;

int element_size(int dtype) { return dtype == DT_F32 ? 4 : dtype == DT_I8 ? 1 : 2; }

}  // namespace

Model::Model(const EdgeConfig& config, const EdgeMatrix& embedding, const EdgeMatrix& head, const EdgeTensor& final_norm,
             const EdgeLayer* layers)
    : c_(config), embedding_(embedding) {
    const int isa = c_.isa < 0 ? best_isa() : c_.isa;
    if (!isa_available(isa)) throw std::runtime_error("this processor lacks the instruction set that was asked for");
    k_ = isa_kernels(isa);
    pool_ = std::make_unique<ThreadPool>(c_.threads);
    max_tokens_ = larger(c_.chunk, c_.num_slots) + c_.num_slots;
    logit_rows_ = larger(kLogitRows, c_.num_slots);
    for (int i = 0; i < 2; i++)
        if (c_.frequencies[i]) frequencies_[i].assign(c_.frequencies[i], c_.frequencies[i] + c_.num_frequencies);
    c_.frequencies[0] = c_.frequencies[1] = nullptr;
    cache_heads_ = c_.latent ? 1 : c_.num_kv_heads;
    key_dim_ = c_.latent ? c_.kv_lora_rank + c_.rope : c_.head_dim;
    value_dim_ = c_.latent ? c_.kv_lora_rank : c_.head_dim;
    element_ = element_size(c_.cache_dtype);
    const int head_out = c_.latent ? c_.v_dim : c_.head_dim;

    // Weights.
    auto norm_bytes = [](const EdgeTensor& t) { return size_t(t.count) * 4 + 128; };
    size_t bytes = planned_bytes(plan_matrix(head)) + norm_bytes(final_norm) + 4096;
    auto each_matrix = [](const EdgeLayer& l, Layer& to, auto&& visit) {
        visit(l.q, to.q), visit(l.k, to.k), visit(l.v, to.v), visit(l.o, to.o), visit(l.gate, to.gate);
        visit(l.up, to.up), visit(l.down, to.down), visit(l.q_a, to.q_a), visit(l.q_b, to.q_b), visit(l.kv_a, to.kv_a);
    };
    layers_.resize(size_t(c_.num_layers));
    for (int i = 0; i < c_.num_layers; i++) {
        each_matrix(layers[i], layers_[i], [&](const EdgeMatrix& m, Matrix&) {
            if (m.rows) bytes += planned_bytes(plan_matrix(m));
        });
        if (layers[i].kv_b.rows) bytes += absorbed_bytes(layers[i].kv_b, c_.num_heads, c_.nope, c_.v_dim);
        const EdgeLayer& l = layers[i];
        for (const EdgeTensor* t : {&l.input_norm, &l.attention_out_norm, &l.feed_forward_norm, &l.feed_forward_out_norm,
                                    &l.q_norm, &l.k_norm, &l.attention_sub_norm, &l.feed_forward_sub_norm, &l.q_a_norm,
                                    &l.kv_a_norm})
            bytes += norm_bytes(*t);
    }
    weights_ = std::make_unique<Arena>(bytes);
    auto read_norm = [&](const EdgeTensor& t) -> const float* {
        if (!t.data) return nullptr;
        float* gain = static_cast<float*>(weights_->take(size_t(t.count) * 4 + 64));
        for (int64_t i = 0; i < t.count; i++) {
            gain[i] = read_float(t, i) + (c_.norm_kind == 1 ? 1.0f : 0.0f);
            if (!std::isfinite(gain[i])) throw std::runtime_error("a norm's weight holds NaN or infinity; the weights are damaged, copy the folder again");
        }
        return gain;
    };
    auto pack = [&](const EdgeMatrix& from, Matrix& to) {
        if (!from.rows) return;
        std::string error = pack_matrix(from, to, *weights_, *pool_, *k_);
        if (!error.empty()) throw std::runtime_error(error);
        weight_bytes_ += uint64_t(to.bytes());
        stride_ = larger(stride_, to.padded);
    };
    for (int i = 0; i < c_.num_layers; i++) {
        const EdgeLayer& l = layers[i];
        Layer& to = layers_[size_t(i)];
        each_matrix(l, to, pack);
        if (l.kv_b.rows) {
            std::string error = absorb(l.kv_b, c_.num_heads, c_.nope, c_.v_dim, to.absorbed, *weights_, *k_);
            if (!error.empty()) throw std::runtime_error(error);
            for (const auto* part : {&to.absorbed.keys, &to.absorbed.values})
                for (const Matrix& m : *part) weight_bytes_ += uint64_t(m.bytes());
            to.latent_rounding = l.kv_b.activation == ACT_INT8 ? ACT_ROUNDED : l.kv_b.activation;
        }
        to.input_norm = read_norm(l.input_norm), to.attention_out_norm = read_norm(l.attention_out_norm);
        to.feed_forward_norm = read_norm(l.feed_forward_norm);
        to.feed_forward_out_norm = read_norm(l.feed_forward_out_norm);
        to.q_norm = read_norm(l.q_norm), to.k_norm = read_norm(l.k_norm);
        to.attention_sub_norm = read_norm(l.attention_sub_norm);
        to.feed_forward_sub_norm = read_norm(l.feed_forward_sub_norm);
        to.q_a_norm = read_norm(l.q_a_norm), to.kv_a_norm = read_norm(l.kv_a_norm);
        to.window = l.window, to.rope = l.rope;
        // A ring keeps its window, what a chunk adds before its first query has looked, and the ends of tiles.
        const int64_t ring = int64_t(to.window) + c_.chunk + kTile;
        to.capacity = int(tiled(to.window && ring < c_.max_seq_len ? int(ring) : c_.max_seq_len));
    }
    pack(head, head_);
    final_norm_ = read_norm(final_norm);

    // Caches.
    size_t cache = 4096;
    for (const Layer& l : layers_) {
        const size_t positions = size_t(c_.num_slots) * size_t(cache_heads_) * size_t(l.capacity);
        cache += positions * size_t(key_dim_ + (c_.latent ? 0 : value_dim_)) * size_t(element_) + positions * 16 + 512;
    }
    cache_ = std::make_unique<Arena>(cache);
    const size_t before = cache_->used();
    for (Layer& l : layers_) {
        const size_t positions = size_t(c_.num_slots) * size_t(cache_heads_) * size_t(l.capacity);
        l.keys = static_cast<uint8_t*>(cache_->take(positions * size_t(key_dim_) * size_t(element_)));
        l.values = c_.latent ? l.keys : static_cast<uint8_t*>(cache_->take(positions * size_t(value_dim_) * size_t(element_)));
        if (c_.cache_dtype == DT_I8) {
            l.key_scales = static_cast<float*>(cache_->take(positions * 4 * (c_.latent ? 2 : 1)));
            l.value_scales = c_.latent ? nullptr : static_cast<float*>(cache_->take(positions * 4));
        }
    }
    cache_bytes_ = cache_->used() - before;

    // Working memory of a pass.
    const size_t tokens = size_t(round_up(max_tokens_, k_->block) + k_->block);
    hidden_stride_ = tiled(c_.hidden_size), inner_stride_ = tiled(c_.intermediate_size);
    logits_stride_ = tiled(c_.vocab_size);
    const int query_size = c_.num_heads * (c_.latent ? c_.nope + c_.rope : c_.head_dim);
    qkv_stride_ = tiled(query_size) + 2 * tiled(c_.num_kv_heads * c_.head_dim) + tiled(c_.q_lora_rank);
    const int64_t latent_stride = tiled(c_.kv_lora_rank + c_.rope);
    attention_stride_ = tiled(c_.num_heads * head_out);
    stride_ = int(larger<int64_t>(stride_, round_up(larger<int64_t>(larger<int64_t>(inner_stride_, attention_stride_), larger<int64_t>(hidden_stride_, c_.q_lora_rank)), kColumns)));
    const int64_t longest = tiled(c_.max_seq_len) + kTile;
    size_t floats = tokens * size_t(hidden_stride_ * 2 + qkv_stride_ + latent_stride + attention_stride_ + 2 * inner_stride_);
    floats += tokens * size_t(c_.num_frequencies + 16) * 4 + size_t(logit_rows_) * size_t(logits_stride_);
    const size_t inputs = size_t(stride_) * 4 + size_t(stride_) + size_t(stride_) / 8 + 4;
    const size_t per_thread = size_t(hidden_stride_) * 4 + size_t(stride_) * 4 + size_t(kLanes) * size_t(key_dim_ + value_dim_ + 2 * c_.kv_lora_rank + 1024) * 4 + size_t(kRowsOfATask) * size_t(longest) * 4 +
                              inputs * 2 + size_t(stride_) * 2 * kPanelBytes + size_t(longest / kTile) * 4 * 8 + 65536 + lane_floats(key_dim_, value_dim_) * 4 + size_t(kLanes) * size_t(round_up(key_dim_, 64) + round_up(c_.nope, 64) + round_up(c_.v_dim, 64)) * 8;
    work_ = std::make_unique<Arena>(floats * 4 + tokens * (inputs * 2 + size_t(stride_) * 2 + size_t(stride_) / 16 + 4) + per_thread * size_t(c_.threads) + (1 << 20));
    residual_ = take<float>(tokens * size_t(hidden_stride_)), out_ = take<float>(tokens * size_t(hidden_stride_));
    qkv_ = take<float>(tokens * size_t(qkv_stride_)), latent_ = take<float>(tokens * size_t(latent_stride));
    attended_ = take<float>(tokens * size_t(attention_stride_));
    gate_ = take<float>(tokens * size_t(inner_stride_)), up_ = take<float>(tokens * size_t(inner_stride_));
    for (int i = 0; i < 2; i++) {
        cosines_[i] = take<float>(tokens * size_t(c_.num_frequencies));
        sines_[i] = take<float>(tokens * size_t(c_.num_frequencies));
    }
    logits_ = take<float>(size_t(logit_rows_) * size_t(logits_stride_));
    shared_ = take_inputs(int(tokens), true);
    for (int t = 0; t < c_.threads; t++) {
        Private p;
        p.residual = take<float>(size_t(hidden_stride_)), p.temporary = take<float>(size_t(stride_));
        p.query = take<float>(size_t(kLanes) * size_t(round_up(key_dim_, 64) + 64));
        p.scores = take<float>(size_t(kRowsOfATask) * size_t(longest));
        p.lanes = take<float>(lane_floats(key_dim_, value_dim_));
        p.mixed = take<float>(size_t(kLanes) * size_t(round_up(value_dim_, 64) + 64));
        p.head = take<float>(size_t(kLanes) * size_t(round_up(larger(larger(c_.nope, c_.v_dim), key_dim_), 64) + 64));
        p.inputs = take_inputs(1, false);
        p.scratch = take<uint8_t>(size_t(stride_) * kPanelBytes * 2);
        p.tiles = take<const void*>(size_t(longest / kTile)), p.value_tiles = take<const void*>(size_t(longest / kTile));
        p.scales = take<const float*>(size_t(longest / kTile)), p.value_scales = take<const float*>(size_t(longest / kTile));
        own_.push_back(p);
    }
    lengths_.assign(size_t(c_.num_slots), 0), new_lengths_ = lengths_, written_ = lengths_;
    positions_.resize(size_t(max_tokens_)), wanted_.resize(size_t(max_tokens_));
    tasks_.reserve(size_t(max_tokens_) * size_t(c_.num_heads));
    next_ = std::make_unique<Next[]>(size_t(c_.num_layers));
    samplers_.resize(size_t(c_.num_slots));
    sampler_ = std::make_unique<Sampler>(c_.vocab_size, *k_);
    top_values_.resize(size_t(c_.vocab_size)), top_ids_.resize(size_t(c_.vocab_size));
    raw_.resize(size_t(logit_rows_));
}

Inputs Model::take_inputs(int rows, bool blocks) {
    Inputs in;
    const size_t n = size_t(rows);
    in.stride = stride_;
    in.values = take<float>(n * size_t(stride_)), in.codes = take<int8_t>(n * size_t(stride_));
    in.sums = take<int32_t>(n * size_t(stride_) / kSumGroup), in.scale = take<float>(n);
    if (blocks) {
        in.block_values = take<float>(n * size_t(stride_)), in.block_codes = take<int8_t>(n * size_t(stride_));
        in.block_sums = take<int32_t>(n * size_t(stride_) / kSumGroup);
        if (k_->pack_pairs) in.block_pairs = take<uint8_t>(n * size_t(stride_) * 2), in.pair_scales = take<float>(n * size_t(stride_) / kPairGroup);
    }
    return in;
}

}  // namespace smidgen
