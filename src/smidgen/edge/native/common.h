// What every source file needs: number formats, sizes, memory.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace smidgen {
namespace {  // each translation unit its own copy: they are compiled for different instruction sets

inline float bits_to_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, 4);
    return value;
}

inline uint32_t float_to_bits(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    return bits;
}

inline float bf16_to_float(uint16_t h) { return bits_to_float(uint32_t(h) << 16); }

// Round to nearest, ties to even; NaN stays NaN.
inline uint16_t float_to_bf16(float value) {
    uint32_t bits = float_to_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40);
    return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

inline float f16_to_float(uint16_t h) {
    uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = (h >> 10) & 31, mantissa = h & 1023;
    if (exponent == 31) return bits_to_float(sign | 0x7f800000u | (mantissa << 13));
    if (exponent) return bits_to_float(sign | ((exponent + 112) << 23) | (mantissa << 13));
    float value = float(mantissa) * 0x1p-24f;
    return sign ? -value : value;
}

// Round to nearest, ties to even; beyond the range the largest number, NaN stays NaN.
inline uint16_t float_to_f16(float value) {
    uint32_t bits = float_to_bits(value), sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00);
    if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7bff);
    if (magnitude < 0x38800000u) {  // subnormal: the addition rounds
        float shifted = bits_to_float(magnitude) + 0.5f;
        return uint16_t(sign | (float_to_bits(shifted) - 0x3f000000u));
    }
    return uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13));
}

inline float e4m3_to_float(uint8_t b) {
    uint32_t sign = uint32_t(b & 0x80) << 24, exponent = (b >> 3) & 15, mantissa = b & 7;
    if (exponent == 15 && mantissa == 7) return bits_to_float(sign | 0x7fc00000u);
    if (exponent) return bits_to_float(sign | ((exponent + 120) << 23) | (mantissa << 20));
    float value = float(mantissa) * 0x1p-9f;
    return sign ? -value : value;
}

// The nearest e4m3 number (ties to even), as a float; |value| is at most 448 by the choice of the scale.
inline float round_to_e4m3(float value) {
    uint32_t bits = float_to_bits(value), sign = bits & 0x80000000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return value;
    float absolute = bits_to_float(magnitude);
    if (absolute < 0x1p-6f) {
        absolute = (absolute + 0x1.8p14f) - 0x1.8p14f;  // multiples of 2^-9
    } else {
        magnitude += 0x7ffffu + ((magnitude >> 20) & 1);
        absolute = bits_to_float(magnitude & 0xfff00000u);
        if (absolute > 448.0f) absolute = 448.0f;
    }
    return bits_to_float(float_to_bits(absolute) | sign);
}

template <class T>
inline T smaller(T a, T b) {
    return b < a ? b : a;
}
template <class T>
inline T larger(T a, T b) {
    return a < b ? b : a;
}
inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// Loops over registers, written out: an array is kept in registers only where every index of it is a constant.
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

// Word w of row n becomes word w * size + n of `out`: `words` 4-byte words of `count` rows, zero in the rest of a block.
inline void transpose_words_one_by_one(const uint8_t* rows, int64_t row_bytes, int count, int words, int size, uint8_t* out) {
    for (int n = 0; n < size; n++) {
        const uint8_t* row = rows + n * row_bytes;
        for (int64_t w = 0; w < words; w++) {
            uint32_t word = 0;
            if (n < count) std::memcpy(&word, row + 4 * w, 4);
            std::memcpy(out + (w * size + n) * 4, &word, 4);
        }
    }
}

constexpr int kTile = 16;      // rows of a tile, lanes of a vector
constexpr int kColumns = 64;   // columns are padded to a multiple of this
constexpr int kSumGroup = 32;  // columns whose sum of codes is kept beside a quantised input
constexpr int kPanelBytes = 36;  // scratch memory for each column of a tile that `gemm` unpacks

}  // namespace
}  // namespace smidgen
