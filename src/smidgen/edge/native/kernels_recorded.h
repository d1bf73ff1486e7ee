// What recorded operations do to vectors: sums of products with matrices as they are stored, and numbers one by one.
#pragma once
#include "kernels_float.h"

namespace smidgen {
namespace {

inline F load_numbers(const float* p) { return load(p); }
inline F load_numbers(const uint16_t* p) { return load_bf16(p); }
inline float number_at(const float* p) { return *p; }
inline float number_at(const uint16_t* p) { return bf16_to_float(*p); }

// sums [row][x]: the products of Rows rows of a matrix with Many vectors. What lies `ahead` is fetched on the way.
template <class T, int Rows, int Many>
inline void dot_block(const T* rows, int64_t row_stride, int64_t length, const float* x, int64_t x_stride, int64_t ahead,
                      float* sums) {
    F acc[Rows][Many];
    UNROLL for (int r = 0; r < Rows; r++)
        UNROLL for (int m = 0; m < Many; m++) acc[r][m] = zero();
    const int64_t whole = length & ~int64_t(15);
    for (int64_t i = 0; i < whole; i += 16) {
        F v[Many];
        UNROLL for (int m = 0; m < Many; m++) v[m] = load(x + m * x_stride + i);
        UNROLL for (int r = 0; r < Rows; r++) {
            const T* p = rows + r * row_stride + i;
            prefetch(reinterpret_cast<const uint8_t*>(p + ahead));
            const F w = load_numbers(p);
            UNROLL for (int m = 0; m < Many; m++) fma_into(acc[r][m], w, v[m]);
        }
    }
    UNROLL for (int r = 0; r < Rows; r++)
        UNROLL for (int m = 0; m < Many; m++) {
            float sum = reduce_add(acc[r][m]);
            for (int64_t i = whole; i < length; i++) sum += number_at(rows + r * row_stride + i) * x[m * x_stride + i];
            sums[r * Many + m] = sum;
        }
}

template <class T>
void dots_of(const T* rows, int64_t row_stride, int64_t count, int64_t length, const float* x, int64_t many, int64_t x_stride,
             float* y, int64_t y_stride) {
    constexpr int kRows = 4, kMany = 4;
    float sums[kRows * kMany];
    int64_t m = 0;
    for (; m + kMany <= many; m += kMany)
        for (int64_t r = 0; r < count; r++) {
            dot_block<T, 1, kMany>(rows + r * row_stride, row_stride, length, x + m * x_stride, x_stride, row_stride, sums);
            for (int j = 0; j < kMany; j++) y[(m + j) * y_stride + r] = sums[j];
        }
    for (; m < many; m++) {
        int64_t r = 0;
        for (; r + kRows <= count; r += kRows)
            dot_block<T, kRows, 1>(rows + r * row_stride, row_stride, length, x + m * x_stride, x_stride, kRows * row_stride,
                                   y + m * y_stride + r);
        for (; r < count; r++)
            dot_block<T, 1, 1>(rows + r * row_stride, row_stride, length, x + m * x_stride, x_stride, 0, y + m * y_stride + r);
    }
}

void dots(int dtype, const void* rows, int64_t row_stride, int64_t count, int64_t length, const float* x, int64_t many,
          int64_t x_stride, float* y, int64_t y_stride) {
    if (dtype == DT_F32)
        dots_of(static_cast<const float*>(rows), row_stride, count, length, x, many, x_stride, y, y_stride);
    else
        dots_of(static_cast<const uint16_t*>(rows), row_stride, count, length, x, many, x_stride, y, y_stride);
}

template <class T, int Many, int Vectors>
inline void mean_block(const T* rows, int64_t row_stride, int64_t count, const float* w, int64_t w_stride, float* y,
                       int64_t y_stride) {
    F acc[Many][Vectors];
    UNROLL for (int m = 0; m < Many; m++)
        UNROLL for (int j = 0; j < Vectors; j++) acc[m][j] = zero();
    for (int64_t r = 0; r < count; r++) {
        F v[Vectors];
        UNROLL for (int j = 0; j < Vectors; j++) v[j] = load_numbers(rows + r * row_stride + 16 * j);
        UNROLL for (int m = 0; m < Many; m++) {
            const F factor = set1(w[m * w_stride + r]);
            UNROLL for (int j = 0; j < Vectors; j++) fma_into(acc[m][j], factor, v[j]);
        }
    }
    UNROLL for (int m = 0; m < Many; m++)
        UNROLL for (int j = 0; j < Vectors; j++) store(y + m * y_stride + 16 * j, acc[m][j]);
}

template <class T>
void means_of(const T* rows, int64_t row_stride, int64_t count, int64_t width, const float* w, int64_t many, int64_t w_stride,
              float* y, int64_t y_stride) {
    constexpr int kMany = 4, kVectors = 4;
    int64_t m = 0;
    for (; m + kMany <= many; m += kMany)
        for (int64_t i = 0; i + 16 <= width; i += 16)
            mean_block<T, kMany, 1>(rows + i, row_stride, count, w + m * w_stride, w_stride, y + m * y_stride + i, y_stride);
    for (; m < many; m++) {
        int64_t i = 0;
        for (; i + 16 * kVectors <= width; i += 16 * kVectors)
            mean_block<T, 1, kVectors>(rows + i, row_stride, count, w + m * w_stride, w_stride, y + m * y_stride + i, y_stride);
        for (; i + 16 <= width; i += 16)
            mean_block<T, 1, 1>(rows + i, row_stride, count, w + m * w_stride, w_stride, y + m * y_stride + i, y_stride);
    }
    for (m = 0; m < many; m++)
        for (int64_t i = width & ~int64_t(15); i < width; i++) {
            float sum = 0;
            for (int64_t r = 0; r < count; r++) sum += w[m * w_stride + r] * number_at(rows + r * row_stride + i);
            y[m * y_stride + i] = sum;
        }
}

void weighted(int dtype, const void* rows, int64_t row_stride, int64_t count, int64_t width, const float* w, int64_t many,
              int64_t w_stride, float* y, int64_t y_stride) {
    if (dtype == DT_F32)
        means_of(static_cast<const float*>(rows), row_stride, count, width, w, many, w_stride, y, y_stride);
    else
        means_of(static_cast<const uint16_t*>(rows), row_stride, count, width, w, many, w_stride, y, y_stride);
}

// Up to 16 numbers from number `i` on.
inline F taken(const MapInput& in, int64_t i, int count) {
    if (!in.data) return set1(in.value);
    if (in.dtype == DT_F32) {
        const float* p = static_cast<const float*>(in.data) + i;
        return count == 16 ? load(p) : load_tail(p, count, 0);
    }
    const uint16_t* p = static_cast<const uint16_t*>(in.data) + i;
    if (count == 16) return load_bf16(p);
    uint16_t padded[16] = {};
    std::memcpy(padded, p, size_t(count) * 2);
    return load_bf16(padded);
}

// To the nearest whole number, ties to even.
inline F rounded(F x) {
    const F magic = set1(12582912.0f);  // 1.5 * 2^23
    if (reduce_max(absolute(x)) < 4194304.0f) return sub(add(x, magic), magic);
    float v[16];
    store(v, x);
    for (float& value : v) value = __builtin_rintf(value);
    return load(v);
}

inline F mapped(int code, F a, F b, F c, F number) {
    switch (code) {
        case OP_ADD: return fma(number, b, a);
        case OP_SUB: return sub(a, mul(number, b));
        case OP_MUL: return mul(a, b);
        case OP_DIV: return div(a, b);
        case OP_ADDCDIV: return add(a, mul(number, div(b, c)));
        case OP_MAXIMUM: return maximum(b, a);  // the second where it is not a number
        case OP_MINIMUM: return minimum(b, a);
        case OP_SILU: return activated(0, a);
        case OP_GELU: return activated(1, a);
        case OP_ABS: return absolute(a);
        case OP_ROUND: return rounded(a);
        default: return a;
    }
}

void map(int code, int64_t n, float number, const MapInput* inputs, void* out, int dtype) {
    const F factor = set1(number);
    for (int64_t i = 0; i < n; i += 16) {
        const int count = int(smaller<int64_t>(16, n - i));
        const F y = mapped(code, taken(inputs[0], i, count), taken(inputs[1], i, count), taken(inputs[2], i, count), factor);
        if (dtype == DT_F32) {
            float* p = static_cast<float*>(out) + i;
            if (count == 16)
                store(p, y);
            else
                store_tail(p, count, y);
            continue;
        }
        float values[16];
        store(values, y);
        uint16_t* p = static_cast<uint16_t*>(out) + i;
        for (int j = 0; j < count; j++) p[j] = float_to_bf16(values[j]);
    }
}

}  // namespace
}  // namespace smidgen
