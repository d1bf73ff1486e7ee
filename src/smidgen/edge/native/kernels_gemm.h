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
    const int size = block_size(count, 0);
    transpose_words(reinterpret_cast<const uint8_t*>(x.values + token * x.stride), x.stride * 4, count, columns, size,
                    reinterpret_cast<uint8_t*>(x.block_values + token * x.stride));
}

constexpr int kNibbleZero = 8;  // the nibble that stands for zero where a matrix has no zero points

// Sums of codes of infinity overflow; their scale makes the result one that is no number.
inline int32_t times_zero(int32_t sum) { return int32_t(uint32_t(sum) * uint32_t(-kNibbleZero)); }

void pack_codes(const Inputs& x, int token, int count, int columns) {
    const int size = block_size(count, 0);
    const int64_t sums = x.stride / kSumGroup;
    transpose_words(reinterpret_cast<const uint8_t*>(x.codes + token * x.stride), x.stride, count, columns / 4, size,
                    reinterpret_cast<uint8_t*>(x.block_codes + token * x.stride));
    for (int g = 0; g < columns / kSumGroup; g++)
        for (int n = 0; n < size; n++)
            x.block_sums[token * sums + int64_t(g) * size + n] = n < count ? times_zero(x.sums[(token + n) * sums + g]) : 0;
}

constexpr int kColumnsAtOnce = 4 * kStepsAtOnce;  // of codes, written out

// Kernels that fill the registers: compilers spill them where one is compiled into another.
#define APART __attribute__((noinline))

// The weights that come next, asked for while the present ones are multiplied: a piece for each block of tokens.
struct Ahead {
    const uint8_t *one, *other;
    int64_t step;
    void ask() {
        prefetch_far(one), prefetch_far(other);
        one += step, other += step;
    }
};

#if defined(SMIDGEN_PAIRS)
void pack_pairs(const Inputs& x, int token, int count, int columns) {
    transpose_pairs(x.values + token * x.stride, x.stride, count, columns, block_size(count, 0), x.block_pairs + token * x.stride * 2);
}
constexpr auto kPackPairs = pack_pairs;

template <int Tiles, int N>
APART void gemm_pairs(const Matrix& m, int tile, const uint8_t* const* panels, const Inputs& x, int token, int count,
                       Ahead ahead, float* y, int64_t y_stride) {
    const uint8_t* pairs = x.block_pairs + token * x.stride * 2;
    const uint8_t* w[Tiles];
    F acc[Tiles][N];
    UNROLL for (int t = 0; t < Tiles; t++) {
        w[t] = panels[t];
        UNROLL for (int n = 0; n < N; n++) acc[t][n] = zero();
    }
    for (int c = 0; c < m.padded; c += 2, pairs += 4 * N) {
        B b[Tiles];
        UNROLL for (int t = 0; t < Tiles; t++) b[t] = load_bytes(w[t]), w[t] += 64;
        UNROLL for (int n = 0; n < N; n++) {
            UNROLL for (int t = 0; t < Tiles; t++) dot_pairs(acc[t][n], b[t], pairs + 4 * n);
        }
        ahead.ask();
    }
    UNROLL for (int n = 0; n < N; n++) {
        if (n >= count) break;
        float* to = y + (token + n) * y_stride + tile * kTile;
        UNROLL for (int t = 0; t < Tiles; t++) store(to + t * kTile, acc[t][n]);
    }
}
#elif defined(SMIDGEN_SHORTS)
void pack_pairs(const Inputs& x, int token, int count, int columns) {
    shorts_of_inputs(x.values + token * x.stride, x.stride, count, columns, block_size(count, 0), x.block_pairs + token * x.stride * 2,
                     x.pair_scales + token * (x.stride / kPairGroup));
}
constexpr auto kPackPairs = pack_pairs;

