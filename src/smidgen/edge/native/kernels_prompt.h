// Attention of a prompt's queries: each is a lane, so that neither softmax nor sums go across lanes. Keys and values are
// widened once for all queries of a task; a softmax that goes on from tile to tile keeps everything in the first caches.
#pragma once
#include "kernels_attention.h"
#include "kernels_float.h"

namespace smidgen {
namespace {

constexpr int kPositions = kTilesOfABlock * kTile;
constexpr int kVectors = kTilesAtOnce;                    // of queries, that share a number of a key
constexpr int kNumbers = kTilesAtOnce > 1 ? 8 : 4;        // of a key or value at once
constexpr float kLowest = -1e30f, kHuge = 2e38f;

// A tile [dim][16] as float32, times its scales; zero from position `held` on, where nothing was written.
template <int Dtype>
inline void widen(const void* tile, int first, int last, const float* scales, int held, float* out) {
    for (int d = first; d < last; d++) {
        F v = load_cached<Dtype>(tile, d);
        if constexpr (Dtype == DT_I8) v = mul(v, load(scales));
        store(out + d * kTile, v);
    }
    if (held < kTile)
        for (int d = first; d < last; d++)
            for (int i = larger(held, 0); i < kTile; i++) out[d * kTile + i] = 0;
}

// s [position][vector][16] = keys [tile][dim][16] times queries [vector][dim][16].
template <int Vectors>
inline void scores_of_lanes(const float* q, int dim, int tiles, const float* keys, float* s) {
    for (int t = 0; t < tiles; t++)
        for (int i = 0; i < kTile; i += kNumbers) {
            const float* k = keys + int64_t(t) * dim * kTile + i;
            F acc[kNumbers][Vectors];
            UNROLL for (int j = 0; j < kNumbers; j++)
                UNROLL for (int v = 0; v < Vectors; v++) acc[j][v] = zero();
            for (int d = 0; d < dim; d++, k += kTile) {
                F x[Vectors];
                UNROLL for (int v = 0; v < Vectors; v++) x[v] = load(q + (int64_t(v) * dim + d) * kTile);
                UNROLL for (int j = 0; j < kNumbers; j++) {
                    const F number = set1(k[j]);
                    UNROLL for (int v = 0; v < Vectors; v++) fma_into(acc[j][v], x[v], number);
                }
            }
            UNROLL for (int j = 0; j < kNumbers; j++)
                UNROLL for (int v = 0; v < Vectors; v++) store(s + ((t * kTile + i + j) * kLaneVectors + v) * kTile, acc[j][v]);
        }
}

// out [vector][dim][16] = out * factor + values [tile][stride][16] times p [position][vector][16].
template <int Vectors, int Numbers>
inline void mix_of_lanes(const float* p, int dim, int from, int to, int stride, int tiles, const float* values, const float* factor, float* out) {
    for (int d = from; d + Numbers <= to; d += Numbers) {
        F acc[Numbers][Vectors];
        UNROLL for (int v = 0; v < Vectors; v++) {
            const F old = load(factor + v * kTile);
            UNROLL for (int j = 0; j < Numbers; j++) acc[j][v] = mul(old, load(out + (int64_t(v) * dim + d + j) * kTile));
        }
        for (int t = 0; t < tiles; t++) {
            const float* value = values + (int64_t(t) * stride + d) * kTile;
            const float* weights = p + t * kTile * kLaneVectors * kTile;
            for (int i = 0; i < kTile; i++, weights += kLaneVectors * kTile) {
                F x[Vectors];
                UNROLL for (int v = 0; v < Vectors; v++) x[v] = load(weights + v * kTile);
                UNROLL for (int j = 0; j < Numbers; j++) {
                    const F number = set1(value[j * kTile + i]);
                    UNROLL for (int v = 0; v < Vectors; v++) fma_into(acc[j][v], x[v], number);
                }
            }
        }
        UNROLL for (int v = 0; v < Vectors; v++)
            UNROLL for (int j = 0; j < Numbers; j++) store(out + (int64_t(v) * dim + d + j) * kTile, acc[j][v]);
    }
}

// Scores become exp(score - largest so far); `factor` is what earlier sums are multiplied by.
inline void softmax_of_lanes(float* s, int count, bool whole, int base, const float* from, const float* to, float* most, float* sum, float* factor) {
    constexpr int step = kLaneVectors * kTile;
    const F first = load(from), behind = load(to), before = load(most), huge = set1(kHuge);
    F top = before;
    for (int i = 0; i < count; i++) {
        F score = load(s + i * step);
        if (!whole) {  // far below all others where a query does not look
            const F position = set1(float(base + i) + 0.5f);
            score = minimum(minimum(mul(sub(behind, position), huge), mul(sub(position, first), huge)), score);
            store(s + i * step, score);
        }
        top = maximum(score, top);
    }
    const F old = exponential(sub(before, top));
    F total = mul(load(sum), old);
    for (int i = 0; i < count; i++) {
        const F p = exponential(sub(load(s + i * step), top));
        store(s + i * step, p);
        total = add(total, p);
    }
    store(most, top), store(sum, total), store(factor, old);
}

template <int Dtype>
void attend_lanes_of(const Lanes& a) {
    const int vectors = (a.rows + kTile - 1) / kTile, dim = a.key_dim, value_dim = a.value_dim;
    const bool shared = a.keys == a.values;
    float *q = a.scratch, *out = q + kLanes * dim, *s = out + kLanes * value_dim, *wide = s + kPositions * kLanes;
    alignas(64) float most[kLanes], sum[kLanes], factor[kLanes];
    float lowest_end = a.to[0], highest_start = a.from[0];
    for (int r = 0; r < kLanes; r++) most[r] = kLowest, sum[r] = 0;
    for (int r = 0; r < a.rows; r++) lowest_end = smaller(lowest_end, a.to[r]), highest_start = larger(highest_start, a.from[r]);
    for (int v = 0; v < vectors; v++)
        transpose_words(reinterpret_cast<const uint8_t*>(a.queries + int64_t(v) * kTile * dim), int64_t(dim) * 4, smaller(kTile, a.rows - v * kTile),
                        dim, kTile, reinterpret_cast<uint8_t*>(q + v * kTile * dim));
    std::memset(out, 0, size_t(vectors) * kTile * size_t(value_dim) * 4);
    for (int tile = 0; tile < a.tiles; tile += kTilesOfABlock) {
        const int tiles = smaller(kTilesOfABlock, a.tiles - tile), count = tiles * kTile, base = tile * kTile;
        for (int t = 0; t < tiles; t++) {
            const float* scales = Dtype == DT_I8 ? a.key_scales[tile + t] : nullptr;
            const int held = a.held - base - t * kTile;
            float* to = wide + int64_t(t) * dim * kTile;
            widen<Dtype>(a.keys[tile + t], 0, a.second, scales, held, to);
            if (a.second < dim) widen<Dtype>(a.keys[tile + t], a.second, dim, scales ? scales + a.second_scales : nullptr, held, to);
        }
        for (int v = 0; v < vectors;) {
            if (kVectors == 2 && v + 2 <= vectors)
                scores_of_lanes<kVectors>(q + v * kTile * dim, dim, tiles, wide, s + v * kTile), v += kVectors;
            else
                scores_of_lanes<1>(q + v * kTile * dim, dim, tiles, wide, s + v * kTile), v++;
        }
        const bool whole = float(base + count) <= lowest_end && float(base) >= highest_start;
        for (int v = 0; v < vectors; v++)
            softmax_of_lanes(s + v * kTile, count, whole, base, a.from + v * kTile, a.to + v * kTile, most + v * kTile, sum + v * kTile, factor + v * kTile);
        if (!shared)
            for (int t = 0; t < tiles; t++)
                widen<Dtype>(a.values[tile + t], 0, value_dim, Dtype == DT_I8 ? a.value_scales[tile + t] : nullptr, a.held - base - t * kTile,
                             wide + int64_t(t) * value_dim * kTile);
        const int stride = shared ? dim : value_dim, main = value_dim / kNumbers * kNumbers;
        for (int v = 0; v < vectors;) {
            const bool both = kVectors == 2 && v + 2 <= vectors;
            float* target = out + v * kTile * value_dim;
            const float *p = s + v * kTile, *old = factor + v * kTile;
            if (both) {
                mix_of_lanes<kVectors, kNumbers>(p, value_dim, 0, main, stride, tiles, wide, old, target);
                mix_of_lanes<kVectors, 1>(p, value_dim, main, value_dim, stride, tiles, wide, old, target);
            } else {
                mix_of_lanes<1, kNumbers>(p, value_dim, 0, main, stride, tiles, wide, old, target);
                mix_of_lanes<1, 1>(p, value_dim, main, value_dim, stride, tiles, wide, old, target);
            }
            v += both ? 2 : 1;
        }
    }
    for (int v = 0; v < vectors; v++) {
        const F inverse = div(set1(1.0f), load(sum + v * kTile));
        float* sums = out + v * kTile * value_dim;
        for (int d = 0; d < value_dim; d += kTile) {  // back to a row for each query
            const int dims = smaller(kTile, value_dim - d);
            for (int j = 0; j < dims; j++) store(sums + (d + j) * kTile, mul(inverse, load(sums + (d + j) * kTile)));
            transpose_words(reinterpret_cast<const uint8_t*>(sums + d * kTile), kTile * 4, dims, kTile, kTile, reinterpret_cast<uint8_t*>(s));
            for (int r = v * kTile; r < smaller(a.rows, (v + 1) * kTile); r++)
                std::memcpy(a.out + r * a.out_stride + d, s + (r - v * kTile) * kTile, size_t(dims) * 4);
        }
    }
}

void attend_lanes(const Lanes& a) {
    switch (a.dtype) {
        case DT_F32: return attend_lanes_of<DT_F32>(a);
        case DT_BF16: return attend_lanes_of<DT_BF16>(a);
        case DT_F16: return attend_lanes_of<DT_F16>(a);
        default: return attend_lanes_of<DT_I8>(a);
    }
}

}  // namespace
}  // namespace smidgen
