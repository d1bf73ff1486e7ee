// Sixteen lanes as plain arrays: the definition that every other instruction set is tested against.
#pragma once
#include "common.h"

namespace smidgen {
namespace {

struct F {
    float v[16];
};
struct I {
    int32_t v[16];
};
struct B {
    uint8_t v[64];
};

constexpr bool kSignedDot = false, kDotIsCheap = false;
constexpr int kTilesAtOnce = 1, kBlock = 4, kMixRows = 2, kMixDims = 2, kScoreTiles = 1, kStepsAtOnce = 1;

#define EACH for (int i = 0; i < 16; i++)
#define LANES(type, expression) \
    type r;                     \
    EACH r.v[i] = (expression); \
    return r;

inline F zero() { LANES(F, 0.0f) }
inline F set1(float x) { LANES(F, x) }
inline F load(const float* p) { LANES(F, p[i]) }
inline void store(float* p, F x) { EACH p[i] = x.v[i]; }
inline F add(F x, F y) { LANES(F, x.v[i] + y.v[i]) }
inline F sub(F x, F y) { LANES(F, x.v[i] - y.v[i]) }
inline F mul(F x, F y) { LANES(F, x.v[i] * y.v[i]) }
inline F div(F x, F y) { LANES(F, x.v[i] / y.v[i]) }
inline F fma(F x, F y, F z) { LANES(F, x.v[i] * y.v[i] + z.v[i]) }
inline void fma_into(F& acc, F x, F y) { acc = fma(x, y, acc); }
// As the x86 instructions: the second operand where one is not a number.
inline F maximum(F x, F y) { LANES(F, x.v[i] > y.v[i] ? x.v[i] : y.v[i]) }
inline F minimum(F x, F y) { LANES(F, x.v[i] < y.v[i] ? x.v[i] : y.v[i]) }
inline F absolute(F x) { LANES(F, __builtin_fabsf(x.v[i])) }
inline float reduce_add(F x) {
    for (int n = 8; n; n /= 2)
        for (int i = 0; i < n; i++) x.v[i] += x.v[i + n];
    return x.v[0];
}
inline float reduce_max(F x) {
    float r = x.v[0];
    EACH r = x.v[i] > r ? x.v[i] : r;
    return r;
}
inline I set1i(int x) { LANES(I, x) }
inline I addi(I x, I y) { LANES(I, int32_t(uint32_t(x.v[i]) + uint32_t(y.v[i]))) }
inline I subi(I x, I y) { LANES(I, int32_t(uint32_t(x.v[i]) - uint32_t(y.v[i]))) }
inline I muli(I x, I y) { LANES(I, int32_t(uint32_t(x.v[i]) * uint32_t(y.v[i]))) }
template <int N>
inline I shift_left(I x) { LANES(I, int32_t(uint32_t(x.v[i]) << N)) }
template <int N>
inline I shift_right(I x) { LANES(I, x.v[i] >> N) }
inline F to_float(I x) { LANES(F, float(x.v[i])) }
inline int32_t nearest(float x) {
    // Out of range as the x86 instruction has it, so that damaged numbers never are undefined behaviour.
    if (!(x > -2147483648.0f && x < 2147483648.0f)) return int32_t(0x80000000u);
    return int32_t(__builtin_rintf(x));
}
inline I to_int(F x) { LANES(I, nearest(x.v[i])) }
inline F as_float(I x) { LANES(F, bits_to_float(uint32_t(x.v[i]))) }
inline I as_int(F x) { LANES(I, int32_t(float_to_bits(x.v[i]))) }
inline void store_codes(int8_t* p, I x) { EACH p[i] = int8_t(x.v[i]); }
inline int reduce_addi(I x) {
    uint32_t r = 0;  // codes of infinity overflow
    EACH r += uint32_t(x.v[i]);
    return int(r);
}

inline F load_bf16(const uint16_t* p) { LANES(F, bf16_to_float(p[i])) }
inline F load_f16(const uint16_t* p) { LANES(F, f16_to_float(p[i])) }
inline F load_i8(const int8_t* p) { LANES(F, float(p[i])) }
inline I load_u8(const uint8_t* p) { LANES(I, p[i]) }

inline B load_bytes(const uint8_t* p) {
    B r;
    std::memcpy(r.v, p, 64);
    return r;
}
inline void store_bytes(uint8_t* p, B x) { std::memcpy(p, x.v, 64); }
template <int Mask>
inline B masked(B x) {
    for (auto& byte : x.v) byte &= Mask;
    return x;
}
template <int N, int Mask>
inline B shifted(B x) {
    for (auto& byte : x.v) byte = uint8_t((byte >> N) & Mask);
    return x;
}
// See lanes_avx512.h.
inline B tripled(B x) {
    for (auto& byte : x.v) byte = uint8_t(3 * byte);
    return x;
}
inline B digit(B x) {
    for (auto& byte : x.v) byte = uint8_t((3 * byte) >> 8);
    return x;
}
inline I dot(I acc, B codes, const int8_t* x) {
    for (int i = 0; i < 16; i++)
        for (int j = 0; j < 4; j++) acc.v[i] += codes.v[4 * i + j] * x[j];
    return acc;
}
inline uint32_t lane(const B& x, int i) {
    uint32_t r;
    std::memcpy(&r, x.v + 4 * i, 4);
    return r;
}
inline F even_bf16(const B& x) { LANES(F, bits_to_float(lane(x, i) << 16)) }
inline F odd_bf16(const B& x) { LANES(F, bits_to_float(lane(x, i) & 0xffff0000u)) }
inline F as_f32(const B& x) { LANES(F, bits_to_float(lane(x, i))) }
template <int Shift, int Mask>
inline I field(const B& x) { LANES(I, int32_t((lane(x, i) >> Shift) & Mask)) }
template <int Shift>
inline F nibble(B b) { return to_float(field<Shift, 15>(b)); }
// Codes of 0 ... 255 as dot() wants them.
inline B for_dot(B x) { return x; }
inline void transpose_words(const uint8_t* rows, int64_t row_bytes, int count, int words, int size, uint8_t* out) {
    transpose_words_one_by_one(rows, row_bytes, count, words, size, out);
}
inline void prefetch(const uint8_t*) {}
inline void prefetch_far(const uint8_t*) {}

#undef LANES
#undef EACH

}  // namespace
}  // namespace smidgen
