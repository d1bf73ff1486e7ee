// Numbers as the folder stores them.
#include "packing.h"

namespace smidgen {
namespace {

bool all_finite(const float* values, int n) {
    float damage = 0;
    for (int i = 0; i < n; i++) damage += values[i] * 0.0f;
    return damage == 0.0f;
}

}  // namespace

int int4_code(const EdgeMatrix& m, int row, int col) {
    const int64_t words = (m.cols + 7) / 8;
    const uint32_t word = static_cast<const uint32_t*>(m.weight.data)[row * words + col / 8];
    return int((word >> (4 * (col % 8))) & 15);
}

int int4_groups(const EdgeMatrix& m) { return m.group < 0 ? 1 : (m.cols + m.group - 1) / m.group; }

// Zero points are packed along the rows.
int int4_zero(const EdgeMatrix& m, int row, int group) {
    if (!m.zero.data) return 8;
    const uint32_t word = static_cast<const uint32_t*>(m.zero.data)[int64_t(row / 8) * int4_groups(m) + group];
    return int((word >> (4 * (row % 8))) & 15);
}

int ternary_code(const EdgeMatrix& m, int row, int col) {
    const int quarter = m.rows / 4;
    const uint8_t byte = static_cast<const uint8_t*>(m.weight.data)[int64_t(row % quarter) * m.cols + col];
    return int((byte >> (2 * (row / quarter))) & 3);
}

float fp8_scale(const EdgeMatrix& m, int row, int col) {
    if (m.group < 0) return read_float(m.scale, 0);
    const int64_t per_row = (m.cols + m.group - 1) / m.group;
    return read_float(m.scale, (row / m.group) * per_row + col / m.group);
}

size_t stored_bytes(const EdgeTensor& t) {
    const int size = t.dtype == DT_F32 || t.dtype == DT_I32 ? 4 : t.dtype == DT_BF16 || t.dtype == DT_F16 ? 2 : 1;
    return size_t(t.count) * size_t(size);
}

float read_float(const EdgeTensor& t, int64_t index) {
    switch (t.dtype) {
        case DT_F32: return static_cast<const float*>(t.data)[index];
        case DT_BF16: return bf16_to_float(static_cast<const uint16_t*>(t.data)[index]);
        case DT_F16: return f16_to_float(static_cast<const uint16_t*>(t.data)[index]);
        default: return e4m3_to_float(static_cast<const uint8_t*>(t.data)[index]);
    }
}

bool read_row(const EdgeMatrix& m, int row, float* out) {
    const int64_t start = int64_t(row) * m.cols;
    switch (m.source) {
        case SRC_FLOAT:
            if (m.weight.dtype == DT_F32) {
                std::memcpy(out, static_cast<const float*>(m.weight.data) + start, size_t(m.cols) * 4);
            } else if (m.weight.dtype == DT_BF16) {
                const uint16_t* stored = static_cast<const uint16_t*>(m.weight.data) + start;
                for (int c = 0; c < m.cols; c++) out[c] = bf16_to_float(stored[c]);
            } else {
                for (int c = 0; c < m.cols; c++) out[c] = read_float(m.weight, start + c);
            }
            break;
        case SRC_INT8: {
            const int8_t* stored = static_cast<const int8_t*>(m.weight.data) + start;
            const float scale = read_float(m.scale, row);
            for (int c = 0; c < m.cols; c++) out[c] = float(stored[c]) * scale;
            break;
        }
        case SRC_INT4: {
            const int groups = int4_groups(m);
            for (int c = 0; c < m.cols; c++) {
                const int g = m.group < 0 ? 0 : c / m.group;
                out[c] = float(int4_code(m, row, c) - int4_zero(m, row, g)) * read_float(m.scale, int64_t(row) * groups + g);
            }
            break;
        }
        case SRC_TERNARY: {
            const float scale = read_float(m.scale, 0);
            for (int c = 0; c < m.cols; c++) out[c] = float(ternary_code(m, row, c) - 1) * scale;
            break;
        }
        default: {
            const uint8_t* stored = static_cast<const uint8_t*>(m.weight.data) + start;
            for (int c = 0; c < m.cols; c++) out[c] = e4m3_to_float(stored[c]) * fp8_scale(m, row, c);
        }
    }
    return all_finite(out, m.cols);
}

}  // namespace smidgen
