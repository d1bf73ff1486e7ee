// Norms, activations, softmax, quantisation of inputs: everything on rows of floats. Included once an instruction set.
#pragma once
#include "kernels.h"

namespace smidgen {
namespace {

// e^x by 2^n times a polynomial (Cephes' coefficients); relative error about 1e-7. Below -87 it is 1.2e-38; NaN stays.
inline F exponential(F x) {
    x = minimum(set1(88.0f), maximum(set1(-87.0f), x));
    const F magic = set1(12582912.0f);
    F shifted = fma(x, set1(1.44269504f), magic);
    F n = sub(shifted, magic);
    F r = fma(n, set1(-0.693359375f), x);
    r = fma(n, set1(2.12194440e-4f), r);
    F p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    p = fma(p, mul(r, r), add(r, set1(1.0f)));
    I power = shift_left<23>(addi(subi(as_int(shifted), as_int(magic)), set1i(127)));
    return mul(p, as_float(power));
}

// The last n % 16 numbers as a vector, `fill` behind them.
inline F load_tail(const float* p, int n, float fill) {
    float padded[16];
    for (int i = 0; i < 16; i++) padded[i] = i < n ? p[i] : fill;
    return load(padded);
}

inline void store_tail(float* p, int n, F x) {
    float padded[16];
    store(padded, x);
    for (int i = 0; i < n; i++) p[i] = padded[i];
}

void norm(int kind, const float* x, const float* w, float eps, int n, float* y) {
    const int whole = n & ~15, tail = n & 15;
    float mean = 0;
    if (kind == 2) {
        F sum = zero();
        for (int i = 0; i < whole; i += 16) sum = add(sum, load(x + i));
        if (tail) sum = add(sum, load_tail(x + whole, tail, 0));
        mean = reduce_add(sum) / float(n);
    }
    const F center = set1(mean);
    F squares = zero();
    for (int i = 0; i < whole; i += 16) {
        F d = sub(load(x + i), center);
        squares = fma(d, d, squares);
    }
    if (tail) {
        F d = sub(load_tail(x + whole, tail, mean), center);
        squares = fma(d, d, squares);
    }
    const F factor = set1(1.0f / __builtin_sqrtf(reduce_add(squares) / float(n) + eps));
    for (int i = 0; i < whole; i += 16) store(y + i, mul(mul(sub(load(x + i), center), factor), load(w + i)));
    if (tail)
        store_tail(y + whole, tail,
                   mul(mul(sub(load_tail(x + whole, tail, 0), center), factor), load_tail(w + whole, tail, 0)));
}

void add_to(float* x, const float* y, int n) {
    const int whole = n & ~15;
    for (int i = 0; i < whole; i += 16) store(x + i, add(load(x + i), load(y + i)));
    for (int i = whole; i < n; i++) x[i] += y[i];
}

float largest(const float* x, int n) {
    const int whole = n & ~15, tail = n & 15;
    F most = set1(-__builtin_inff());
    for (int i = 0; i < whole; i += 16) most = maximum(load(x + i), most);
    if (tail) most = maximum(load_tail(x + whole, tail, -__builtin_inff()), most);
    return reduce_max(most);
}

bool finite(const float* x, int n) {
    const int whole = n & ~15, tail = n & 15;
    F damage = zero();  // becomes NaN by NaN and by infinity
    for (int i = 0; i < whole; i += 16) damage = fma(load(x + i), zero(), damage);
    if (tail) damage = fma(load_tail(x + whole, tail, 0), zero(), damage);
    return reduce_add(damage) == 0.0f;
}

float quantize(const float* x, int n, int padded, float floor, int8_t* codes, int32_t* sums) {
    const int whole = n & ~15, tail = n & 15;
    F most = zero(), damage = zero();  // damage becomes NaN by NaN or infinity, which maximum() may lose
    for (int i = 0; i < whole; i += 16) {
        F v = load(x + i);
        most = maximum(absolute(v), most);
        damage = fma(v, zero(), damage);
    }
    if (tail) {
        F v = load_tail(x + whole, tail, 0);
        most = maximum(absolute(v), most);
        damage = fma(v, zero(), damage);
    }
    const float absmax = larger(reduce_max(most), floor);
    const F factor = set1(127.0f / absmax);
    for (int i = 0; i < padded; i += kSumGroup) {
        I total = set1i(0);
        for (int j = i; j < i + kSumGroup; j += 16) {
            F v = j + 16 <= n ? load(x + j) : j < n ? load_tail(x + j, n - j, 0) : zero();
            I code = to_int(mul(v, factor));
            store_codes(codes + j, code);
            total = addi(total, code);
        }
        sums[i / kSumGroup] = reduce_addi(total);
    }
    return absmax / 127.0f + reduce_add(damage);
}

inline F activated(int kind, F x) {
    if (kind == 2) {
        F positive = maximum(zero(), x);
        return mul(positive, positive);
    }
    F inner = x;
    if (kind == 1) {  // gelu(x) by tanh = x * sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x^3)
        F cube = mul(mul(x, x), x);
        inner = mul(set1(1.5957691216f), fma(set1(0.044715f), cube, x));
    }
    return div(x, add(set1(1.0f), exponential(sub(zero(), inner))));
}

void activate(int kind, float* gate, const float* up, int n) {
    for (int i = 0; i < n; i += 16) {
        const int left = n - i;
        F g = left >= 16 ? load(gate + i) : load_tail(gate + i, left, 0);
        F result = activated(kind, g);
        if (up) result = mul(result, left >= 16 ? load(up + i) : load_tail(up + i, left, 0));
        if (left >= 16)
            store(gate + i, result);
        else
            store_tail(gate + i, left, result);
    }
}

float softmax(float* s, int n) {
    F most = load(s);
    for (int i = 16; i < n; i += 16) most = maximum(load(s + i), most);
    const F top = set1(reduce_max(most));
    F sum = zero();
    for (int i = 0; i < n; i += 16) {
        F p = exponential(sub(load(s + i), top));
        store(s + i, p);
        sum = add(sum, p);
    }
    return reduce_add(sum);
}

float sum_of(const void* data, int64_t bytes) {
    const float* p = static_cast<const float*>(data);
    F a = zero(), b = zero(), c = zero(), d = zero();
    for (int64_t i = 0; i + 64 <= bytes / 4; i += 64) {
        prefetch(reinterpret_cast<const uint8_t*>(p + i) + 2048);
        prefetch(reinterpret_cast<const uint8_t*>(p + i) + 2112);
        prefetch(reinterpret_cast<const uint8_t*>(p + i) + 2176);
        prefetch(reinterpret_cast<const uint8_t*>(p + i) + 2240);
        a = add(a, load(p + i)), b = add(b, load(p + i + 16)), c = add(c, load(p + i + 32)), d = add(d, load(p + i + 48));
    }
    return reduce_add(add(add(a, b), add(c, d)));
}

}  // namespace
}  // namespace smidgen