// Tokens first ... first + N - 1 of a block of `size`, as gemm_grouped.
template <int Tiles, int N>
APART void gemm_shorts(const Matrix& m, int tile, const uint8_t* const* panels, const Inputs& x, int token, int size,
                       int first, int count, Ahead ahead, float* y, int64_t y_stride) {
    const uint8_t* pairs = x.block_pairs + token * x.stride * 2 + 4 * first;
    const float* input_scales = x.pair_scales + token * (x.stride / kPairGroup) + first;
    const uint8_t* w[Tiles];
    const float* scales[Tiles];
    F total[Tiles][N];
    UNROLL for (int t = 0; t < Tiles; t++) {
        w[t] = panels[t], scales[t] = reinterpret_cast<const float*>(w[t] + int64_t(m.padded) * 32);
        UNROLL for (int n = 0; n < N; n++) total[t][n] = zero();
    }
    for (int c = 0; c < m.padded; c += kPairGroup, input_scales += size) {
        I acc[Tiles][N];
        UNROLL for (int n = 0; n < N; n++) {
            UNROLL for (int t = 0; t < Tiles; t++) acc[t][n] = set1i(0);
        }
        for (int i = 0; i < kPairGroup / 2; i += kStepsAtOnce) {
            UNROLL for (int step = 0; step < kStepsAtOnce; step++, pairs += 4 * size) {
                B b[Tiles];
                UNROLL for (int t = 0; t < Tiles; t++) b[t] = load_bytes(w[t]), w[t] += 64;
                UNROLL for (int n = 0; n < N; n++) {
                    UNROLL for (int t = 0; t < Tiles; t++) acc[t][n] = dot_shorts(acc[t][n], b[t], pairs + 4 * n);
                }
            }
            ahead.ask();
        }
        UNROLL for (int t = 0; t < Tiles; t++) {
            const F scale = load(scales[t] + c / kPairGroup * kTile);
            UNROLL for (int n = 0; n < N; n++) fma_into(total[t][n], to_float(acc[t][n]), mul(scale, set1(input_scales[n])));
        }
    }
    UNROLL for (int n = 0; n < N; n++) {
        if (first + n >= count) break;
        float* to = y + (token + first + n) * y_stride + tile * kTile;
        UNROLL for (int t = 0; t < Tiles; t++) store(to + t * kTile, total[t][n]);
    }
}
#else
constexpr void (*kPackPairs)(const Inputs&, int, int, int) = nullptr;
#endif

