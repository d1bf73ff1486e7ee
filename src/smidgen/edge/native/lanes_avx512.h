// Sixteen lanes in one register: AVX-512 F, BW, VL, DQ and VNNI.
#pragma once
#include <immintrin.h>

#include "common.h"

namespace smidgen {
namespace {

using F = __m512;
using I = __m512i;
using B = __m512i;

constexpr bool kSignedDot = false;  // dot() takes codes of 0 ... 255
constexpr bool kDotIsCheap = true;  // one instruction
constexpr int kTilesAtOnce = 2, kBlock = 12, kMixRows = 4, kMixDims = 4, kScoreTiles = 2, kStepsAtOnce = 4;

inline F zero() { return _mm512_setzero_ps(); }
inline F set1(float v) { return _mm512_set1_ps(v); }
inline F load(const float* p) { return _mm512_loadu_ps(p); }
inline void store(float* p, F v) { _mm512_storeu_ps(p, v); }
inline F add(F a, F b) { return _mm512_add_ps(a, b); }
inline F sub(F a, F b) { return _mm512_sub_ps(a, b); }
inline F mul(F a, F b) { return _mm512_mul_ps(a, b); }
inline F div(F a, F b) { return _mm512_div_ps(a, b); }
inline F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
// acc += a b. By the intrinsic, compilers copy accumulators and spill them when a block of them fills the registers.
inline void fma_into(F& acc, F a, F b) { __asm__("vfmadd231ps %2, %1, %0" : "+v"(acc) : "v"(a), "v"(b)); }
inline F maximum(F a, F b) { return _mm512_max_ps(a, b); }
inline F minimum(F a, F b) { return _mm512_min_ps(a, b); }
inline F absolute(F a) { return _mm512_abs_ps(a); }
inline float reduce_add(F a) { return _mm512_reduce_add_ps(a); }
inline float reduce_max(F a) { return _mm512_reduce_max_ps(a); }
inline I set1i(int v) { return _mm512_set1_epi32(v); }
inline I addi(I a, I b) { return _mm512_add_epi32(a, b); }
inline I subi(I a, I b) { return _mm512_sub_epi32(a, b); }
inline I muli(I a, I b) { return _mm512_mullo_epi32(a, b); }
template <int N>
inline I shift_left(I a) { return _mm512_slli_epi32(a, N); }
template <int N>
inline I shift_right(I a) { return _mm512_srai_epi32(a, N); }
inline F to_float(I a) { return _mm512_cvtepi32_ps(a); }
inline I to_int(F a) { return _mm512_cvtps_epi32(a); }  // to nearest, ties to even
inline F as_float(I a) { return _mm512_castsi512_ps(a); }
inline I as_int(F a) { return _mm512_castps_si512(a); }
inline void store_codes(int8_t* p, I a) { _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a)); }
inline int reduce_addi(I a) {  // not by the intrinsic, whose last addition must not overflow: codes of infinity do
    const __m256i s = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}

