// Attention: the cache of keys and values, and what queries read from it.
#include <cmath>

#include "model.h"

namespace smidgen {

void Model::plan_tasks() {
    const int groups = cache_heads_, per_group = c_.num_heads / groups;
    tasks_.clear();
    for (int i = 0; i < count_;) {
        int run = 1;
        const int longest = kLanes / smaller(per_group, kLaneVectors);
        while (run < longest && i + run < count_ && slots_[i + run] == slots_[i]) run++;
        int heads = smaller(per_group, (run < kRowsOfATask ? kRowsOfATask : kLanes) / run);
        // One token: enough tasks for all threads, all of a size.
        while (count_ == 1 && heads > 1 && heads % 2 == 0 && (groups * ((per_group + heads - 1) / heads)) % c_.threads) heads /= 2;
        for (int g = 0; g < groups; g++)
            for (int h = 0; h < per_group; h += heads)
                tasks_.push_back({i, run, g, g * per_group + h, smaller(heads, per_group - h)});
        i += run;
    }
}

void Model::find_angles(int token) {
    for (int table = 0; table < 2; table++)
        for (size_t i = 0; i < frequencies_[table].size(); i++) {
            const float angle = float(positions_[size_t(token)]) * frequencies_[table][i];
            cosines_[table][int64_t(token) * c_.num_frequencies + int64_t(i)] = std::cos(angle);
            sines_[table][int64_t(token) * c_.num_frequencies + int64_t(i)] = std::sin(angle);
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

// A lane of a tile from dimension `d` on.
template <class T, class Convert>
void store_lane(uint8_t* tile, int lane, int d, const float* x, int n, Convert convert) {
    T* to = reinterpret_cast<T*>(tile) + d * kTile + lane;
    for (int i = 0; i < n; i++) to[i * kTile] = convert(x[i]);
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
    switch (dtype) {
        case DT_F32: return store_lane<float>(tile, lane, d, x, n, [](float v) { return v; });
        case DT_F16: return store_lane<uint16_t>(tile, lane, d, x, n, float_to_f16);
        case DT_BF16: return store_lane<uint16_t>(tile, lane, d, x, n, float_to_bf16);
        default: store_lane<int8_t>(tile, lane, d, x, n, [&](float v) { return int8_t(__builtin_rintf(v * inverse)); });
    }
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
    const bool lanes = rows > kRowsOfATask;
    const int slot = slots_[task.token], first = positions_[size_t(task.token)], last = first + task.tokens - 1;
    // Queries, scaled, as [dim][rows], for lanes as [rows][dim].
    const int query_step = lanes ? 1 : rows, row_step = lanes ? key_dim_ : 1;
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
                for (int d = 0; d < c_.rope; d++) own.query[(rank + d) * query_step + (h * task.tokens + i) * row_step] = q[c_.nope + d] * c_.softmax_scale;
            }
            k_->matvec(m, 0, m.tiles, in, 0, task.tokens, own.mixed, tiled(rank));
            for (int i = 0; i < task.tokens; i++)
                for (int d = 0; d < rank; d++) own.query[d * query_step + (h * task.tokens + i) * row_step] = own.mixed[i * tiled(rank) + d] * c_.softmax_scale;
        } else {
            for (int i = 0; i < task.tokens; i++) {
                float* q = qkv_ + (task.token + i) * qkv_stride_ + head * c_.head_dim;
                if (l.q_norm) k_->norm(c_.norm_kind, q, l.q_norm, c_.eps, c_.head_dim, q);
                rotate(q, task.token + i, l.rope);
                for (int d = 0; d < c_.head_dim; d++) own.query[d * query_step + (h * task.tokens + i) * row_step] = q[d] * c_.softmax_scale;
            }
        }
    }
    // Tiles of the cache that the queries see.
    const int lowest = l.window ? larger(0, first - l.window + 1) : 0;
    const int first_tile = lowest / kTile, tiles = last / kTile - first_tile + 1;
    const int64_t stride = int64_t(tiles) * kTile;
    const int64_t line = (int64_t(slot) * cache_heads_ + task.kv_head) * l.capacity;
    auto place = [&](int t) { return int64_t((first_tile + t) % (l.capacity / kTile)) * kTile; };
    const int64_t out_stride = round_up(value_dim_, 64);
    if (lanes) {
        alignas(64) float from[kLanes] = {}, to[kLanes] = {};
        for (int r = 0; r < rows; r++) {
            const int position = first + r % task.tokens;
            from[r] = float((l.window ? larger(0, position - l.window + 1) : 0) - first_tile * kTile);
            to[r] = float(position + 1 - first_tile * kTile);
        }
        for (int t = 0; t < tiles; t++) {
            own.tiles[t] = l.keys + (line + place(t)) * key_dim_ * element_;
            own.value_tiles[t] = l.values + (line + place(t)) * value_dim_ * element_;
            own.scales[t] = l.key_scales ? l.key_scales + (c_.latent ? 2 : 1) * line + place(t) : nullptr;
            own.value_scales[t] = l.value_scales ? l.value_scales + line + place(t) : nullptr;
        }
        Lanes a{c_.cache_dtype, rows, key_dim_, value_dim_, tiles, last + 1 - first_tile * kTile, from, to, own.query, own.tiles,
                c_.latent ? own.tiles : own.value_tiles, own.scales, own.value_scales, c_.latent ? rank : key_dim_, l.capacity,
                own.mixed, out_stride, own.lanes};
        k_->attend_lanes(a);
        return finish_heads(thread, l, task, nullptr);
    }
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
    const int64_t dims = c_.latent ? key_dim_ : value_dim_;
    for (int t = 0; t < tiles; t++) own.value_tiles[t] = l.values + (line + place(t)) * dims * element_;
    k_->mix(c_.cache_dtype, rows, own.scores, stride, value_dim_, tiles, own.value_tiles, own.mixed, out_stride);
    finish_heads(thread, l, task, inverse);
}

// What a task has mixed, times `inverse` where that is not null, goes to where the output projection reads it.
void Model::finish_heads(int thread, const Layer& l, const Task& task, const float* inverse) {
    Private& own = own_[size_t(thread)];
    const int64_t out_stride = round_up(value_dim_, 64);
    for (int h = 0; h < task.heads; h++) {
        const int head = task.head + h;
        for (int i = 0; i < task.tokens; i++) {
            float* mixed = own.mixed + (h * task.tokens + i) * out_stride;
            for (int d = 0; inverse && d < value_dim_; d++) mixed[d] *= inverse[h * task.tokens + i];
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

}  // namespace smidgen