// A tile of nibbles or ternary codes as bytes, in the layout of INT8 (without its 128). Behind nibbles follow the
// scales as floats and the zero points as int32, [groups, 16] each.
inline void unpack_tile(const Matrix& m, int tile, uint8_t* out) {
    const uint8_t* w = m.data + tile * m.tile_bytes;
    if (m.format == FMT_INT4) {
        for (int c = 0; c < m.padded; c += 32, out += 512)
            for (int j = 0; j < 4; j++, w += 64) {
                B b = load_bytes(w);
                store_bytes(out + 64 * j, masked<0x0f>(b));
                store_bytes(out + 64 * (j + 4), shifted<4, 0x0f>(b));
            }
        for (int g = 0; g < m.groups; g++, out += 64, w += 16 * m.scale_bytes)
            store(reinterpret_cast<float*>(out), m.scale_bytes == 2 ? load_scales<2>(w) : load_scales<4>(w));
        for (int g = 0; m.has_zeros && g < m.groups; g++, out += 64, w += 16)
            store(reinterpret_cast<float*>(out), as_float(load_u8(w)));
        return;
    }
#if defined(SMIDGEN_SHORTS)
    if (m.format == FMT_BF16) return shorts_of_weights(w, m.padded, out);
#endif
    if (m.format == FMT_BASE3) {  // zeros behind the last digits
        const uint8_t* end = out + int64_t(m.padded) * kTile;
        for (int c = 0; c < m.cols; c += kBase3Columns, w += 64) {
            B b = load_bytes(w);
            for (int i = 0; i < kDigits; i++, out += 64, b = tripled(b)) store_bytes(out, digit(b));
        }
        std::memset(out, 0, size_t(end - out));
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
APART void gemm_codes(const Matrix& m, int tile, const uint8_t* const* panels, int bias, const Inputs& x, int token,
                       int count, Ahead ahead, float* y, int64_t y_stride) {
    const int8_t* codes = x.block_codes + token * x.stride;
    const int32_t* sums = x.block_sums + token * (x.stride / kSumGroup);
    const uint8_t* w[Tiles];
    I acc[Tiles][N];
    UNROLL for (int t = 0; t < Tiles; t++) w[t] = panels[t];
    UNROLL for (int n = 0; n < N; n++) {
        int total = 0;
        for (int g = 0; g < m.padded / kSumGroup; g++) total += sums[g * N + n];
        UNROLL for (int t = 0; t < Tiles; t++) acc[t][n] = set1i(bias * (total / kNibbleZero));
    }
    const bool flip = kSignedDot && m.format == FMT_INT8;
    for (int c = 0; c < m.padded; c += kColumnsAtOnce) {
        UNROLL for (int step = 0; step < kStepsAtOnce; step++, codes += 4 * N) {
            B b[Tiles];
            UNROLL for (int t = 0; t < Tiles; t++) {
                b[t] = load_bytes(w[t]), w[t] += 64;
                if (flip) b[t] = for_dot(b[t]);
            }
            UNROLL for (int n = 0; n < N; n++) {
                UNROLL for (int t = 0; t < Tiles; t++) acc[t][n] = dot(acc[t][n], b[t], codes + 4 * n);
            }
        }
        ahead.ask();
    }
    F scale[Tiles];
    UNROLL for (int t = 0; t < Tiles; t++) scale[t] = load(m.row_scale + (tile + t) * kTile);
    UNROLL for (int n = 0; n < N; n++) {
        if (n >= count) break;
        float* to = y + (token + n) * y_stride + tile * kTile;
        UNROLL for (int t = 0; t < Tiles; t++)
            store(to + t * kTile, mul(mul(to_float(acc[t][n]), scale[t]), set1(x.scale[token + n])));
    }
}

// Tokens first ... first + N - 1 of a block of `size`: half a block, as each token has a total beside its sum of a group.
template <int Tiles, int N, bool Zeros>
APART void gemm_grouped(const Matrix& m, int tile, const uint8_t* const* panels, const Inputs& x, int token, int size,
                         int first, int count, Ahead ahead, float* y, int64_t y_stride) {
    const int8_t* codes = x.block_codes + token * x.stride + 4 * first;
    const int32_t* sums = x.block_sums + token * (x.stride / kSumGroup) + first;
    const uint8_t* w[Tiles];
    const float* scales[Tiles];
    const float* zeros[Tiles];  // int32 in disguise
    F total[Tiles][N];
    UNROLL for (int t = 0; t < Tiles; t++) {
        w[t] = panels[t];
        scales[t] = reinterpret_cast<const float*>(w[t] + int64_t(m.padded) * kTile);
        zeros[t] = scales[t] + int64_t(m.groups) * kTile;
        UNROLL for (int n = 0; n < N; n++) total[t][n] = zero();
    }
    const int per_group = m.group / kSumGroup;
    for (int g = 0; g < m.groups; g++, sums += int64_t(per_group) * size) {
        const int32_t* group_sums = sums;
        int32_t several[N];
        if (per_group > 1) {
            for (int n = 0; n < N; n++) several[n] = 0;
            for (int i = 0; i < per_group; i++)
                for (int n = 0; n < N; n++) several[n] += sums[i * size + n];
            group_sums = several;
        }
        I acc[Tiles][N];
        UNROLL for (int n = 0; n < N; n++) {
            UNROLL for (int t = 0; t < Tiles; t++)
                acc[t][n] = Zeros ? muli(as_int(load(zeros[t] + g * kTile)), set1i(group_sums[n] / kNibbleZero)) : set1i(group_sums[n]);
        }
        for (int c = 0; c < m.group; c += kColumnsAtOnce) {
            UNROLL for (int step = 0; step < kStepsAtOnce; step++, codes += 4 * size) {
                B b[Tiles];
                UNROLL for (int t = 0; t < Tiles; t++) b[t] = load_bytes(w[t]), w[t] += 64;
                UNROLL for (int n = 0; n < N; n++) {
                    UNROLL for (int t = 0; t < Tiles; t++) acc[t][n] = dot(acc[t][n], b[t], codes + 4 * n);
                }
            }
        }
        ahead.ask();
        UNROLL for (int t = 0; t < Tiles; t++) {
            const F scale = load(scales[t] + g * kTile);
            UNROLL for (int n = 0; n < N; n++) total[t][n] = fma(to_float(acc[t][n]), scale, total[t][n]);
        }
    }
    UNROLL for (int n = 0; n < N; n++) {
        if (first + n >= count) break;
        float* to = y + (token + first + n) * y_stride + tile * kTile;
        UNROLL for (int t = 0; t < Tiles; t++) store(to + t * kTile, mul(total[t][n], set1(x.scale[token + first + n])));
    }
}

template <int Format, int Tiles, int N>
APART void gemm_floats(const Matrix& m, int tile, const uint8_t* const* panels, const Inputs& x, int token, int count,
                        Ahead ahead, float* y, int64_t y_stride) {
    const float* values = x.block_values + token * x.stride;
    const uint8_t* w[Tiles];
    F acc[Tiles][N];
    UNROLL for (int t = 0; t < Tiles; t++) {
        w[t] = panels[t];
        UNROLL for (int n = 0; n < N; n++) acc[t][n] = zero();
    }
    for (int c = 0; c < m.padded; c += 2, values += 2 * N) {
        F even[Tiles], odd[Tiles];
        UNROLL for (int t = 0; t < Tiles; t++) {
            if constexpr (Format == FMT_F32) {
                even[t] = as_f32(load_bytes(w[t])), odd[t] = as_f32(load_bytes(w[t] + 64));
                w[t] += 128;
            } else {
                B b = load_bytes(w[t]);
                even[t] = even_bf16(b), odd[t] = odd_bf16(b);
                w[t] += 64;
            }
        }
        UNROLL for (int n = 0; n < N; n++) {
            const F v = set1(values[n]);
            UNROLL for (int t = 0; t < Tiles; t++) fma_into(acc[t][n], even[t], v);
        }
        UNROLL for (int n = 0; n < N; n++) {
            const F v = set1(values[N + n]);
            UNROLL for (int t = 0; t < Tiles; t++) fma_into(acc[t][n], odd[t], v);
        }
        ahead.ask();
    }
    UNROLL for (int n = 0; n < N; n++) {
        if (n >= count) break;
        float* to = y + (token + n) * y_stride + tile * kTile;
        UNROLL for (int t = 0; t < Tiles; t++) store(to + t * kTile, acc[t][n]);
    }
}

template <int Tiles, int N>
inline void gemm_block(const Matrix& m, int tile, const uint8_t* const* w, int bias, const Inputs& x, int token, int count,
                       Ahead ahead, float* y, int64_t y_stride) {
    switch (m.format) {
        case FMT_F32: return gemm_floats<FMT_F32, Tiles, N>(m, tile, w, x, token, count, ahead, y, y_stride);
        case FMT_BF16:
#if defined(SMIDGEN_PAIRS)
            if (takes_pairs(m)) return gemm_pairs<Tiles, N>(m, tile, w, x, token, count, ahead, y, y_stride);
#elif defined(SMIDGEN_SHORTS)
            if (takes_pairs(m)) {
                for (int first = 0; first < count; first += N / 2)
                    gemm_shorts<Tiles, N / 2>(m, tile, w, x, token, N, first, count, ahead, y, y_stride);
                return;
            }
#endif
            return gemm_floats<FMT_BF16, Tiles, N>(m, tile, w, x, token, count, ahead, y, y_stride);
        case FMT_INT4:
            for (int first = 0; first < count; first += N / 2) {
                if (m.has_zeros)
                    gemm_grouped<Tiles, N / 2, true>(m, tile, w, x, token, N, first, count, ahead, y, y_stride);
                else
                    gemm_grouped<Tiles, N / 2, false>(m, tile, w, x, token, N, first, count, ahead, y, y_stride);
            }
            return;
        default: return gemm_codes<Tiles, N>(m, tile, w, bias, x, token, count, ahead, y, y_stride);
    }
}

template <int Tiles>
inline void gemm_tiles(const Matrix& m, int tile, const uint8_t* const* w, int bias, const Inputs& x, int tokens, float* y,
                       int64_t y_stride) {
    const int blocks = (tokens + kBlock - 1) / kBlock;
    const int calls = m.format == FMT_F32 || m.format == FMT_BF16 ? m.padded / 2 : m.format == FMT_INT4 ? m.groups : m.padded / kColumnsAtOnce;
    const int64_t piece = m.tile_bytes / blocks;
    Ahead ahead{m.data + (tile + Tiles) * m.tile_bytes, m.data + (tile + 2 * Tiles - 1) * m.tile_bytes, piece / calls + 1};
    for (int token = 0; token < tokens; token += kBlock, ahead.one += piece, ahead.other += piece) {
        const int size = block_size(tokens, token), count = smaller(kBlock, tokens - token);
        if (size == kBlock)
            gemm_block<Tiles, kBlock>(m, tile, w, bias, x, token, count, ahead, y, y_stride);
        else if (size == 4)
            gemm_block<Tiles, 4>(m, tile, w, bias, x, token, count, ahead, y, y_stride);
        else if constexpr (kBlock > 8)
            gemm_block<Tiles, 8>(m, tile, w, bias, x, token, count, ahead, y, y_stride);
    }
}

void gemm(const Matrix& m, int first, int last, const Inputs& x, int tokens, float* y, int64_t y_stride,
          uint8_t* scratch) {
    const bool codes = m.format >= FMT_INT8;
    if ((codes && m.activation != ACT_INT8) || m.block_scale) {  // rare combinations: row by row
        matvec(m, first, last, x, 0, tokens, y, y_stride);
        return;
    }
#if defined(SMIDGEN_SHORTS)
    const bool unpack = (codes && m.format != FMT_INT8) || (m.format == FMT_BF16 && takes_pairs(m));
#else
    const bool unpack = codes && m.format != FMT_INT8;
#endif
    const int bias = is_ternary(m.format) ? 1 : kSignedDot ? 0 : 128;
    const int64_t panel = int64_t(m.padded) * kPanelBytes;
    for (int tile = first; tile < last;) {
        const int tiles = smaller(kTilesAtOnce, last - tile);
        const uint8_t* w[2];
        for (int t = 0; t < tiles; t++) {
            w[t] = m.data + (tile + t) * m.tile_bytes;
            if (!unpack) continue;
            unpack_tile(m, tile + t, scratch + t * panel);
            w[t] = scratch + t * panel;
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
