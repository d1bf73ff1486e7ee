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
    for (int t = 0; t < Tiles; t++)
        for (int r = 0; r < Rows; r++) acc[t][r] = zero();
    for (int d = 0; d < dim; d++) {
        F k[Tiles];
        for (int t = 0; t < Tiles; t++) k[t] = load_cached<Dtype>(keys[t], d);
        for (int r = 0; r < Rows; r++) {
            F x = set1(q[d * all_rows + r]);
            for (int t = 0; t < Tiles; t++) acc[t][r] = fma(k[t], x, acc[t][r]);
        }
    }
    for (int t = 0; t < Tiles; t++)
        for (int r = 0; r < Rows; r++) {
            F value = acc[t][r];
            if constexpr (Dtype == DT_I8) value = mul(value, load(scales[t]));
            float* target = s + r * stride + 16 * t;
            store(target, accumulate ? add(value, load(target)) : value);
        }
}

template <int Dtype, int Rows>
inline void score_rows(int all_rows, const float* q, int dim, int tiles, const void* const* keys,
                       const float* const* scales, bool accumulate, float* s, int64_t stride) {
    constexpr int kMany = Rows >= 8 ? 1 : kScoreTiles;
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
    for (int r = 0; r < Rows; r++)
        for (int j = 0; j < Dims; j++) acc[r][j] = zero();
    for (int t = 0; t < tiles; t++) {
        F v[Dims];
        for (int j = 0; j < Dims; j++) v[j] = load_cached<Dtype>(values[t], d + j);
        for (int r = 0; r < Rows; r++) {
            F weight = load(p + r * stride + 16 * t);
            for (int j = 0; j < Dims; j++) acc[r][j] = fma(weight, v[j], acc[r][j]);
        }
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
