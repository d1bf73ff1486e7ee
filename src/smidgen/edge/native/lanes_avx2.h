// Sixteen lanes in two registers: AVX2 with FMA and F16C; AVX-VNNI where SMIDGEN_VNNI asks for it.
#pragma once
#include <immintrin.h>

#include "common.h"

namespace smidgen {
namespace {

struct F {
    __m256 a, b;
};
struct I {
    __m256i a, b;
};
using B = I;

constexpr bool kSignedDot = false;
#if defined(SMIDGEN_VNNI)
constexpr bool kDotIsCheap = true;
#else
constexpr bool kDotIsCheap = false;
#endif
constexpr int kTilesAtOnce = 1, kBlock = 4, kMixRows = 2, kMixDims = 2, kScoreTiles = 1, kStepsAtOnce = 1;

inline F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline F set1(float v) { return {_mm256_set1_ps(v), _mm256_set1_ps(v)}; }
inline F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
inline void store(float* p, F v) {
    _mm256_storeu_ps(p, v.a);
    _mm256_storeu_ps(p + 8, v.b);
}
inline F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
inline F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
inline F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
inline F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
inline F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
inline void fma_into(F& acc, F x, F y) { acc = fma(x, y, acc); }
inline F maximum(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
inline F minimum(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
inline F absolute(F x) {
    __m256 mask = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_and_ps(x.a, mask), _mm256_and_ps(x.b, mask)};
}
inline float reduce_add(F x) {
    __m256 s = _mm256_add_ps(x.a, x.b);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
inline float reduce_max(F x) {
    __m256 s = _mm256_max_ps(x.a, x.b);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
inline I set1i(int v) { return {_mm256_set1_epi32(v), _mm256_set1_epi32(v)}; }
inline I addi(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
inline I subi(I x, I y) { return {_mm256_sub_epi32(x.a, y.a), _mm256_sub_epi32(x.b, y.b)}; }
inline I muli(I x, I y) { return {_mm256_mullo_epi32(x.a, y.a), _mm256_mullo_epi32(x.b, y.b)}; }
template <int N>
inline I shift_left(I x) { return {_mm256_slli_epi32(x.a, N), _mm256_slli_epi32(x.b, N)}; }
template <int N>
inline I shift_right(I x) { return {_mm256_srai_epi32(x.a, N), _mm256_srai_epi32(x.b, N)}; }
inline F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
inline I to_int(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
inline F as_float(I x) { return {_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(x.b)}; }
inline I as_int(F x) { return {_mm256_castps_si256(x.a), _mm256_castps_si256(x.b)}; }
inline void store_codes(int8_t* p, I x) {
    __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
inline int reduce_addi(I x) {
    __m256i s = _mm256_add_epi32(x.a, x.b);
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}

inline __m128i half_of(const void* p, int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p) + i); }
inline F load_bf16(const uint16_t* p) {
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half_of(p, 0)), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(half_of(p, 1)), 16))};
}
inline F load_f16(const uint16_t* p) { return {_mm256_cvtph_ps(half_of(p, 0)), _mm256_cvtph_ps(half_of(p, 1))}; }
inline F load_i8(const int8_t* p) {
    __m128i bytes = half_of(p, 0);
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
}
inline I load_u8(const uint8_t* p) {
    __m128i bytes = half_of(p, 0);
    return {_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128(bytes, 8))};
}

inline __m256i quarter(const uint8_t* p) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)); }
inline B load_bytes(const uint8_t* p) { return {quarter(p), quarter(p + 32)}; }
inline void store_bytes(uint8_t* p, B x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), x.a);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 32), x.b);
}
template <int Mask>
inline B masked(B x) {
    __m256i mask = _mm256_set1_epi8(char(Mask));
    return {_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)};
}
template <int N, int Mask>
inline B shifted(B x) {
    __m256i mask = _mm256_set1_epi8(char(Mask));
    return {_mm256_and_si256(_mm256_srli_epi16(x.a, N), mask), _mm256_and_si256(_mm256_srli_epi16(x.b, N), mask)};
}
// See lanes_avx512.h.
inline __m256i tripled_half(__m256i x) { return _mm256_add_epi8(x, _mm256_add_epi8(x, x)); }
inline B tripled(B x) { return {tripled_half(x.a), tripled_half(x.b)}; }
inline __m256i three_quarters(__m256i x) {
    x = _mm256_subs_epu8(x, _mm256_set1_epi8(1));
    return _mm256_avg_epu8(x, _mm256_avg_epu8(x, _mm256_setzero_si256()));
}
inline B digit(B x) { return shifted<6, 3>(B{three_quarters(x.a), three_quarters(x.b)}); }
#if defined(SMIDGEN_VNNI)
#if defined(SMIDGEN_EMULATED)
// What VPDPBUSD is documented to do, for processors without its AVX form: bytes of the first without a sign, of the second
// with one, four products added to each sum without saturation.
inline __m256i dot_bytes(__m256i acc, __m256i codes, __m256i x) {
    uint32_t sums[8];
    uint8_t u[32];
    int8_t s[32];
    std::memcpy(sums, &acc, 32), std::memcpy(u, &codes, 32), std::memcpy(s, &x, 32);
    for (int i = 0; i < 32; i++) sums[i / 4] += uint32_t(int32_t(u[i]) * int32_t(s[i]));
    std::memcpy(&acc, sums, 32);
    return acc;
}
#else
inline __m256i dot_bytes(__m256i acc, __m256i codes, __m256i x) { return _mm256_dpbusd_avx_epi32(acc, codes, x); }
#endif
inline I dot(I acc, B codes, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    __m256i all = _mm256_set1_epi32(four);
    return {dot_bytes(acc.a, codes.a, all), dot_bytes(acc.b, codes.b, all)};
}
#else
// vpmaddubsw saturates its 16-bit sums; even and odd bytes as 16-bit numbers do not.
inline __m256i dot_half(__m256i acc, __m256i codes, __m256i even, __m256i odd) {
    __m256i low = _mm256_and_si256(codes, _mm256_set1_epi16(0xff));
    __m256i high = _mm256_srli_epi16(codes, 8);
    acc = _mm256_add_epi32(acc, _mm256_madd_epi16(low, even));
    return _mm256_add_epi32(acc, _mm256_madd_epi16(high, odd));
}
inline I dot(I acc, B codes, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    __m256i all = _mm256_set1_epi32(four);
    __m256i odd = _mm256_srai_epi16(all, 8), even = _mm256_srai_epi16(_mm256_slli_epi16(all, 8), 8);
    return {dot_half(acc.a, codes.a, even, odd), dot_half(acc.b, codes.b, even, odd)};
}
#endif
inline F even_bf16(B x) { return as_float(shift_left<16>(x)); }
inline F odd_bf16(B x) {
    __m256i mask = _mm256_set1_epi32(int(0xffff0000u));
    return as_float(B{_mm256_and_si256(x.a, mask), _mm256_and_si256(x.b, mask)});
}
inline F as_f32(B x) { return as_float(x); }
template <int Shift, int Mask>
inline I field(B x) {
    __m256i mask = _mm256_set1_epi32(Mask);
    return {_mm256_and_si256(_mm256_srli_epi32(x.a, Shift), mask), _mm256_and_si256(_mm256_srli_epi32(x.b, Shift), mask)};
}
template <int Shift>
inline F nibble(B b) { return to_float(field<Shift, 15>(b)); }
// Codes of 0 ... 255 as dot() wants them.
inline B for_dot(B x) { return x; }
inline void transpose_words(const uint8_t* rows, int64_t row_bytes, int count, int words, int size, uint8_t* out) {
    transpose_words_one_by_one(rows, row_bytes, count, words, size, out);
}
inline void prefetch(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T0); }
// Into the second cache: what is needed later.
inline void prefetch_far(const uint8_t* p) { _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1); }

}  // namespace
}  // namespace smidgen