inline F load_bf16(const uint16_t* p) {
    return as_float(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}
inline F load_f16(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
inline F load_i8(const int8_t* p) {
    return to_float(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}
inline I load_u8(const uint8_t* p) {
    return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

inline B load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
inline void store_bytes(uint8_t* p, B b) { _mm512_storeu_si512(p, b); }
template <int Mask>
inline B masked(B b) { return _mm512_and_si512(b, _mm512_set1_epi8(char(Mask))); }
template <int N, int Mask>
inline B shifted(B b) { return _mm512_and_si512(_mm512_srli_epi16(b, N), _mm512_set1_epi8(char(Mask))); }
// Base 3: a byte is the fraction of 256 whose digits are the codes; three times it, without what leaves the byte, begins
// with the next digit. digit() is what leaves, floor(3 b / 256): here by averages, whose rounding up the 1 takes back.
inline B tripled(B b) { return _mm512_add_epi8(b, _mm512_add_epi8(b, b)); }
inline B digit(B b) {
    b = _mm512_subs_epu8(b, _mm512_set1_epi8(1));
    return shifted<6, 3>(_mm512_avg_epu8(b, _mm512_avg_epu8(b, _mm512_setzero_si512())));
}
// acc + the products of the four codes of each lane with the four of x.
inline I dot(I acc, B codes, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    const __m512i all = _mm512_set1_epi32(four);
    // Not by the intrinsic: see fma_into().
    __asm__("vpdpbusd %2, %1, %0" : "+v"(acc) : "v"(codes), "v"(all));
    return acc;
}
inline F even_bf16(B b) { return as_float(_mm512_slli_epi32(b, 16)); }
inline F odd_bf16(B b) { return as_float(_mm512_and_si512(b, _mm512_set1_epi32(int(0xffff0000u)))); }
inline F as_f32(B b) { return as_float(b); }
// Bits Shift ... of each lane as numbers 0 ... Mask.
template <int Shift, int Mask>
inline I field(B b) { return _mm512_and_si512(_mm512_srli_epi32(b, Shift), _mm512_set1_epi32(Mask)); }
// The nibble of each lane at bit Shift as a float: the instruction looks at no more than four bits of an index.
template <int Shift>
inline F nibble(B b) {
    const F numbers = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return _mm512_permutexvar_ps(Shift ? _mm512_srli_epi32(b, Shift) : b, numbers);
}
// Codes of 0 ... 255 as dot() wants them.
inline B for_dot(B x) { return x; }
// The transpose of 16 rows of 16 words.
inline void transpose16(__m512i* r) {
    __m512i s[16];
    UNROLL for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    UNROLL for (int i = 0; i < 16; i += 4)
        UNROLL for (int j = 0; j < 2; j++) {
            r[i + 2 * j] = _mm512_unpacklo_epi64(s[i + j], s[i + 2 + j]);
            r[i + 2 * j + 1] = _mm512_unpackhi_epi64(s[i + j], s[i + 2 + j]);
        }
    // r[4 i + j] holds columns j, 4 + j, 8 + j, 12 + j of rows 4 i ... 4 i + 3.
    UNROLL for (int j = 0; j < 4; j++) {
        const __m512i even0 = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88), odd0 = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        const __m512i even1 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        const __m512i odd1 = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
        s[j] = _mm512_shuffle_i32x4(even0, even1, 0x88), s[8 + j] = _mm512_shuffle_i32x4(even0, even1, 0xdd);
        s[4 + j] = _mm512_shuffle_i32x4(odd0, odd1, 0x88), s[12 + j] = _mm512_shuffle_i32x4(odd0, odd1, 0xdd);
    }
    UNROLL for (int i = 0; i < 16; i++) r[i] = s[i];
}
// As transpose_words_one_by_one.
inline void transpose_words(const uint8_t* rows, int64_t row_bytes, int count, int words, int size, uint8_t* out) {
    const __mmask16 block = __mmask16((1u << size) - 1);
    for (int w = 0; w < words; w += 16) {
        const int some = smaller(16, words - w);
        const __mmask16 present = __mmask16((1u << some) - 1);
        __m512i r[16];
        UNROLL for (int n = 0; n < 16; n++)
            r[n] = _mm512_maskz_loadu_epi32(n < count ? present : __mmask16(0), rows + (n < count ? n * row_bytes + 4 * w : 0));
        transpose16(r);
        UNROLL for (int i = 0; i < 16; i++)
            if (i < some) _mm512_mask_storeu_epi32(out + int64_t(w + i) * size * 4, block, r[i]);
    }
}
// The sums of the 16 vectors: lane i that of x[i].
inline F sums16(const F* x) {
    __m512i r[16];
    UNROLL for (int i = 0; i < 16; i++) r[i] = as_int(x[i]);
    transpose16(r);
    F a[4];
    UNROLL for (int i = 0; i < 4; i++)
        a[i] = add(add(as_float(r[4 * i]), as_float(r[4 * i + 1])), add(as_float(r[4 * i + 2]), as_float(r[4 * i + 3])));
    return add(add(a[0], a[1]), add(a[2], a[3]));
}
inline void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
// Into the second cache: what is needed later.
inline void prefetch_far(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }

}  // namespace
}  // namespace smidgen
