// Products with blocks of tokens: prompts and many sequences at once. Weights are unpacked to bytes once for all blocks.
#pragma once
#include "kernels_matvec.h"

namespace smidgen {
namespace {

// Tokens of the block that begins at `token`: whole blocks, then the rest rounded up to four.
inline int block_size(int tokens, int token) {
    const int left = tokens - token;
    return left >= kBlock ? kBlock : (left + 3) & ~3;
}

void pack_values(const Inputs& x, int token, int count, int columns) {
    const int size = count >= kBlock ? kBlock : (count + 3) & ~3;
    float* out = x.block_values + token * x.stride;
    for (int n = 0; n < size; n++) {
        const float* row = x.values + (token + n) * x.stride;
        for (int c = 0; c < columns; c++) out[int64_t(c) * size + n] = n < count ? row[c] : 0.0f;
    }
}

void pack_codes(const Inputs& x, int token, int count, int columns) {
    const int size = count >= kBlock ? kBlock : (count + 3) & ~3;
    int8_t* out = x.block_codes + token * x.stride;
    int32_t* sums = x.block_sums + token * (x.stride / kSumGroup);
    for (int n = 0; n < size; n++) {
        const int8_t* row = x.codes + (token + n) * x.stride;
        for (int c = 0; c < columns; c += 4) {
            int32_t four = 0;
            if (n < count) std::memcpy(&four, row + c, 4);
            std::memcpy(out + (int64_t(c / 4) * size + n) * 4, &four, 4);
        }
        const int32_t* own = x.sums + (token + n) * (x.stride / kSumGroup);
        for (int g = 0; g < columns / kSumGroup; g++) sums[int64_t(g) * size + n] = n < count ? own[g] : 0;
    }
}

// A tile of nibbles or ternary codes as bytes, in the layout of INT8 (without its 128).
inline void unpack_tile(const Matrix& m, int tile, uint8_t* out) {
    const uint8_t* w = m.data + tile * m.tile_bytes;
    if (m.format == FMT_INT4) {
        for (int c = 0; c < m.padded; c += 32, out += 512)
            for (int j = 0; j < 4; j++, w += 64) {
                B b = load_bytes(w);
                store_bytes(out + 64 * j, masked<0x0f>(b));
                store_bytes(out + 64 * (j + 4), shifted<4, 0x0f>(b));
            }
        return;
    }
    for (int c = 0; c < m.padded; c += 16, out += 256, w += 64) {
        B b = load_bytes(w);
        store_bytes(out, masked<3>(b));
        store_bytes(out + 64, shifted<2, 3>(b));
        store_bytes(out + 128, shifted<4, 3>(b));
        store_bytes(out + 192, shifted<6, 3>(b));
    }
}

template <int Tiles, int N>
inline void gemm_codes(const Matrix& m, int tile, const uint8_t* const* w, int bias, const Inputs& x, int token, int count,
                       float* y, int64_t y_stride) {
    const int8_t* codes = x.block_codes + token * x.stride;
    const int32_t* sums = x.block_sums + token * (x.stride / kSumGroup);
    I acc[Tiles][N];
    for (int n = 0; n < N; n++) {
        int total = 0;
        for (int g = 0; g < m.padded / kSumGroup; g++) total += sums[g * N + n];
        for (int t = 0; t < Tiles; t++) acc[t][n] = set1i(-bias * total);
    }
    const bool flip = kSignedDot && m.format == FMT_INT8;
    for (int c = 0; c < m.padded / 4; c++, codes += 4 * N) {
        B b[Tiles];
        for (int t = 0; t < Tiles; t++) {
            b[t] = load_bytes(w[t] + int64_t(c) * 64);
            if (flip) b[t] = for_dot(b[t]);
        }
        for (int n = 0; n < N; n++)
            for (int t = 0; t < Tiles; t++) acc[t][n] = dot(acc[t][n], b[t], codes + 4 * n);
    }
    for (int t = 0; t < Tiles; t++) {
        const F scale = load(m.row_scale + (tile + t) * kTile);
        for (int n = 0; n < N && n < count; n++)
            store(y + (token + n) * y_stride + (tile + t) * kTile,
                  mul(mul(to_float(acc[t][n]), scale), set1(x.scale[token + n])));
    }
}

// Tokens first ... first + N - 1 of a block of `size`: half a block, as each token has a total beside its sum of a group.
template <int Tiles, int N, bool Zeros>
inline void gemm_grouped(const Matrix& m, int tile, const uint8_t* const* packed, const Inputs& x, int token, int size,
                         int first, int count, float* y, int64_t y_stride) {
    const int8_t* codes = x.block_codes + token * x.stride + 4 * first;
    const int32_t* sums = x.block_sums + token * (x.stride / kSumGroup) + first;
    const uint8_t *w[Tiles], *scales[Tiles], *zeros[Tiles];
    F total[Tiles][N];
    for (int t = 0; t < Tiles; t++) {
        w[t] = packed[t];
        scales[t] = m.data + (tile + t) * m.tile_bytes + int64_t(m.groups) * m.group * 8;
        zeros[t] = scales[t] + int64_t(m.groups) * 16 * m.scale_bytes;
        for (int n = 0; n < N; n++) total[t][n] = zero();
    }
    const int per_group = m.group / kSumGroup;
    for (int g = 0; g < m.groups; g++) {
        I acc[Tiles][N];
        int offset[N];  // minus the sum of a token's codes, times what stands for zero where that is the same everywhere
        for (int n = 0; n < N; n++) {
            int sum = sums[g * per_group * size + n];
            for (int s = 1; s < per_group; s++) sum += sums[(g * per_group + s) * size + n];
            offset[n] = Zeros ? -sum : -8 * sum;
        }
        for (int t = 0; t < Tiles; t++) {
            const I point = Zeros ? load_u8(zeros[t] + g * 16) : set1i(1);
            for (int n = 0; n < N; n++) acc[t][n] = Zeros ? muli(point, set1i(offset[n])) : set1i(offset[n]);
        }
        for (int c = 0; c < m.group / 4; c++, codes += 4 * size) {
            B b[Tiles];
            for (int t = 0; t < Tiles; t++) b[t] = load_bytes(w[t]), w[t] += 64;
            for (int n = 0; n < N; n++)
                for (int t = 0; t < Tiles; t++) acc[t][n] = dot(acc[t][n], b[t], codes + 4 * n);
        }
        for (int t = 0; t < Tiles; t++) {
            const F scale = m.scale_bytes == 2 ? load_scales<2>(scales[t] + g * 32) : load_scales<4>(scales[t] + g * 64);
            for (int n = 0; n < N; n++) total[t][n] = fma(to_float(acc[t][n]), scale, total[t][n]);
        }
    }
    for (int t = 0; t < Tiles; t++)
        for (int n = 0; n < N && first + n < count; n++)
            store(y + (token + first + n) * y_stride + (tile + t) * kTile, mul(total[t][n], set1(x.scale[token + first + n])));
}

template <int Format, int Tiles, int N>
inline void gemm_floats(const Matrix& m, int tile, const Inputs& x, int token, int count, float* y, int64_t y_stride) {
    const float* values = x.block_values + token * x.stride;
    const uint8_t* w[Tiles];
    for (int t = 0; t < Tiles; t++) w[t] = m.data + (tile + t) * m.tile_bytes;
    F acc[Tiles][N];
    for (int t = 0; t < Tiles; t++)
        for (int n = 0; n < N; n++) acc[t][n] = zero();
    for (int c = 0; c < m.padded; c += 2, values += 2 * N) {
        F even[Tiles], odd[Tiles];
        for (int t = 0; t < Tiles; t++) {
            if constexpr (Format == FMT_F32) {
                even[t] = as_f32(load_bytes(w[t])), odd[t] = as_f32(load_bytes(w[t] + 64));
                w[t] += 128;
            } else {
                B b = load_bytes(w[t]);
                even[t] = even_bf16(b), odd[t] = odd_bf16(b);
                w[t] += 64;
            }
        }
        for (int n = 0; n < N; n++) {
            F v = set1(values[n]);
            for (int t = 0; t < Tiles; t++) acc[t][n] = fma(even[t], v, acc[t][n]);
        }
        for (int n = 0; n < N; n++) {
            F v = set1(values[N + n]);
            for (int t = 0; t < Tiles; t++) acc[t][n] = fma(odd[t], v, acc[t][n]);
        }
    }
    for (int t = 0; t < Tiles; t++)
        for (int n = 0; n < N && n < count; n++) store(y + (token + n) * y_stride + (tile + t) * kTile, acc[t][n]);
}

template <int Tiles, int N>
inline void gemm_block(const Matrix& m, int tile, const uint8_t* const* w, int bias, const Inputs& x, int token, int count,
                       float* y, int64_t y_stride) {
    switch (m.format) {
        case FMT_F32: return gemm_floats<FMT_F32, Tiles, N>(m, tile, x, token, count, y, y_stride);
        case FMT_BF16: return gemm_floats<FMT_BF16, Tiles, N>(m, tile, x, token, count, y, y_stride);
        case FMT_INT4:
            for (int first = 0; first < count; first += N / 2) {
                if (m.has_zeros) gemm_grouped<Tiles, N / 2, true>(m, tile, w, x, token, N, first, count, y, y_stride);
                else gemm_grouped<Tiles, N / 2, false>(m, tile, w, x, token, N, first, count, y, y_stride);
            }
            return;
        default: return gemm_codes<Tiles, N>(m, tile, w, bias, x, token, count, y, y_stride);
    }
}

template <int Tiles>
inline void gemm_tiles(const Matrix& m, int tile, const uint8_t* const* w, int bias, const Inputs& x, int tokens, float* y,
                       int64_t y_stride) {
    for (int token = 0; token < tokens; token += kBlock) {
        const int size = block_size(tokens, token), count = smaller(kBlock, tokens - token);
        if (size == kBlock)
            gemm_block<Tiles, kBlock>(m, tile, w, bias, x, token, count, y, y_stride);
        else if (size == 4)
            gemm_block<Tiles, 4>(m, tile, w, bias, x, token, count, y, y_stride);
        else if constexpr (kBlock > 8)
            gemm_block<Tiles, 8>(m, tile, w, bias, x, token, count, y, y_stride);
    }
}

void gemm(const Matrix& m, int first, int last, const Inputs& x, int tokens, float* y, int64_t y_stride,
          uint8_t* scratch) {
    const bool codes = m.format >= FMT_INT8;
    if ((codes && m.activation != ACT_INT8) || m.block_scale) {  // rare combinations: row by row
        matvec(m, first, last, x, 0, tokens, y, y_stride);
        return;
    }
    const bool unpack = codes && m.format != FMT_INT8;
    const int bias = m.format == FMT_TERNARY ? 1 : kSignedDot ? 0 : 128;
    for (int tile = first; tile < last;) {
        const int tiles = smaller(kTilesAtOnce, last - tile);
        const uint8_t* w[2];
        for (int t = 0; t < tiles; t++) {
            w[t] = m.data + (tile + t) * m.tile_bytes;
            if (!unpack) continue;
            unpack_tile(m, tile + t, scratch + int64_t(t) * m.padded * kTile);
            w[t] = scratch + int64_t(t) * m.padded * kTile;
        }
        if (tiles == 1)
            gemm_tiles<1>(m, tile, w, bias, x, tokens, y, y_stride);
        else
            gemm_tiles<kTilesAtOnce>(m, tile, w, bias, x, tokens, y, y_stride);
        tile += tiles;
    }
}

}  // namespace
}  // namespace smidgen
