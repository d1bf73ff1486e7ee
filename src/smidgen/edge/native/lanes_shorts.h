// Codes of 16 bits in pairs, for AVX-512 with VNNI: twice the products of float32 for each instruction.
//
// Sixty-four columns share a scale, so that sums stay below 2^31: weights of bf16 become codes of 12 bits and a sign by a
// power of two (all that are larger than a sixteenth of the largest keep their 8 bits), inputs codes of 13 bits and a sign.
#pragma once
#include "kernels.h"
#include "lanes_avx512.h"

namespace smidgen {
namespace {

constexpr int kWeightBits = 11;                 // of the largest weight's power of two: codes up to 255 * 16
constexpr float kMostInput = 8191;              // 64 * 4080 * 8191 < 2^31
constexpr float kWholeNumber = 12582912.0f;     // added to a float, its lower bits become the nearest whole number

// acc + the two products of each lane's pair with the pair at x.
inline I dot_shorts(I acc, B weights, const uint8_t* x) {
    int32_t pair;
    std::memcpy(&pair, x, 4);
    const __m512i all = _mm512_set1_epi32(pair);
    // Not by the intrinsic: see fma_into().
    __asm__("vpdpwssd %2, %1, %0" : "+v"(acc) : "v"(weights), "v"(all));
    return acc;
}

// Two vectors of whole numbers below 2^15, as kWholeNumber makes them, as pairs.
inline B pairs_of(F even, F odd) {
    return _mm512_mask_blend_epi16(0xaaaaaaaau, as_int(even), _mm512_slli_epi32(as_int(odd), 16));
}

// Pairs of bf16 of 16 rows, `columns` of them, as pairs of codes [columns / 2][16]; behind them scales [columns / 64][16].
inline void shorts_of_weights(const uint8_t* w, int columns, uint8_t* out) {
    float* scales = reinterpret_cast<float*>(out + int64_t(columns) * 32);
    const __m512i size = _mm512_set1_epi16(0x7fff), exponent = set1i(0x7f800000);
    for (int c = 0; c < columns; c += kPairGroup, w += 32 * kPairGroup, out += 32 * kPairGroup, scales += 16) {
        B most = _mm512_setzero_si512();
        for (int j = 0; j < kPairGroup / 2; j++) most = _mm512_max_epu16(most, _mm512_and_si512(load_bytes(w + 64 * j), size));
        most = _mm512_and_si512(_mm512_max_epu32(most, _mm512_slli_epi32(most, 16)), exponent);
        most = _mm512_max_epi32(most, set1i((kWeightBits + 1) << 23));  // all below are zero, or nearly
        const F factor = as_float(subi(set1i((254 + kWeightBits) << 23), most));
        store(scales, as_float(subi(most, set1i(kWeightBits << 23))));
        for (int j = 0; j < kPairGroup / 2; j++) {
            const B b = load_bytes(w + 64 * j);
            store_bytes(out + 64 * j, pairs_of(fma(even_bf16(b), factor, set1(kWholeNumber)), fma(odd_bf16(b), factor, set1(kWholeNumber))));
        }
    }
}

// Pair p of row n goes to place p * size + n of `out`, the scale of group g to place g * size + n of `scales`; `columns`
// is a multiple of 64, rows behind `count` are zero. Numbers that are not finite make scales that are not.
inline void shorts_of_inputs(const float* rows, int64_t stride, int count, int columns, int size, uint8_t* out, float* scales) {
    const __mmask16 block = __mmask16((1u << size) - 1);
    const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = addi(even, set1i(1));
    for (int c = 0; c < columns; c += kPairGroup, scales += size) {
        __m512i r[2][16];
        for (int n = 0; n < 16; n++) {
            r[0][n] = r[1][n] = _mm512_setzero_si512();
            if (n >= count) {
                if (n < size) scales[n] = 0;
                continue;
            }
            const float* row = rows + n * stride + c;
            F v[4], most = zero(), damage = zero();
            UNROLL for (int i = 0; i < 4; i++) {
                v[i] = load(row + 16 * i);
                most = maximum(absolute(v[i]), most), damage = fma(v[i], zero(), damage);
            }
            const float largest = larger(reduce_max(most), 1e-30f);
            scales[n] = largest / kMostInput + reduce_add(damage);
            const F factor = set1(kMostInput / largest);
            UNROLL for (int i = 0; i < 2; i++) {
                F whole[2];
                UNROLL for (int j = 0; j < 2; j++) {
                    const F x = _mm512_permutex2var_ps(v[2 * i], j ? odd : even, v[2 * i + 1]);
                    whole[j] = fma(x, factor, set1(kWholeNumber));
                }
                r[i][n] = pairs_of(whole[0], whole[1]);
            }
        }
        UNROLL for (int i = 0; i < 2; i++) {
            transpose16(r[i]);
            UNROLL for (int j = 0; j < 16; j++)
                _mm512_mask_storeu_epi32(out + int64_t(c / 2 + 16 * i + j) * size * 4, block, r[i][j]);
        }
    }
}

}  // namespace
}  // namespace smidgen
