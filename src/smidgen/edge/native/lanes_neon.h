// Sixteen lanes in four registers: ARMv8.2 NEON with the dot product.
#pragma once
#include <arm_neon.h>

#include "common.h"

namespace smidgen {
namespace {

struct F {
    float32x4_t v[4];
};
struct I {
    int32x4_t v[4];
};
struct B {
    uint8x16_t v[4];
};

constexpr bool kSignedDot = true;  // dot() takes signed codes: those of 0 ... 255 lose 128 first
constexpr bool kDotIsCheap = true;
constexpr int kTilesAtOnce = 1, kBlock = 4, kMixRows = 2, kMixDims = 2, kScoreTiles = 1, kStepsAtOnce = 1;

#define EACH for (int i = 0; i < 4; i++)
#define LANES(type, expression) \
    type r;                     \
    EACH r.v[i] = (expression); \
    return r;

inline F zero() { LANES(F, vdupq_n_f32(0)) }
inline F set1(float x) { LANES(F, vdupq_n_f32(x)) }
inline F load(const float* p) { LANES(F, vld1q_f32(p + 4 * i)) }
inline void store(float* p, F x) { EACH vst1q_f32(p + 4 * i, x.v[i]); }
inline F add(F x, F y) { LANES(F, vaddq_f32(x.v[i], y.v[i])) }
inline F sub(F x, F y) { LANES(F, vsubq_f32(x.v[i], y.v[i])) }
inline F mul(F x, F y) { LANES(F, vmulq_f32(x.v[i], y.v[i])) }
inline F div(F x, F y) { LANES(F, vdivq_f32(x.v[i], y.v[i])) }
inline F fma(F x, F y, F z) { LANES(F, vfmaq_f32(z.v[i], x.v[i], y.v[i])) }
inline void fma_into(F& acc, F x, F y) { acc = fma(x, y, acc); }
inline F maximum(F x, F y) { LANES(F, vmaxq_f32(x.v[i], y.v[i])) }
inline F minimum(F x, F y) { LANES(F, vminq_f32(x.v[i], y.v[i])) }
inline F absolute(F x) { LANES(F, vabsq_f32(x.v[i])) }
inline float reduce_add(F x) {
    return vaddvq_f32(vaddq_f32(vaddq_f32(x.v[0], x.v[1]), vaddq_f32(x.v[2], x.v[3])));
}
inline float reduce_max(F x) {
    return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.v[0], x.v[1]), vmaxq_f32(x.v[2], x.v[3])));
}
inline I set1i(int x) { LANES(I, vdupq_n_s32(x)) }
inline I addi(I x, I y) { LANES(I, vaddq_s32(x.v[i], y.v[i])) }
inline I subi(I x, I y) { LANES(I, vsubq_s32(x.v[i], y.v[i])) }
inline I muli(I x, I y) { LANES(I, vmulq_s32(x.v[i], y.v[i])) }
template <int N>
inline I shift_left(I x) { LANES(I, vshlq_n_s32(x.v[i], N)) }
template <int N>
inline I shift_right(I x) { LANES(I, vshrq_n_s32(x.v[i], N)) }
inline F to_float(I x) { LANES(F, vcvtq_f32_s32(x.v[i])) }
inline I to_int(F x) { LANES(I, vcvtnq_s32_f32(x.v[i])) }
inline F as_float(I x) { LANES(F, vreinterpretq_f32_s32(x.v[i])) }
inline I as_int(F x) { LANES(I, vreinterpretq_s32_f32(x.v[i])) }
inline void store_codes(int8_t* p, I x) {
    int16x8_t low = vcombine_s16(vmovn_s32(x.v[0]), vmovn_s32(x.v[1]));
    int16x8_t high = vcombine_s16(vmovn_s32(x.v[2]), vmovn_s32(x.v[3]));
    vst1q_s8(p, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
}
inline int reduce_addi(I x) { return vaddvq_s32(vaddq_s32(vaddq_s32(x.v[0], x.v[1]), vaddq_s32(x.v[2], x.v[3]))); }

inline F load_bf16(const uint16_t* p) { LANES(F, vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16))) }
inline F load_f16(const uint16_t* p) { LANES(F, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i)))) }
inline F load_i8(const int8_t* p) {
    int8x16_t bytes = vld1q_s8(p);
    int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_s8(vget_high_s8(bytes));
    return {{vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(low))),
             vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_s16(vget_high_s16(high)))}};
}
inline I load_u8(const uint8_t* p) {
    uint8x16_t bytes = vld1q_u8(p);
    uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_u8(vget_high_u8(bytes));
    return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))),
             vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
             vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)))}};
}

inline B load_bytes(const uint8_t* p) { LANES(B, vld1q_u8(p + 16 * i)) }
inline void store_bytes(uint8_t* p, B x) { EACH vst1q_u8(p + 16 * i, x.v[i]); }
template <int Mask>
inline B masked(B x) { LANES(B, vandq_u8(x.v[i], vdupq_n_u8(Mask))) }
template <int N, int Mask>
inline B shifted(B x) { LANES(B, vandq_u8(vshrq_n_u8(x.v[i], N), vdupq_n_u8(Mask))) }
// See lanes_avx512.h.
inline B tripled(B x) { LANES(B, vmulq_u8(x.v[i], vdupq_n_u8(3))) }
inline B digit(B x) { LANES(B, vshrq_n_u8(vhaddq_u8(x.v[i], vshrq_n_u8(x.v[i], 1)), 6)) }
inline I dot(I acc, B codes, const int8_t* x) {
    int32_t four;
    std::memcpy(&four, x, 4);
    int8x16_t all = vreinterpretq_s8_s32(vdupq_n_s32(four));
    LANES(I, vdotq_s32(acc.v[i], vreinterpretq_s8_u8(codes.v[i]), all))
}
inline I words(B x) { LANES(I, vreinterpretq_s32_u8(x.v[i])) }
inline F even_bf16(B x) { return as_float(shift_left<16>(words(x))); }
inline F odd_bf16(B x) {
    LANES(F, vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_u8(x.v[i]), vdupq_n_u32(0xffff0000u))))
}
inline F as_f32(B x) { return as_float(words(x)); }
template <int Shift, int Mask>
inline I field(B x) {
    if constexpr (Shift == 0) {
        LANES(I, vandq_s32(vreinterpretq_s32_u8(x.v[i]), vdupq_n_s32(Mask)))
    } else {
        LANES(I, vreinterpretq_s32_u32(vandq_u32(vshrq_n_u32(vreinterpretq_u32_u8(x.v[i]), Shift), vdupq_n_u32(Mask))))
    }
}
template <int Shift>
inline F nibble(B b) { return to_float(field<Shift, 15>(b)); }
// Codes of 0 ... 255 as dot() wants them.
inline B for_dot(B x) { LANES(B, veorq_u8(x.v[i], vdupq_n_u8(0x80))) }
inline void transpose_words(const uint8_t* rows, int64_t row_bytes, int count, int words, int size, uint8_t* out) {
    transpose_words_one_by_one(rows, row_bytes, count, words, size, out);
}
inline void prefetch(const uint8_t* p) { __builtin_prefetch(p); }
// Into the second cache: what is needed later.
inline void prefetch_far(const uint8_t* p) { __builtin_prefetch(p, 0, 2); }

#undef LANES
#undef EACH

}  // namespace
}  // namespace smidgen
