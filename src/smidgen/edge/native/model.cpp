#include "model.h"

#include <cmath>
#include <stdexcept>

namespace smidgen {
namespace {

constexpr int kFewTokens = 4;        // up to here products read the packed weights token by token
constexpr int kRowsOfATask = 8;      // queries that share the reading of keys
constexpr int kLogitRows = 16;

int64_t tiled(int rows) { return round_up(rows, kTile); }

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

void round_input(float* x, int n, int activation) {
    if (activation == ACT_ROUNDED)
        round_to_int8(x, n);
    else if (activation >= ACT_FP8)
        round_to_fp8(x, n, activation);
}

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
        std::string error = pack_matrix(from, to, *weights_, *pool_);
        if (!error.empty()) throw std::runtime_error(error);
        weight_bytes_ += uint64_t(to.bytes());
        stride_ = larger(stride_, to.padded);
    };
    for (int i = 0; i < c_.num_layers; i++) {
        const EdgeLayer& l = layers[i];
        Layer& to = layers_[size_t(i)];
        each_matrix(l, to, pack);
        if (l.kv_b.rows) {
            std::string error = absorb(l.kv_b, c_.num_heads, c_.nope, c_.v_dim, to.absorbed, *weights_);
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
    const size_t per_thread = size_t(hidden_stride_) * 4 + size_t(stride_) * 4 + size_t(kRowsOfATask) * size_t(key_dim_ + value_dim_ + 2 * c_.kv_lora_rank + 1024 + longest) * 4 +
                              inputs * 2 + size_t(stride_) * 2 * kPanelBytes + size_t(longest / kTile) * 3 * 8 + 65536 + size_t(kRowsOfATask) * size_t(round_up(key_dim_, 64) + round_up(c_.nope, 64) + round_up(c_.v_dim, 64)) * 8;
    work_ = std::make_unique<Arena>(floats * 4 + tokens * (inputs * 2 + size_t(stride_) * 2) + per_thread * size_t(c_.threads) + (1 << 20));
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
        p.query = take<float>(size_t(kRowsOfATask) * size_t(round_up(key_dim_, 64) + 64));
        p.scores = take<float>(size_t(kRowsOfATask) * size_t(longest));
        p.mixed = take<float>(size_t(kRowsOfATask) * size_t(round_up(value_dim_, 64) + 64));
        p.head = take<float>(size_t(kRowsOfATask) * size_t(round_up(larger(larger(c_.nope, c_.v_dim), key_dim_), 64) + 64));
        p.inputs = take_inputs(1, false);
        p.scratch = take<uint8_t>(size_t(stride_) * kPanelBytes * 2);
        p.tiles = take<const void*>(size_t(longest / kTile)), p.value_tiles = take<const void*>(size_t(longest / kTile));
        p.scales = take<const float*>(size_t(longest / kTile));
        own_.push_back(p);
    }
    lengths_.assign(size_t(c_.num_slots), 0), new_lengths_ = lengths_, written_ = lengths_;
    positions_.resize(size_t(max_tokens_)), wanted_.resize(size_t(max_tokens_));
    tasks_.reserve(size_t(max_tokens_) * size_t(c_.num_heads));
    next_task_ = std::make_unique<std::atomic<int>[]>(size_t(c_.num_layers));
    samplers_.resize(size_t(c_.num_slots));
    sampler_ = std::make_unique<Sampler>(c_.vocab_size);
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
        if (k_->pack_pairs) in.block_pairs = take<uint8_t>(n * size_t(stride_) * 2);
    }
    return in;
}

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
    for (int i = 0; i < c_.num_layers; i++) next_task_[size_t(i)].store(0, std::memory_order_relaxed);
    wanted_first_ = 0;
    wanted_count_ = out ? 0 : num_wanted_;
    pool_->run(work, this);
    lengths_ = new_lengths_;
    for (size_t i = 0; i < lengths_.size(); i++) written_[i] = larger(written_[i], lengths_[i]);
    if (!out) return nullptr;
    for (wanted_first_ = 0; wanted_first_ < num_wanted_; wanted_first_ += logit_rows_) {
        wanted_count_ = smaller(logit_rows_, num_wanted_ - wanted_first_);
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

void Model::plan_tasks() {
    const int groups = cache_heads_, per_group = c_.num_heads / groups;
    tasks_.clear();
    for (int i = 0; i < count_;) {
        int run = 1;
        while (run < kRowsOfATask && i + run < count_ && slots_[i + run] == slots_[i]) run++;
        int heads = larger(1, smaller(per_group, kRowsOfATask / run));
        // One token: enough tasks for all threads, all of a size.
        while (count_ == 1 && heads > 1 && heads % 2 == 0 && (groups * ((per_group + heads - 1) / heads)) % c_.threads) heads /= 2;
        for (int g = 0; g < groups; g++)
            for (int h = 0; h < per_group; h += heads)
                tasks_.push_back({i, run, g, g * per_group + h, smaller(heads, per_group - h)});
        i += run;
    }
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

void Model::multiply(int thread, std::initializer_list<Product> products, const Inputs& in, int tokens) {
    int64_t all = 0;
    for (const Product& p : products) all += p.matrix->tiles;
    const int64_t first = all * thread / c_.threads, last = all * (thread + 1) / c_.threads;
    int64_t start = 0;
    for (const Product& p : products) {
        const int a = int(larger<int64_t>(first - start, 0)), b = int(smaller<int64_t>(last - start, p.matrix->tiles));
        if (a < b) {
            if (tokens > kFewTokens)
                k_->gemm(*p.matrix, a, b, in, tokens, p.y, p.stride, own_[size_t(thread)].scratch);
            else
                k_->matvec(*p.matrix, a, b, in, 0, tokens, p.y, p.stride);
        }
        start += p.matrix->tiles;
    }
}

void Model::rotate(float* x, int token, int table) const {
    const float* cosine = cosines_[table] + int64_t(token) * c_.num_frequencies;
    const float* sine = sines_[table] + int64_t(token) * c_.num_frequencies;
    const int half = c_.num_frequencies, step = c_.interleaved ? 2 : 1, other = c_.interleaved ? 1 : half;
    for (int i = 0; i < half; i++) {
        float &a = x[i * step], &b = x[i * step + other];
        const float first = a * cosine[i] - b * sine[i];
        b = b * cosine[i] + a * sine[i];
        a = first;
    }
}

namespace {

void store_cached(int dtype, uint8_t* tile, int lane, int d, float value, float inverse) {
    const int at = d * kTile + lane;
    if (dtype == DT_F32)
        reinterpret_cast<float*>(tile)[at] = value;
    else if (dtype == DT_F16)
        reinterpret_cast<uint16_t*>(tile)[at] = float_to_f16(value);
    else if (dtype == DT_BF16)
        reinterpret_cast<uint16_t*>(tile)[at] = float_to_bf16(value);
    else
        reinterpret_cast<int8_t*>(tile)[at] = int8_t(__builtin_rintf(value * inverse));
}

// `scale` (int8 only) receives what the stored codes are multiplied by.
void store_position(int dtype, uint8_t* tile, int lane, int d, const float* x, int n, float* scale) {
    float inverse = 0;
    if (dtype == DT_I8) {
        float most = 1e-5f;
        for (int i = 0; i < n; i++) most = larger(most, std::fabs(x[i]));
        inverse = 127.0f / most;
        *scale = most / 127.0f;
        if (!std::isfinite(most)) inverse = 0;
    }
    for (int i = 0; i < n; i++) store_cached(dtype, tile, lane, d + i, x[i], inverse);
}

}  // namespace

// Norm and rotation of a token's new key, and its place in the cache with its value.
void Model::write_cache(int token, int head, Layer& l) {
    const int slot = slots_[token], position = positions_[size_t(token)] % l.capacity;
    const int64_t line = (int64_t(slot) * cache_heads_ + head) * l.capacity;
    const int lane = position % kTile;
    uint8_t* key_tile = l.keys + (line + position - lane) * key_dim_ * element_;
    if (c_.latent) {
        float* latent = latent_ + int64_t(token) * tiled(c_.kv_lora_rank + c_.rope);
        float* rope = latent + c_.kv_lora_rank;
        k_->norm(c_.norm_kind, latent, l.kv_a_norm, c_.eps, c_.kv_lora_rank, latent);
        round_input(latent, c_.kv_lora_rank, l.latent_rounding);  // what kv_b_proj would multiply
        rotate(rope, token, l.rope);
        float* scales = l.key_scales ? l.key_scales + 2 * line + position : nullptr;
        store_position(c_.cache_dtype, key_tile, lane, 0, latent, c_.kv_lora_rank, scales);
        store_position(c_.cache_dtype, key_tile, lane, c_.kv_lora_rank, rope, c_.rope, scales ? scales + l.capacity : nullptr);
        return;
    }
    float* row = qkv_ + token * qkv_stride_ + tiled(c_.num_heads * c_.head_dim);
    float* key = row + head * c_.head_dim;
    const float* value = row + tiled(c_.num_kv_heads * c_.head_dim) + head * c_.head_dim;
    if (l.k_norm) k_->norm(c_.norm_kind, key, l.k_norm, c_.eps, c_.head_dim, key);
    rotate(key, token, l.rope);
    uint8_t* value_tile = l.values + (line + position - lane) * value_dim_ * element_;
    store_position(c_.cache_dtype, key_tile, lane, 0, key, key_dim_, l.key_scales ? l.key_scales + line + position : nullptr);
    store_position(c_.cache_dtype, value_tile, lane, 0, value, value_dim_, l.value_scales ? l.value_scales + line + position : nullptr);
}

void Model::attend(int thread, const Layer& l, const Task& task) {
    Private& own = own_[size_t(thread)];
    const int rows = task.tokens * task.heads, rank = c_.kv_lora_rank;
    const int slot = slots_[task.token], first = positions_[size_t(task.token)], last = first + task.tokens - 1;
    // Queries, scaled, as [dim][rows].
    for (int h = 0; h < task.heads; h++) {
        const int head = task.head + h;
        if (c_.latent) {
            const Matrix& m = l.absorbed.keys[size_t(head)];
            Inputs in;
            in.values = own.head, in.stride = m.padded;
            for (int i = 0; i < task.tokens; i++) {
                float* q = qkv_ + (task.token + i) * qkv_stride_ + head * (c_.nope + c_.rope);
                float* x = own.head + int64_t(i) * m.padded;
                for (int d = 0; d < m.padded; d++) x[d] = d < c_.nope ? q[d] * (m.column_scale ? m.column_scale[d] : 1.0f) : 0;
                rotate(q + c_.nope, task.token + i, l.rope);
                for (int d = 0; d < c_.rope; d++) own.query[(rank + d) * rows + h * task.tokens + i] = q[c_.nope + d] * c_.softmax_scale;
            }
            k_->matvec(m, 0, m.tiles, in, 0, task.tokens, own.mixed, tiled(rank));
            for (int i = 0; i < task.tokens; i++)
                for (int d = 0; d < rank; d++) own.query[d * rows + h * task.tokens + i] = own.mixed[i * tiled(rank) + d] * c_.softmax_scale;
        } else {
            for (int i = 0; i < task.tokens; i++) {
                float* q = qkv_ + (task.token + i) * qkv_stride_ + head * c_.head_dim;
                if (l.q_norm) k_->norm(c_.norm_kind, q, l.q_norm, c_.eps, c_.head_dim, q);
                rotate(q, task.token + i, l.rope);
                for (int d = 0; d < c_.head_dim; d++) own.query[d * rows + h * task.tokens + i] = q[d] * c_.softmax_scale;
            }
        }
    }
    // Tiles of the cache that the queries see.
    const int lowest = l.window ? larger(0, first - l.window + 1) : 0;
    const int first_tile = lowest / kTile, tiles = last / kTile - first_tile + 1;
    const int64_t stride = int64_t(tiles) * kTile;
    const int64_t line = (int64_t(slot) * cache_heads_ + task.kv_head) * l.capacity;
    auto place = [&](int t) { return int64_t((first_tile + t) % (l.capacity / kTile)) * kTile; };
    const int segments = c_.latent && c_.cache_dtype == DT_I8 ? 2 : 1;
    for (int s = 0; s < segments; s++) {
        const int offset = s ? rank : 0, dim = segments == 1 ? key_dim_ : s ? c_.rope : rank;
        for (int t = 0; t < tiles; t++) {
            own.tiles[t] = l.keys + ((line + place(t)) * key_dim_ + int64_t(offset) * kTile) * element_;
            own.scales[t] = l.key_scales ? l.key_scales + (c_.latent ? 2 * line + s * l.capacity : line) + place(t) : nullptr;
        }
        k_->scores(c_.cache_dtype, rows, own.query + int64_t(offset) * rows, dim, tiles, own.tiles, own.scales, s > 0, own.scores, stride);
    }
    const int base = first_tile * kTile;
    float inverse[kRowsOfATask];
    for (int r = 0; r < rows; r++) {
        float* s = own.scores + r * stride;
        const int position = first + r % task.tokens;
        const int from = (l.window ? larger(0, position - l.window + 1) : 0) - base, to = position - base + 1;
        const int skipped = from / kTile * kTile, end = int(tiled(to));
        for (int i = skipped; i < from; i++) s[i] = -INFINITY;
        for (int i = to; i < end; i++) s[i] = -INFINITY;
        inverse[r] = 1.0f / k_->softmax(s + skipped, end - skipped);
        for (int i = 0; i < from; i++) s[i] = 0;
        for (int i = to; i < stride; i++) s[i] = 0;
        const float* scales = c_.latent ? l.key_scales : l.value_scales;
        if (!scales) continue;
        for (int t = 0; t < tiles; t++) {
            const float* own_scales = scales + (c_.latent ? 2 * line : line) + place(t);
            for (int i = 0; i < kTile; i++) s[t * kTile + i] *= own_scales[i];
        }
    }
    const int64_t out_stride = round_up(value_dim_, 64);
    const int64_t dims = c_.latent ? key_dim_ : value_dim_;
    for (int t = 0; t < tiles; t++) own.value_tiles[t] = l.values + (line + place(t)) * dims * element_;
    k_->mix(c_.cache_dtype, rows, own.scores, stride, value_dim_, tiles, own.value_tiles, own.mixed, out_stride);
    for (int h = 0; h < task.heads; h++) {
        const int head = task.head + h;
        for (int i = 0; i < task.tokens; i++) {
            float* mixed = own.mixed + (h * task.tokens + i) * out_stride;
            for (int d = 0; d < value_dim_; d++) mixed[d] *= inverse[h * task.tokens + i];
            if (c_.latent) {
                for (int64_t d = value_dim_; d < out_stride; d++) mixed[d] = 0;
                continue;
            }
            float* to = attended_ + (task.token + i) * attention_stride_ + head * c_.head_dim;
            std::memcpy(to, mixed, size_t(c_.head_dim) * 4);
        }
        if (!c_.latent) continue;
        const Matrix& m = l.absorbed.values[size_t(head)];
        Inputs in;
        in.values = own.mixed + int64_t(h) * task.tokens * out_stride, in.stride = out_stride;
        k_->matvec(m, 0, m.tiles, in, 0, task.tokens, own.head, tiled(c_.v_dim));
        for (int i = 0; i < task.tokens; i++)
            std::memcpy(attended_ + (task.token + i) * attention_stride_ + head * c_.v_dim, own.head + i * tiled(c_.v_dim), size_t(c_.v_dim) * 4);
    }
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
        if (single && thread) continue;
        for (int table = 0; table < 2; table++)
            for (size_t i = 0; i < frequencies_[table].size(); i++) {
                const float angle = float(positions_[size_t(row)]) * frequencies_[table][i];
                cosines_[table][int64_t(row) * c_.num_frequencies + int64_t(i)] = std::cos(angle);
                sines_[table][int64_t(row) * c_.num_frequencies + int64_t(i)] = std::sin(angle);
            }
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
        norm_rows(residual, hidden_stride_, l.input_norm, hidden);
        if (c_.latent) {
            const bool low_rank = l.q_a.rows > 0;
            prepare(in, first, last, hidden, {&l.kv_a, low_rank ? &l.q_a : &l.q});
            meet_rows();
            if (low_rank)
                multiply(thread, {{&l.q_a, qkv_ + q_a_at, qkv_stride_}, {&l.kv_a, latent_, latent_stride}}, in, count_);
            else
                multiply(thread, {{&l.q, qkv_, qkv_stride_}, {&l.kv_a, latent_, latent_stride}}, in, count_);
            meet();
            for (int row = first; row < last; row++)
                if (!single || thread == c_.threads - 1) write_cache(row, 0, l);
            if (low_rank) {
                norm_rows(qkv_ + q_a_at, qkv_stride_, l.q_a_norm, c_.q_lora_rank);
                prepare(in, first, last, c_.q_lora_rank, {&l.q_b});
                meet_rows();
                multiply(thread, {{&l.q_b, qkv_, qkv_stride_}}, in, count_);
            }
            meet();
        } else {
            prepare(in, first, last, hidden, {&l.q, &l.k, &l.v});
            meet_rows();
            multiply(thread, {{&l.q, qkv_, qkv_stride_}, {&l.k, qkv_ + key_at, qkv_stride_}, {&l.v, qkv_ + value_at, qkv_stride_}}, in, count_);
            meet();
            const int items = count_ * cache_heads_;
            for (int item = items * thread / c_.threads; item < items * (thread + 1) / c_.threads; item++)
                write_cache(item / cache_heads_, item % cache_heads_, l);
            meet();
        }
        for (int task; (task = next_task_[i].fetch_add(1, std::memory_order_relaxed)) < int(tasks_.size());)
            attend(thread, l, tasks_[size_t(task)]);
        meet();
        prepare_rows(attended_, attention_stride_, l.attention_sub_norm, c_.num_heads * head_out, &l.o);
        meet_rows();
        multiply(thread, {{&l.o, out_, hidden_stride_}}, in, count_);
        meet();
        add_rows(l.attention_out_norm);
        norm_rows(residual, hidden_stride_, l.feed_forward_norm, hidden);
        prepare(in, first, last, hidden, {&l.gate, &l.up});
        meet_rows();
        // A thread computes the same rows of gate and up, and multiplies them while they are in its cache.
        const int tile0 = int(int64_t(l.up.tiles) * thread / c_.threads), tile1 = int(int64_t(l.up.tiles) * (thread + 1) / c_.threads);
        auto part = [&](const Matrix& m, float* y) {
            if (count_ > kFewTokens)
                k_->gemm(m, tile0, tile1, in, count_, y, inner_stride_, own.scratch);
            else
                k_->matvec(m, tile0, tile1, in, 0, count_, y, inner_stride_);
        };
        if (tile0 < tile1) {
            if (c_.gated) part(l.gate, gate_);
            part(l.up, c_.gated ? up_ : gate_);
            for (int row = 0; row < count_; row++) {
                const int64_t at = row * inner_stride_ + int64_t(tile0) * kTile;
                k_->activate(c_.activation, gate_ + at, c_.gated ? up_ + at : nullptr, (tile1 - tile0) * kTile);
            }
        }
        meet();
        prepare_rows(gate_, inner_stride_, l.feed_forward_sub_norm, c_.intermediate_size, &l.down);
        meet_rows();
        multiply(thread, {{&l.down, out_, hidden_stride_}}, in, count_);
        meet();
        add_rows(l.feed_forward_out_norm);
    }
    if (single && thread == 0) std::memcpy(residual_, residual, size_t(hidden) * 4);
    if (!wanted_count_) return;
    if (single) {
        norm_rows(residual, hidden_stride_, final_norm_, hidden);
        prepare(in, 0, 1, hidden, {&head_});
        multiply(thread, {{&head_, logits_, logits_stride_}}, in, 1);
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
    multiply(thread, {{&head_, logits_, logits_stride_}}, shared_, rows);
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
