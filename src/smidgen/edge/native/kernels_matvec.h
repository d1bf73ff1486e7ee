// Products of packed matrices with one to four token rows: what decoding spends its time on.
#pragma once
#include "kernels.h"

namespace smidgen {
namespace {

constexpr int kAhead = 2048;      // bytes that the kernels ask for in advance
constexpr int kTilesAhead = 4;    // the same for scales of rows
constexpr int kHighShift = kSignedDot ? 0 : 4;  // unsigned dots take high nibbles where they are: 16 times too large

template <int ScaleBytes>
inline F load_scales(const uint8_t* p) {
    if constexpr (ScaleBytes == 2) return load_bf16(reinterpret_cast<const uint16_t*>(p));
    return load(reinterpret_cast<const float*>(p));
}

inline B high_nibbles(B b) {
    if constexpr (kSignedDot) return shifted<4, 0x0f>(b);
    return masked<0xf0>(b);
}

// Plane i of ternary codes; for unsigned dots 4^i times too large.
template <int Plane>
inline B plane(B b) {
    if constexpr (kSignedDot) return shifted<2 * Plane, 3>(b);
    return masked<(3 << (2 * Plane)) & 0xff>(b);
}
template <int Plane>
inline I plane_sum(I a) {
    if constexpr (kSignedDot || Plane == 0) return a;
    return shift_right<2 * Plane>(a);
}

inline int sum_range(const int32_t* sums, int first, int last) {
    int total = 0;
    for (int i = first; i < last; i++) total += sums[i];
    return total;
}

template <int N>
inline void int8_tile(const Matrix& m, int tile, const Inputs& x, int token, const int* sums, float* y, int64_t y_stride) {
    const uint8_t* w = m.data + tile * m.tile_bytes;
    prefetch(reinterpret_cast<const uint8_t*>(m.row_scale + (tile + kTilesAhead) * kTile));
    const int8_t* codes[N];
    I acc[N][4];
    for (int n = 0; n < N; n++) {
        codes[n] = x.codes + (token + n) * x.stride;
        acc[n][0] = set1i(kSignedDot ? 0 : -128 * sums[n]);
        for (int j = 1; j < 4; j++) acc[n][j] = set1i(0);
    }
    for (int c = 0; c < m.padded; c += 16, w += 256) {
        prefetch(w + kAhead), prefetch(w + kAhead + 64), prefetch(w + kAhead + 128), prefetch(w + kAhead + 192);
        for (int j = 0; j < 4; j++) {
            B b = for_dot(load_bytes(w + 64 * j));
            for (int n = 0; n < N; n++) acc[n][j] = dot(acc[n][j], b, codes[n] + c + 4 * j);
        }
    }
    const F scale = load(m.row_scale + tile * kTile);
    for (int n = 0; n < N; n++) {
        I total = addi(addi(acc[n][0], acc[n][1]), addi(acc[n][2], acc[n][3]));
        store(y + n * y_stride + tile * kTile, mul(mul(to_float(total), scale), set1(x.scale[token + n])));
    }
}

template <int N, int ScaleBytes, bool Zeros>
inline void int4_tile(const Matrix& m, int tile, const Inputs& x, int token, float* y, int64_t y_stride) {
    const uint8_t* w = m.data + tile * m.tile_bytes;
    const uint8_t* scales = w + int64_t(m.groups) * m.group * 8;
    const uint8_t* zeros = scales + int64_t(m.groups) * 16 * ScaleBytes;
    const int per_group = m.group / kSumGroup;
    F acc[N];
    for (int n = 0; n < N; n++) acc[n] = zero();
    const int8_t* codes = x.codes + token * x.stride;
    const int32_t* sums = x.sums + token * (x.stride / kSumGroup);
    const int64_t sum_stride = x.stride / kSumGroup;
    for (int g = 0; g < m.groups; g++) {
        I low[N], high[N];
        for (int n = 0; n < N; n++) {
            const int total = sum_range(sums + n * sum_stride, g * per_group, (g + 1) * per_group);
            if constexpr (Zeros)
                low[n] = subi(set1i(0), muli(load_u8(zeros + g * 16), set1i(total)));
            else
                low[n] = set1i(-8 * total);
            high[n] = set1i(0);
        }
        prefetch(scales + m.tile_bytes + g * 16 * ScaleBytes);  // of the next tile: they lie behind its codes
        for (int s = 0; s < per_group; s++, w += 256) {
            prefetch(w + kAhead), prefetch(w + kAhead + 64), prefetch(w + kAhead + 128), prefetch(w + kAhead + 192);
            for (int j = 0; j < 4; j++) {
                B b = load_bytes(w + 64 * j);
                B first = masked<0x0f>(b), second = high_nibbles(b);
                for (int n = 0; n < N; n++) {
                    const int8_t* c = codes + n * x.stride + (g * per_group + s) * 32 + 4 * j;
                    low[n] = dot(low[n], first, c);
                    high[n] = dot(high[n], second, c + 16);
                }
            }
        }
        const F scale = load_scales<ScaleBytes>(scales + g * 16 * ScaleBytes);
        for (int n = 0; n < N; n++) {
            I total = addi(low[n], kSignedDot ? high[n] : shift_right<4>(high[n]));
            acc[n] = fma(to_float(total), scale, acc[n]);
        }
    }
    for (int n = 0; n < N; n++)
        store(y + n * y_stride + tile * kTile, mul(acc[n], set1(x.scale[token + n])));
}

template <int N>
inline void ternary_tile(const Matrix& m, int tile, const Inputs& x, int token, const int* sums, float* y, int64_t y_stride) {
    const uint8_t* w = m.data + tile * m.tile_bytes;
    prefetch(reinterpret_cast<const uint8_t*>(m.row_scale + (tile + kTilesAhead) * kTile));
    I acc[N][4];
    const int8_t* codes[N];
    for (int n = 0; n < N; n++) {
        codes[n] = x.codes + (token + n) * x.stride;
        acc[n][0] = set1i(-sums[n]);
        for (int j = 1; j < 4; j++) acc[n][j] = set1i(0);
    }
    for (int c = 0; c < m.padded; c += 16, w += 64) {
        prefetch(w + kAhead);
        B b = load_bytes(w);
        B p0 = plane<0>(b), p1 = plane<1>(b), p2 = plane<2>(b), p3 = plane<3>(b);
        for (int n = 0; n < N; n++) {
            acc[n][0] = dot(acc[n][0], p0, codes[n] + c);
            acc[n][1] = dot(acc[n][1], p1, codes[n] + c + 4);
            acc[n][2] = dot(acc[n][2], p2, codes[n] + c + 8);
            acc[n][3] = dot(acc[n][3], p3, codes[n] + c + 12);
        }
    }
    const F scale = load(m.row_scale + tile * kTile);
    for (int n = 0; n < N; n++) {
        I total = addi(addi(acc[n][0], plane_sum<1>(acc[n][1])), addi(plane_sum<2>(acc[n][2]), plane_sum<3>(acc[n][3])));
        store(y + n * y_stride + tile * kTile, mul(mul(to_float(total), scale), set1(x.scale[token + n])));
    }
}

// Five codes a byte. Where a dot product is one instruction, no digit is taken out: with q the byte before a digit and
// q' = 3 q mod 256 behind it, the digit is (3 q - q') / 256, and so is the sum of their products, exactly. Sums modulo
// 2^32 do: 256 times the result fits (plan_matrix). For signed dots q - 128 goes the same way and takes the 1 with it.
template <int N>
inline void base3_tile(const Matrix& m, int tile, const Inputs& x, int token, const int* sums, float* y, int64_t y_stride) {
    const uint8_t* w = m.data + tile * m.tile_bytes;
    prefetch(reinterpret_cast<const uint8_t*>(m.row_scale + (tile + kTilesAhead) * kTile));
    const int8_t* codes[N];
    constexpr int kWays = N <= 2 ? kDigits : 2;  // sums that do not wait for each other
    I before[N][kWays], behind[N][kWays];
    for (int n = 0; n < N; n++) {
        codes[n] = x.codes + (token + n) * x.stride;
        for (int j = 0; j < kWays; j++) before[n][j] = behind[n][j] = set1i(0);
    }
    for (int c = 0; c < m.cols; c += kBase3Columns, w += 64) {
        prefetch(w + kAhead);
        B b = load_bytes(w);
        if constexpr (kDotIsCheap) b = for_dot(b);
        for (int i = 0; i < kDigits; i++) {
            if constexpr (kDotIsCheap) {
                const B next = tripled(b);
                for (int n = 0; n < N; n++) {
                    before[n][i % kWays] = dot(before[n][i % kWays], b, codes[n] + c + 4 * i);
                    behind[n][i % kWays] = dot(behind[n][i % kWays], next, codes[n] + c + 4 * i);
                }
                b = next;
            } else {
                const B d = digit(b);
                for (int n = 0; n < N; n++) before[n][i % kWays] = dot(before[n][i % kWays], d, codes[n] + c + 4 * i);
                b = tripled(b);
            }
        }
    }
    const F scale = load(m.row_scale + tile * kTile);
    for (int n = 0; n < N; n++) {
        for (int j = 1; j < kWays; j++) {
            before[n][0] = addi(before[n][0], before[n][j]);
            behind[n][0] = addi(behind[n][0], behind[n][j]);
        }
        I total = before[n][0];
        if constexpr (kDotIsCheap) total = subi(muli(total, set1i(3)), behind[n][0]);
        if constexpr (!(kDotIsCheap && kSignedDot)) total = subi(total, set1i((kDotIsCheap ? 256 : 1) * sums[n]));
        if constexpr (kDotIsCheap) total = shift_right<8>(total);
        store(y + n * y_stride + tile * kTile, mul(mul(to_float(total), scale), set1(x.scale[token + n])));
    }
}

// Floats: `Format` F32 or BF16, with a scale for each segment of columns where the matrix has block scales.
template <int N, int Format>
inline void float_tile(const Matrix& m, int tile, const Inputs& x, int token, float* y, int64_t y_stride) {
    constexpr int kPer = Format == FMT_F32 ? 1 : 2, kWays = N == 1 ? 2 : 1;
    const uint8_t* w = m.data + tile * m.tile_bytes;
    const float* values[N];
    F total[N];
    for (int n = 0; n < N; n++) values[n] = x.values + (token + n) * x.stride, total[n] = zero();
    const int segments = m.block_scale ? m.groups : 1, length = m.block_scale ? m.group : m.padded;
    for (int g = 0; g < segments; g++) {
        F acc[N][2 * kWays];
        for (int n = 0; n < N; n++)
            for (int j = 0; j < 2 * kWays; j++) acc[n][j] = zero();
        const int last = smaller(m.padded, (g + 1) * length);
        for (int c = g * length; c < last; c += 2 * kWays, w += 128 * kWays / kPer) {
            prefetch(w + kAhead);
            if (kWays == 2 || kPer == 1) prefetch(w + kAhead + 64);
            for (int j = 0; j < kWays; j++) {
                F even, odd;
                if constexpr (Format == FMT_F32) {
                    even = as_f32(load_bytes(w + 128 * j)), odd = as_f32(load_bytes(w + 128 * j + 64));
                } else {
                    B b = load_bytes(w + 64 * j);
                    even = even_bf16(b), odd = odd_bf16(b);
                }
                for (int n = 0; n < N; n++) {
                    acc[n][2 * j] = fma(even, set1(values[n][c + 2 * j]), acc[n][2 * j]);
                    acc[n][2 * j + 1] = fma(odd, set1(values[n][c + 2 * j + 1]), acc[n][2 * j + 1]);
                }
            }
        }
        const F scale = set1(m.block_scale ? m.block_scale[int64_t(tile) * m.groups + g] : 1.0f);
        for (int n = 0; n < N; n++) {
            F sum = add(acc[n][0], acc[n][1]);
            if constexpr (kWays == 2) sum = add(sum, add(acc[n][2], acc[n][3]));
            total[n] = fma(sum, scale, total[n]);
        }
    }
    for (int n = 0; n < N; n++) store(y + n * y_stride + tile * kTile, total[n]);
}

// Codes times floats, for inputs that are not to be rounded: acc[n] += code * x[n], the code made a float once.
template <int N>
inline void float_term(F code, const float* const* x, int c, F* acc) {
    for (int n = 0; n < N; n++) acc[n] = fma(code, set1(x[n][c]), acc[n]);
}
template <int N, int Shift, int Mask>
inline void code_term(B b, int offset, const float* const* x, int c, F* acc) {
    float_term<N>(to_float(subi(field<Shift, Mask>(b), set1i(offset))), x, c, acc);
}

// Four codes of each lane, `Bits` wide and 8 bits apart, from bit `Shift` on.
template <int N, int Shift, int Bits>
inline void four_terms(B b, int offset, const float* const* x, int c, F* even, F* odd) {
    constexpr int mask = (1 << Bits) - 1;
    code_term<N, Shift, mask>(b, offset, x, c, even), code_term<N, Shift + 8, mask>(b, offset, x, c + 1, odd);
    code_term<N, Shift + 16, mask>(b, offset, x, c + 2, even), code_term<N, Shift + 24, mask>(b, offset, x, c + 3, odd);
}

template <int N>
inline void base3_float(B b, const float* const* x, int c, F* even, F* odd) {
    for (int i = 0; i < kDigits; i++, c += 4, b = tripled(b)) four_terms<N, 0, 2>(digit(b), 1, x, c, even, odd);
}

template <int N>
inline void int4_float(B b, F zero_point, const float* const* x, int c, F* even, F* odd) {
    auto term = [&](F code, int column, F* acc) { float_term<N>(sub(code, zero_point), x, column, acc); };
    term(nibble<0>(b), c, even), term(nibble<8>(b), c + 1, odd);
    term(nibble<16>(b), c + 2, even), term(nibble<24>(b), c + 3, odd);
    term(nibble<4>(b), c + 16, even), term(nibble<12>(b), c + 17, odd);
    term(nibble<20>(b), c + 18, even), term(nibble<28>(b), c + 19, odd);
}

template <int N>
inline void codes_with_floats(const Matrix& m, int tile, const Inputs& in, int token, float* y, int64_t y_stride) {
    const uint8_t* w = m.data + tile * m.tile_bytes;
    const float* x[N];
    F sums[2 * N];  // two of each token where there are few: they do not wait for each other
    F *even = sums, *odd = N < 4 ? sums + N : sums;
    for (int n = 0; n < N; n++) x[n] = in.values + (token + n) * in.stride, sums[n] = sums[N + n] = zero();
    auto sum = [&](int n) { return N < 4 ? add(even[n], odd[n]) : even[n]; };
    auto finish = [&](int n, F result) { store(y + n * y_stride + tile * kTile, result); };
    if (m.format == FMT_INT4) {
        const uint8_t* scales = w + int64_t(m.groups) * m.group * 8;
        const uint8_t* zeros = scales + int64_t(m.groups) * 16 * m.scale_bytes;
        F total[N];
        for (int n = 0; n < N; n++) total[n] = zero();
        for (int g = 0; g < m.groups; g++) {
            const F point = m.has_zeros ? to_float(load_u8(zeros + g * 16)) : set1(8.0f);
            for (int c = g * m.group; c < (g + 1) * m.group; c += 32)
                for (int j = 0; j < 4; j++, w += 64) {
                    prefetch(w + kAhead);
                    int4_float<N>(load_bytes(w), point, x, c + 4 * j, even, odd);
                }
            const F scale = m.scale_bytes == 2 ? load_scales<2>(scales + g * 32) : load_scales<4>(scales + g * 64);
            for (int n = 0; n < N; n++) total[n] = fma(sum(n), scale, total[n]), even[n] = odd[n] = zero();
        }
        for (int n = 0; n < N; n++) finish(n, total[n]);
        return;
    }
    if (m.format == FMT_INT8) {
        for (int c = 0; c < m.padded; c += 4, w += 64) four_terms<N, 0, 8>(load_bytes(w), 128, x, c, even, odd);
    } else if (m.format == FMT_TERNARY) {
        for (int c = 0; c < m.padded; c += 16, w += 64) {
            const B b = load_bytes(w);
            four_terms<N, 0, 2>(b, 1, x, c, even, odd), four_terms<N, 2, 2>(b, 1, x, c + 4, even, odd);
            four_terms<N, 4, 2>(b, 1, x, c + 8, even, odd), four_terms<N, 6, 2>(b, 1, x, c + 12, even, odd);
        }
    } else {
        for (int c = 0; c < m.cols; c += kBase3Columns, w += 64) base3_float<N>(load_bytes(w), x, c, even, odd);
    }
    for (int n = 0; n < N; n++) finish(n, mul(sum(n), load(m.row_scale + tile * kTile)));
}

template <int N>
inline void matvec_tokens(const Matrix& m, int first, int last, const Inputs& x, int token, float* y, int64_t y_stride) {
    if (m.format >= FMT_INT8 && m.activation != ACT_INT8) {
        for (int tile = first; tile < last; tile++) codes_with_floats<N>(m, tile, x, token, y, y_stride);
        return;
    }
    int sums[N];  // of all codes of a token
    if (m.row_scale)
        for (int n = 0; n < N; n++)
            sums[n] = sum_range(x.sums + (token + n) * (x.stride / kSumGroup), 0, m.padded / kSumGroup);
    for (int tile = first; tile < last; tile++) {
        switch (m.format) {
            case FMT_F32: float_tile<N, FMT_F32>(m, tile, x, token, y, y_stride); break;
            case FMT_BF16: float_tile<N, FMT_BF16>(m, tile, x, token, y, y_stride); break;
            case FMT_INT8: int8_tile<N>(m, tile, x, token, sums, y, y_stride); break;
            case FMT_TERNARY: ternary_tile<N>(m, tile, x, token, sums, y, y_stride); break;
            case FMT_BASE3: base3_tile<N>(m, tile, x, token, sums, y, y_stride); break;
            default:
                if (m.has_zeros && m.scale_bytes == 2) int4_tile<N, 2, true>(m, tile, x, token, y, y_stride);
                else if (m.has_zeros) int4_tile<N, 4, true>(m, tile, x, token, y, y_stride);
                else if (m.scale_bytes == 2) int4_tile<N, 2, false>(m, tile, x, token, y, y_stride);
                else int4_tile<N, 4, false>(m, tile, x, token, y, y_stride);
        }
    }
}

void matvec(const Matrix& m, int first, int last, const Inputs& x, int token, int count, float* y, int64_t y_stride) {
    int n = 0;
    for (; n + 4 <= count; n += 4) matvec_tokens<4>(m, first, last, x, token + n, y + n * y_stride, y_stride);
    for (; n + 2 <= count; n += 2) matvec_tokens<2>(m, first, last, x, token + n, y + n * y_stride, y_stride);
    for (; n < count; n++) matvec_tokens<1>(m, first, last, x, token + n, y + n * y_stride, y_stride);
}

}  // namespace
}  // namespace smidgen
