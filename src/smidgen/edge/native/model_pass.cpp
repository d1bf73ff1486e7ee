// One forward pass, run by all threads together.
#include <cmath>

#include "model.h"

namespace smidgen {
namespace {

constexpr int kFewTokens = 4;        // up to here products read the packed weights token by token

// What an e4m3 tensor of tiles of 128 with a scale each would hold (DeepSeek-V3's act_quant), or of one tile.
void round_to_fp8(float* x, int n, int activation) {
    const bool power_of_two = activation == ACT_FP8_POW2;
    const int tile = activation == ACT_FP8_TOKEN ? n : 128;
    for (int c = 0; c < n; c += tile) {
        const int end = smaller(n, c + tile);
        float most = 1e-4f;
        for (int i = c; i < end; i++) most = larger(most, std::fabs(x[i]));
        float scale = most / 448.0f;
        if (power_of_two) scale = std::exp2(std::ceil(std::log2(scale)));
        for (int i = c; i < end; i++) x[i] = round_to_e4m3(x[i] / scale) * scale;
    }
}

// What the product of codes would multiply: 8 bits, one scale for all.
void round_to_int8(float* x, int n) {
    float most = 1e-5f;
    for (int i = 0; i < n; i++) most = larger(most, std::fabs(x[i]));
    const float factor = 127.0f / most;
    for (int i = 0; i < n; i++) x[i] = __builtin_rintf(x[i] * factor) / factor;
}

// The next of `all` tiles for one of several threads: many at first, two at the end, so that a slower one delays nobody.
bool claim(std::atomic<int>& next, int all, int threads, int& first, int& last) {
    first = next.load(std::memory_order_relaxed);
    do {
        if (first >= all) return false;
        last = threads == 1 ? all : smaller(all, first + larger(2, (all - first) / (2 * threads) & ~1));
    } while (!next.compare_exchange_weak(first, last, std::memory_order_relaxed));
    return true;
}

}  // namespace

void round_input(float* x, int n, int activation) {
    if (activation == ACT_ROUNDED)
        round_to_int8(x, n);
    else if (activation >= ACT_FP8)
        round_to_fp8(x, n, activation);
}

void Model::split_rows(int thread, int tokens, int& first, int& last) const {
    const int blocks = (tokens + k_->block - 1) / k_->block;
    first = int(int64_t(blocks) * thread / c_.threads) * k_->block;
    last = smaller(tokens, int(int64_t(blocks) * (thread + 1) / c_.threads) * k_->block);
}

// Rows first ... last - 1 of inputs.values, or of `source` (n numbers each), become ready for the products of `consumers`.
void Model::prepare(Inputs& in, int first, int last, int n, std::initializer_list<const Matrix*> consumers,
                    const float* source, int64_t source_stride) const {
    int padded = 0;
    bool floats = false, codes = false, pairs = false, unpaired = false;
    int rounding = ACT_FLOAT;
    for (const Matrix* m : consumers) {
        if (!m->rows) continue;
        padded = larger(padded, m->padded);
        codes |= m->activation == ACT_INT8;
        floats |= m->activation != ACT_INT8;
        const bool paired = k_->pack_pairs && takes_pairs(*m);
        pairs |= paired, unpaired |= m->activation != ACT_INT8 && !paired;
        if (m->activation >= ACT_FP8) rounding = m->activation;
    }
    for (int row = first; row < last; row++) {
        const float* x = source ? source + row * source_stride : in.values + row * in.stride;
        if (floats) {
            float* to = in.values + row * in.stride;
            if (source) std::memcpy(to, x, size_t(n) * 4);
            for (int c = n; c < padded; c++) to[c] = 0;
            round_input(to, n, rounding);
            x = to;
        }
        if (codes) in.scale[row] = k_->quantize(x, n, padded, 1e-5f, in.codes + row * in.stride, in.sums + row * (in.stride / kSumGroup));
    }
    if (!in.block_values || last <= first) return;
    for (int row = first; row < last; row += k_->block) {
        const int size = smaller(k_->block, last - row);
        if (pairs) k_->pack_pairs(in, row, size, padded);
        if (unpaired) k_->pack_values(in, row, size, padded);
        if (codes) k_->pack_codes(in, row, size, padded);
    }
}

// Tiles first ... last - 1 of all products, counted through.
void Model::multiply_tiles(int thread, std::initializer_list<Product> products, const Inputs& in, int tokens, int first, int last) {
    int start = 0;
    for (const Product& p : products) {
        const int a = larger(first - start, 0), b = smaller(last - start, p.matrix->tiles);
        if (a < b) {
            if (tokens > kFewTokens)
                k_->gemm(*p.matrix, a, b, in, tokens, p.y, p.stride, own_[size_t(thread)].scratch);
            else
                k_->matvec(*p.matrix, a, b, in, 0, tokens, p.y, p.stride);
        }
        start += p.matrix->tiles;
    }
}

// Few tokens: equal shares, whose weights lie behind each other. Many: whoever is ready takes the next tiles, of `next`.
void Model::multiply(int thread, std::initializer_list<Product> products, const Inputs& in, int tokens, std::atomic<int>& next) {
    int all = 0, first, last;
    for (const Product& p : products) all += p.matrix->tiles;
    if (tokens <= kFewTokens)
        return multiply_tiles(thread, products, in, tokens, int(int64_t(all) * thread / c_.threads), int(int64_t(all) * (thread + 1) / c_.threads));
    while (claim(next, all, c_.threads, first, last)) multiply_tiles(thread, products, in, tokens, first, last);
}

// Queries, keys and values of one token: a thread computes whole heads of keys and values, which it can write to the
// cache without waiting for others, and as many rows of queries as make the work equal.
void Model::multiply_heads(int thread, const Layer& l, const Inputs& in, int head0, int head1, int64_t key_at, int64_t value_at) {
    const int per_head = c_.head_dim / kTile, all = l.q.tiles + 2 * per_head * cache_heads_;
    int from = 0, to = 0;
    for (int t = 0; t <= thread; t++) {
        const int share = int(int64_t(all) * (t + 1) / c_.threads) - 2 * per_head * (cache_heads_ * (t + 1) / c_.threads);
        from = to, to = larger(to, smaller(share, l.q.tiles));
    }
    k_->matvec(l.q, from, to, in, 0, 1, qkv_, qkv_stride_);
    k_->matvec(l.k, head0 * per_head, head1 * per_head, in, 0, 1, qkv_ + key_at, qkv_stride_);
    k_->matvec(l.v, head0 * per_head, head1 * per_head, in, 0, 1, qkv_ + value_at, qkv_stride_);
}

void Model::pass(int thread) {
    Private& own = own_[size_t(thread)];
    const bool single = count_ == 1;
    const int hidden = c_.hidden_size;
    // With one token each thread keeps the residual stream for itself; with more, each owns some rows of it.
    Inputs& in = single ? own.inputs : shared_;
    float* residual = single ? own.residual : residual_;
    int first = 0, last = 1;
    if (!single) split_rows(thread, count_, first, last);
    auto meet = [&] { pool_->barrier(); };
    auto meet_rows = [&] {
        if (!single) pool_->barrier();
    };
    for (int row = first; row < last; row++) {
        float* x = residual + row * hidden_stride_;
        read_row(embedding_, ids_[row], x);
        const bool rounded = embedding_.format == FMT_BF16 && embedding_.weight.dtype == DT_F32;
        for (int i = 0; i < hidden; i++) x[i] = (rounded ? bf16_to_float(float_to_bf16(x[i])) : x[i]) * c_.embedding_scale;
        if (!single) find_angles(row);  // all threads rotate by those of a single token: they stand before a pass begins
    }
    auto norm_rows = [&](const float* x, int64_t stride, const float* gain, int n) {
        for (int row = first; row < last; row++) {
            float* to = in.values + row * in.stride;
            if (gain)
                k_->norm(c_.norm_kind, x + row * stride, gain, c_.eps, n, to);
            else
                std::memcpy(to, x + row * stride, size_t(n) * 4);
        }
    };
    // The same where the norm may be missing, then `prepare`.
    auto prepare_rows = [&](const float* x, int64_t stride, const float* gain, int n, const Matrix* consumer) {
        if (gain) norm_rows(x, stride, gain, n);
        prepare(in, first, last, n, {consumer}, gain ? nullptr : x, stride);
    };
    auto add_rows = [&](const float* gain) {
        for (int row = first; row < last; row++) {
            float* y = out_ + row * hidden_stride_;
            if (gain) {
                k_->norm(c_.norm_kind, y, gain, c_.eps, hidden, own.temporary);
                y = own.temporary;
            }
            k_->add(residual + row * hidden_stride_, y, hidden);
        }
    };
    const int head_out = c_.latent ? c_.v_dim : c_.head_dim;
    const int64_t key_at = tiled(c_.num_heads * c_.head_dim), value_at = key_at + tiled(c_.num_kv_heads * c_.head_dim);
    const int64_t q_a_at = qkv_stride_ - tiled(c_.q_lora_rank), latent_stride = tiled(c_.kv_lora_rank + c_.rope);
    for (size_t i = 0; i < layers_.size(); i++) {
        Layer& l = layers_[i];
        Next& next = next_[i];
        norm_rows(residual, hidden_stride_, l.input_norm, hidden);
        if (c_.latent) {
            const bool low_rank = l.q_a.rows > 0;
            prepare(in, first, last, hidden, {&l.kv_a, low_rank ? &l.q_a : &l.q});
            meet_rows();
            if (low_rank)
                multiply(thread, {{&l.q_a, qkv_ + q_a_at, qkv_stride_}, {&l.kv_a, latent_, latent_stride}}, in, count_, next.inputs);
            else
                multiply(thread, {{&l.q, qkv_, qkv_stride_}, {&l.kv_a, latent_, latent_stride}}, in, count_, next.inputs);
            meet();
            for (int row = first; row < last; row++)
                if (!single || thread == c_.threads - 1) write_cache(row, 0, l);
            if (low_rank) {
                norm_rows(qkv_ + q_a_at, qkv_stride_, l.q_a_norm, c_.q_lora_rank);
                prepare(in, first, last, c_.q_lora_rank, {&l.q_b});
                meet_rows();
                multiply(thread, {{&l.q_b, qkv_, qkv_stride_}}, in, count_, next.queries);
            }
            meet();
        } else {
            prepare(in, first, last, hidden, {&l.q, &l.k, &l.v});
            meet_rows();
            const int items = count_ * cache_heads_;
            const int item0 = items * thread / c_.threads, item1 = items * (thread + 1) / c_.threads;
            if (single && c_.head_dim % kTile == 0) {
                multiply_heads(thread, l, in, item0, item1, key_at, value_at);
            } else {
                multiply(thread, {{&l.q, qkv_, qkv_stride_}, {&l.k, qkv_ + key_at, qkv_stride_}, {&l.v, qkv_ + value_at, qkv_stride_}}, in, count_, next.inputs);
                meet();
            }
            for (int item = item0; item < item1; item++) write_cache(item / cache_heads_, item % cache_heads_, l);
            meet();
        }
        for (int task; (task = next.task.fetch_add(1, std::memory_order_relaxed)) < int(tasks_.size());)
            attend(thread, l, tasks_[size_t(task)]);
        meet();
        prepare_rows(attended_, attention_stride_, l.attention_sub_norm, c_.num_heads * head_out, &l.o);
        meet_rows();
        multiply(thread, {{&l.o, out_, hidden_stride_}}, in, count_, next.out);
        meet();
        add_rows(l.attention_out_norm);
        norm_rows(residual, hidden_stride_, l.feed_forward_norm, hidden);
        prepare(in, first, last, hidden, {&l.gate, &l.up});
        meet_rows();
        // A thread computes the same rows of gate and up, and multiplies them while they are in its cache.
        auto feed_forward = [&](int tile0, int tile1) {
            if (c_.gated) multiply_tiles(thread, {{&l.gate, gate_, inner_stride_}}, in, count_, tile0, tile1);
            multiply_tiles(thread, {{&l.up, c_.gated ? up_ : gate_, inner_stride_}}, in, count_, tile0, tile1);
            for (int row = 0; row < count_; row++) {
                const int64_t at = row * inner_stride_ + int64_t(tile0) * kTile;
                k_->activate(c_.activation, gate_ + at, c_.gated ? up_ + at : nullptr, (tile1 - tile0) * kTile);
            }
        };
        int tile0 = int(int64_t(l.up.tiles) * thread / c_.threads), tile1 = int(int64_t(l.up.tiles) * (thread + 1) / c_.threads);
        if (count_ > kFewTokens)
            while (claim(next.feed_forward, l.up.tiles, c_.threads, tile0, tile1)) feed_forward(tile0, tile1);
        else if (tile0 < tile1)
            feed_forward(tile0, tile1);
        meet();
        prepare_rows(gate_, inner_stride_, l.feed_forward_sub_norm, c_.intermediate_size, &l.down);
        meet_rows();
        multiply(thread, {{&l.down, out_, hidden_stride_}}, in, count_, next.down);
        meet();
        add_rows(l.feed_forward_out_norm);
    }
    if (single && thread == 0) std::memcpy(residual_, residual, size_t(hidden) * 4);
    if (!wanted_count_) return;
    if (single) {
        norm_rows(residual, hidden_stride_, final_norm_, hidden);
        prepare(in, 0, 1, hidden, {&head_});
        multiply(thread, {{&head_, logits_, logits_stride_}}, in, 1, next_head_);
        return;
    }
    meet();
    head_pass(thread);
}

// Logits of rows wanted_first_ ... of the tokens whose logits are wanted.
void Model::head_pass(int thread) {
    const int rows = wanted_count_;
    int first, last;
    split_rows(thread, rows, first, last);
    for (int row = first; row < last; row++)
        k_->norm(c_.norm_kind, residual_ + wanted_[size_t(wanted_first_ + row)] * hidden_stride_, final_norm_, c_.eps,
                 c_.hidden_size, shared_.values + row * shared_.stride);
    prepare(shared_, first, last, c_.hidden_size, {&head_});
    pool_->barrier();
    multiply(thread, {{&head_, logits_, logits_stride_}}, shared_, rows, next_head_);
}

}  // namespace smidgen
