// Attention over a cache whose keys and values lie in tiles of 16 positions: [dim][16], so that a lane is a position.
#pragma once
#include "kernels.h"

namespace smidgen {
namespace {

template <int Dtype>
inline F load_cached(const void* tile, int d) {
    if constexpr (Dtype == DT_F32) return load(static_cast<const float*>(tile) + d * 16);
    if constexpr (Dtype == DT_BF16) return load_bf16(static_cast<const uint16_t*>(tile) + d * 16);
    if constexpr (Dtype == DT_F16) return load_f16(static_cast<const uint16_t*>(tile) + d * 16);
    return load_i8(static_cast<const int8_t*>(tile) + d * 16);
}

template <int Dtype, int Rows, int Tiles>
inline void score_tiles(int all_rows, const float* q, int dim, const void* const* keys, const float* const* scales,
                        bool accumulate, float* s, int64_t stride) {
    F acc[Tiles][Rows];
    UNROLL for (int t = 0; t < Tiles; t++)
        UNROLL for (int r = 0; r < Rows; r++) acc[t][r] = zero();
    for (int d = 0; d < dim; d++) {
        F k[Tiles];
        UNROLL for (int t = 0; t < Tiles; t++) k[t] = load_cached<Dtype>(keys[t], d);
        UNROLL for (int r = 0; r < Rows; r++) {
            const F x = set1(q[d * all_rows + r]);
            UNROLL for (int t = 0; t < Tiles; t++) fma_into(acc[t][r], k[t], x);
        }
    }
    UNROLL for (int t = 0; t < Tiles; t++)
        UNROLL for (int r = 0; r < Rows; r++) {
            F value = acc[t][r];
            if constexpr (Dtype == DT_I8) value = mul(value, load(scales[t]));
            float* target = s + r * stride + 16 * t;
            store(target, accumulate ? add(value, load(target)) : value);
        }
}

template <int Dtype, int Rows>
inline void score_rows(int all_rows, const float* q, int dim, int tiles, const void* const* keys,
                       const float* const* scales, bool accumulate, float* s, int64_t stride) {
    constexpr int kMany = kScoreTiles;
    int t = 0;
    for (; t + kMany <= tiles; t += kMany)
        score_tiles<Dtype, Rows, kMany>(all_rows, q, dim, keys + t, scales + t, accumulate, s + 16 * t, stride);
    if constexpr (kMany > 1)
        for (; t < tiles; t++)
            score_tiles<Dtype, Rows, 1>(all_rows, q, dim, keys + t, scales + t, accumulate, s + 16 * t, stride);
}

template <int Dtype>
void scores_of(int rows, const float* q, int dim, int tiles, const void* const* keys, const float* const* scales,
               bool accumulate, float* s, int64_t stride) {
    int r = 0;
    if constexpr (kBlock >= 8)
        for (; r + 8 <= rows; r += 8)
            score_rows<Dtype, 8>(rows, q + r, dim, tiles, keys, scales, accumulate, s + r * stride, stride);
    for (; r + 4 <= rows; r += 4)
        score_rows<Dtype, 4>(rows, q + r, dim, tiles, keys, scales, accumulate, s + r * stride, stride);
    for (; r < rows; r++)
        score_rows<Dtype, 1>(rows, q + r, dim, tiles, keys, scales, accumulate, s + r * stride, stride);
}

void scores(int dtype, int rows, const float* q, int dim, int tiles, const void* const* keys,
            const float* const* scales, bool accumulate, float* s, int64_t stride) {
    switch (dtype) {
        case DT_F32: return scores_of<DT_F32>(rows, q, dim, tiles, keys, scales, accumulate, s, stride);
        case DT_BF16: return scores_of<DT_BF16>(rows, q, dim, tiles, keys, scales, accumulate, s, stride);
        case DT_F16: return scores_of<DT_F16>(rows, q, dim, tiles, keys, scales, accumulate, s, stride);
        default: return scores_of<DT_I8>(rows, q, dim, tiles, keys, scales, accumulate, s, stride);
    }
}

template <int Dtype, int Rows, int Dims>
inline void mix_block(const float* p, int64_t stride, int d, int tiles, const void* const* values, float* out,
                      int64_t out_stride) {
    F acc[Rows][Dims];
    UNROLL for (int r = 0; r < Rows; r++)
        UNROLL for (int j = 0; j < Dims; j++) acc[r][j] = zero();
    for (int t = 0; t < tiles; t++) {
        F v[Dims];
        UNROLL for (int j = 0; j < Dims; j++) v[j] = load_cached<Dtype>(values[t], d + j);
        UNROLL for (int r = 0; r < Rows; r++) {
            const F weight = load(p + r * stride + 16 * t);
            UNROLL for (int j = 0; j < Dims; j++) fma_into(acc[r][j], weight, v[j]);
        }
    }
    if constexpr (Rows == 4 && Dims == 4) {
        float sums[16];
        store(sums, sums16(&acc[0][0]));
        for (int r = 0; r < 4; r++) std::memcpy(out + r * out_stride + d, sums + 4 * r, 16);
        return;
    }
    for (int r = 0; r < Rows; r++)
        for (int j = 0; j < Dims; j++) out[r * out_stride + d + j] = reduce_add(acc[r][j]);
}

template <int Dtype, int Rows>
inline void mix_rows(const float* p, int64_t stride, int dim, int tiles, const void* const* values, float* out,
                     int64_t out_stride) {
    int d = 0;
    for (; d + kMixDims <= dim; d += kMixDims)
        mix_block<Dtype, Rows, kMixDims>(p, stride, d, tiles, values, out, out_stride);
    for (; d < dim; d++) mix_block<Dtype, Rows, 1>(p, stride, d, tiles, values, out, out_stride);
}

template <int Dtype>
void mix_of(int rows, const float* p, int64_t stride, int dim, int tiles, const void* const* values, float* out,
            int64_t out_stride) {
    int r = 0;
    for (; r + kMixRows <= rows; r += kMixRows)
        mix_rows<Dtype, kMixRows>(p + r * stride, stride, dim, tiles, values, out + r * out_stride, out_stride);
    for (; r < rows; r++)
        mix_rows<Dtype, 1>(p + r * stride, stride, dim, tiles, values, out + r * out_stride, out_stride);
}

void mix(int dtype, int rows, const float* p, int64_t stride, int dim, int tiles, const void* const* values, float* out,
         int64_t out_stride) {
    switch (dtype) {
        case DT_F32: return mix_of<DT_F32>(rows, p, stride, dim, tiles, values, out, out_stride);
        case DT_BF16: return mix_of<DT_BF16>(rows, p, stride, dim, tiles, values, out, out_stride);
        case DT_F16: return mix_of<DT_F16>(rows, p, stride, dim, tiles, values, out, out_stride);
        default: return mix_of<DT_I8>(rows, p, stride, dim, tiles, values, out, out_stride);
    }
}

}  // namespace
}  // namespace smidgen
