// Products of every instruction set that runs here against the scalar ones: for machines that have no Python.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "abi.h"

namespace {

uint32_t state = 1;
uint32_t draw() { return state = state * 1664525u + 1013904223u, state >> 8; }
float unit() { return float(draw() % 20001) / 10000.0f - 1.0f; }

int check(int isa, int format, int activation, int rows, int cols, int group, int tokens) {
    std::vector<float> weight(size_t(rows) * size_t(cols)), x(size_t(tokens) * size_t(cols));
    for (float& w : weight) w = unit();
    for (float& v : x) v = unit();
    EdgeMatrix m = {};
    m.weight = {weight.data(), int64_t(weight.size()), DT_F32, 0};
    m.rows = rows, m.cols = cols, m.source = SRC_FLOAT, m.format = format, m.group = group, m.activation = activation;
    m.round = format >= FMT_TERNARY;
    std::strcpy(m.name, "product");
    const size_t size = size_t(tokens) * size_t(rows);
    std::vector<float> expected(size), result(size);
    if (edge_product(0, &m, tokens, x.data(), expected.data()) || edge_product(isa, &m, tokens, x.data(), result.data())) {
        std::printf("%s: %s\n", edge_isa_name(isa), edge_last_error());
        return 1;
    }
    // Sums of integers are equal; what is left is the order in which floats are added.
    float most = 0, error = 0;
    for (size_t i = 0; i < size; i++) {
        most = std::fmax(most, std::fabs(expected[i]));
        error = std::fmax(error, std::fabs(expected[i] - result[i]));
        if (!std::isfinite(result[i])) error = INFINITY;
    }
    // AVX-512 rounds inputs of bf16 weights where it multiplies pairs.
    const bool pairs = format == FMT_BF16 && tokens > 4 && !std::strncmp(edge_isa_name(isa), "avx512", 6);
    const float allowed = activation == ACT_INT8 && format != FMT_INT4 ? 0.0f : (pairs ? 4e-3f : 2e-6f) * most;
    if (most > 0 && error <= allowed) return 0;
    std::printf("%s: format %d, activation %d, %d x %d, group %d, %d tokens: error %g of %g\n", edge_isa_name(isa), format,
                activation, rows, cols, group, tokens, double(error), double(most));
    return 1;
}

}  // namespace

int main() {
    int wrong = 0, checked = 0;
    for (int isa = 0; edge_isa_name(isa); isa++) {
        if (!edge_isa_available(isa)) continue;
        std::printf("runs %s\n", edge_isa_name(isa));
        for (int format : {FMT_F32, FMT_BF16, FMT_INT8, FMT_INT4, FMT_TERNARY, FMT_BASE3})
            for (int activation : {ACT_FLOAT, ACT_INT8}) {
                if (format < FMT_INT8 && activation == ACT_INT8) continue;
                for (int tokens : {1, 3, 5, 17})
                    for (int rows : {16, 45})
                        for (int cols : {64, 100, 384}) {
                            wrong += check(isa, format, activation, rows, cols, format == FMT_INT4 ? 32 : -1, tokens);
                            checked++;
                        }
            }
    }
    std::printf("%d products, %d wrong\n", checked, wrong);
    return wrong != 0;
}
