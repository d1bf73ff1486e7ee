// AVX-512 with AVX512-BF16: weights and inputs of bf16 in pairs, summed in float32.
#pragma once
#include "lanes_avx512.h"

namespace smidgen {
namespace {

#if defined(SMIDGEN_EMULATED)
// What VDPBF16PS is documented to do, for processors without it: the odd product of a pair first, one rounding to nearest
// even for each sum, denormal numbers read and written as zero.
inline float flushed(float x) { return __builtin_fabsf(x) < 0x1p-126f ? __builtin_copysignf(0.0f, x) : x; }
inline float add_product(float sum, uint32_t high_of_one, uint32_t high_of_other) {
    return flushed(__builtin_fmaf(flushed(bits_to_float(high_of_one)), flushed(bits_to_float(high_of_other)), flushed(sum)));
}
inline void dot_pairs(F& acc, B weights, const uint8_t* x) {
    float sums[16];
    uint32_t w[16], pair;
    store(sums, acc);
    store_bytes(reinterpret_cast<uint8_t*>(w), weights);
    std::memcpy(&pair, x, 4);
    for (int i = 0; i < 16; i++) {
        sums[i] = add_product(sums[i], w[i] & 0xffff0000u, pair & 0xffff0000u);
        sums[i] = add_product(sums[i], w[i] << 16, pair << 16);
    }
    acc = load(sums);
}
#else
// acc += the two products of each lane's pair with the pair at x.
inline void dot_pairs(F& acc, B weights, const uint8_t* x) {
    int32_t pair;
    std::memcpy(&pair, x, 4);
    __asm__("vdpbf16ps %2, %1, %0" : "+v"(acc) : "v"(weights), "v"(_mm512_set1_epi32(pair)));
}
#endif

// Sixteen floats as bf16: to nearest, ties to even; NaN stays NaN.
inline __m256i to_bf16(F x) {
    const __m512i bits = as_int(x), odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), set1i(1));
    const __m512i rounded = _mm512_srli_epi32(addi(addi(bits, odd), set1i(0x7fff)), 16);
    const __m512i quiet = _mm512_or_si512(_mm512_srli_epi32(bits, 16), set1i(0x40));
    return _mm512_cvtepi32_epi16(_mm512_mask_mov_epi32(rounded, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), quiet));
}

// Pair p of row n goes to place p * size + n of `out`; `columns` is a multiple of 32, rows behind `count` are zero.
inline void transpose_pairs(const float* rows, int64_t stride, int count, int columns, int size, uint8_t* out) {
    const __mmask16 block = __mmask16((1u << size) - 1);
    for (int c = 0; c < columns; c += 32) {
        __m512i r[16];
        UNROLL for (int n = 0; n < 16; n++) {
            r[n] = _mm512_setzero_si512();
            if (n >= count) continue;
            const float* row = rows + n * stride + c;
            r[n] = _mm512_inserti64x4(_mm512_castsi256_si512(to_bf16(load(row))), to_bf16(load(row + 16)), 1);
        }
        transpose16(r);
        UNROLL for (int i = 0; i < 16; i++) _mm512_mask_storeu_epi32(out + int64_t(c / 2 + i) * size * 4, block, r[i]);
    }
}

}  // namespace
}  // namespace smidgen
