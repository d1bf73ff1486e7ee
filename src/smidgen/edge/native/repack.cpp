// From stored matrices to tiles, rounded on the way where that is asked for.
#include <atomic>
#include <cmath>

#include "packing.h"

namespace smidgen {

void pack_float_rows(const Matrix& m, uint8_t* tile, const float* const* rows) {
    for (int r = 0; r < kTile; r++) {
        if (!rows[r]) continue;
        if (m.format == FMT_F32) {
            float* out = reinterpret_cast<float*>(tile) + r;
            for (int c = 0; c < m.cols; c++) out[int64_t(c) * kTile] = rows[r][c];
        } else {
            uint16_t* out = reinterpret_cast<uint16_t*>(tile) + 2 * r;
            for (int c = 0; c < m.cols; c++) out[int64_t(c / 2) * 32 + c % 2] = float_to_bf16(rows[r][c]);
        }
    }
}

void pack_code_row(const Matrix& m, uint8_t* tile, int r, const int16_t* codes) {
    switch (m.format) {
        case FMT_INT8:
            for (int c = 0; c < m.cols; c++) tile[(c / 4) * 64 + r * 4 + c % 4] = uint8_t(codes[c] + 128);
            break;
        case FMT_INT4:
            for (int c = 0; c < m.cols; c++) {
                const int inside = c % 32, high = inside >= 16, j = (inside % 16) / 4;
                uint8_t& byte = tile[(c / 32) * 256 + j * 64 + r * 4 + c % 4];
                byte = uint8_t(high ? (byte & 0x0f) | (codes[c] << 4) : (byte & 0xf0) | codes[c]);
            }
            break;
        case FMT_BASE3:
            for (int c = 0; c < m.cols; c += kBase3Columns)
                for (int b = 0; b < 4; b++) {
                    int number = 0;
                    for (int i = 0; i < kDigits; i++) {
                        const int at = c + 4 * i + b;
                        number = 3 * number + (at < m.cols ? codes[at] : 1);
                    }
                    tile[(c / kBase3Columns) * 64 + r * 4 + b] = uint8_t((number * 256 + 242) / 243);
                }
            break;
        default:
            for (int c = 0; c < m.cols; c++) {
                const int shift = 2 * ((c % 16) / 4);
                uint8_t& byte = tile[(c / 16) * 64 + r * 4 + c % 4];
                byte = uint8_t((byte & ~(3 << shift)) | (codes[c] << shift));
            }
    }
}

uint8_t empty_byte(int format) {
    return format == FMT_INT8 || format == FMT_BASE3 ? 0x80 : format == FMT_INT4 ? 0x88 : format == FMT_TERNARY ? 0x55 : 0;
}

namespace {

constexpr int kMostBase3Columns = 65000;  // 256 times a sum of codes of -127 ... 127 is a 32-bit number
constexpr size_t kReleaseAtOnce = size_t(8) << 20;  // of a stored matrix, once packed

bool is_bf16(float value) { return (float_to_bits(value) & 0xffff) == 0; }

// What packing knows of a matrix beyond its stored numbers.
struct Rounding {
    float ternary_scale = 0, ternary_inverse = 0;
    std::vector<float> fp8_scales;  // [row blocks, column blocks] of 128
};

struct Packing {
    const EdgeMatrix& source;
    Matrix& m;
    uint8_t* data;
    float* row_scale;
    float* block_scale;
    Rounding rounding;
    ThreadPool* pool;
    const Kernels& k;
    std::vector<double> partial;
    std::atomic<bool> damaged{false};
    std::atomic<bool> illegal{false};
    std::atomic<bool> unbounded{false};  // a scale of a group
};

void store_scale(const Matrix& m, uint8_t* tile, int group, int r, float scale) {
    uint8_t* scales = tile + int64_t(m.groups) * m.group * 8;
    const int64_t at = int64_t(group) * kTile + r;
    if (m.scale_bytes == 2)
        reinterpret_cast<uint16_t*>(scales)[at] = float_to_bf16(scale);
    else
        reinterpret_cast<float*>(scales)[at] = scale;
}

// A float row rounded to the codes of the wanted format, as the reference does it.
void quantize_row(Packing& p, int row, uint8_t* tile, int r, const float* values, int16_t* codes) {
    Matrix& m = p.m;
    if (is_ternary(m.format)) {
        for (int c = 0; c < m.cols; c++) {
            const float code = __builtin_rintf(values[c] * p.rounding.ternary_inverse);
            codes[c] = int16_t(1 + (code > 1 ? 1 : code < -1 ? -1 : int(code)));
        }
        p.row_scale[row] = p.rounding.ternary_scale;
    } else if (m.format == FMT_INT8) {
        float most = 0;
        for (int c = 0; c < m.cols; c++) most = larger(most, std::fabs(values[c]));
        const float scale = most > 0 ? bf16_to_float(float_to_bf16(most / 127.0f)) : 1.0f;
        for (int c = 0; c < m.cols; c++) {
            const float code = __builtin_rintf(values[c] / scale);
            codes[c] = int16_t(code > 127 ? 127 : code < -128 ? -128 : int(code));
        }
        p.row_scale[row] = scale;
    } else {
        for (int g = 0; g < m.groups; g++) {
            const int first = g * m.group, last = smaller(m.cols, first + m.group);
            float lowest = 0, highest = 0;
            for (int c = first; c < last; c++) lowest = smaller(lowest, values[c]), highest = larger(highest, values[c]);
            const float most = larger(highest / 7.0f, lowest / -8.0f);
            const float scale = most > 0 ? bf16_to_float(float_to_bf16(most)) : 1.0f;
            store_scale(m, tile, g, r, scale);
            for (int c = first; c < last; c++) {
                const float code = __builtin_rintf(values[c] / scale);
                codes[c] = int16_t(8 + (code > 7 ? 7 : code < -8 ? -8 : int(code)));
            }
        }
    }
    pack_code_row(m, tile, r, codes);
}

// The scales of a row of stored int4 codes, and its zero points.
void copy_int4_scales(Packing& p, int row, uint8_t* tile, int r) {
    const EdgeMatrix& s = p.source;
    const Matrix& m = p.m;
    const int64_t first = int64_t(row) * m.groups;
    if (s.scale.dtype == DT_BF16) {
        const uint16_t* from = static_cast<const uint16_t*>(s.scale.data) + first;
        uint16_t* to = reinterpret_cast<uint16_t*>(tile + int64_t(m.groups) * m.group * 8) + r;
        bool infinite = false;
        for (int g = 0; g < m.groups; g++) to[g * kTile] = from[g], infinite |= (from[g] & 0x7f80) == 0x7f80;
        if (infinite) p.unbounded = true;
    } else {
        for (int g = 0; g < m.groups; g++) {
            const float scale = read_float(s.scale, first + g);
            store_scale(m, tile, g, r, scale);
            if (!std::isfinite(scale)) p.unbounded = true;
        }
    }
    if (!m.has_zeros) return;
    uint8_t* zeros = tile + int64_t(m.groups) * (m.group * 8 + kTile * m.scale_bytes);
    for (int g = 0; g < m.groups; g++) zeros[g * kTile + r] = uint8_t(int4_zero(s, row, g));
}

// A whole tile of stored int4 codes at once, where its columns are whole runs of 32: every byte of it is written.
void copy_int4_tile(Packing& p, int tile, uint8_t* out) {
    const EdgeMatrix& s = p.source;
    const int64_t row_bytes = s.cols / 2;
    p.k.pack_int4(static_cast<const uint8_t*>(s.weight.data) + int64_t(tile) * kTile * row_bytes, row_bytes, s.cols / 32, out);
    for (int r = 0; r < kTile; r++) copy_int4_scales(p, tile * kTile + r, out, r);
}

// The codes of a row that is stored quantised in the wanted format already.
void copy_row(Packing& p, int row, uint8_t* tile, int r, int16_t* codes) {
    const EdgeMatrix& s = p.source;
    Matrix& m = p.m;
    if (m.format == FMT_INT8) {
        const int8_t* stored = static_cast<const int8_t*>(s.weight.data) + int64_t(row) * s.cols;
        for (int c = 0; c < s.cols; c++) codes[c] = stored[c];
        p.row_scale[row] = read_float(s.scale, row);
    } else if (m.format == FMT_INT4) {
        for (int c = 0; c < s.cols; c++) codes[c] = int16_t(int4_code(s, row, c));
        copy_int4_scales(p, row, tile, r);
    } else {
        for (int c = 0; c < s.cols; c++) {
            codes[c] = int16_t(ternary_code(s, row, c));
            if (codes[c] > 2) p.illegal = true, codes[c] = 1;
        }
        p.row_scale[row] = read_float(s.scale, 0);
    }
    pack_code_row(m, tile, r, codes);
}

bool stored_as_codes(const EdgeMatrix& s, int format) {
    return (s.source == SRC_INT8 && format == FMT_INT8) || (s.source == SRC_INT4 && format == FMT_INT4) ||
           (s.source == SRC_TERNARY && is_ternary(format));
}

void fp8_row(Packing& p, int row, float* values) {
    const EdgeMatrix& s = p.source;
    if (s.source == SRC_FP8) {
        const uint8_t* stored = static_cast<const uint8_t*>(s.weight.data) + int64_t(row) * s.cols;
        for (int c = 0; c < s.cols; c++) values[c] = e4m3_to_float(stored[c]);
        return;
    }
    const int64_t per_row = (s.cols + 127) / 128;
    for (int c = 0; c < s.cols; c++)
        values[c] = round_to_e4m3(values[c] / p.rounding.fp8_scales[(row / 128) * per_row + c / 128]);
}

void pack_tile(Packing& p, int tile, float* rows, int16_t* codes) {
    const EdgeMatrix& s = p.source;
    Matrix& m = p.m;
    uint8_t* out = p.data + tile * m.tile_bytes;
    const bool copy = stored_as_codes(s, m.format), fp8 = m.block_scale != nullptr;
    if (copy && m.format == FMT_INT4 && m.padded == m.cols && (tile + 1) * kTile <= m.rows) return copy_int4_tile(p, tile, out);
    const int64_t vectors = m.format == FMT_INT4 ? int64_t(m.groups) * m.group * 8 : m.tile_bytes;
    if (m.format >= FMT_INT8) std::memset(out, empty_byte(m.format), size_t(vectors));
    if (m.format == FMT_INT4 && m.has_zeros)
        std::memset(out + vectors + int64_t(m.groups) * kTile * m.scale_bytes, 8, size_t(m.groups) * kTile);
    const float* pointers[kTile] = {};
    for (int r = 0; r < kTile && tile * kTile + r < m.rows; r++) {
        const int row = tile * kTile + r;
        if (copy) {
            copy_row(p, row, out, r, codes);
            continue;
        }
        float* values = rows + int64_t(r) * m.cols;
        if (!read_row(s, row, values)) p.damaged = true;
        if (fp8) fp8_row(p, row, values);
        if (m.format >= FMT_INT8)
            quantize_row(p, row, out, r, values, codes);
        else
            pointers[r] = values;
    }
    if (m.format < FMT_INT8) pack_float_rows(m, out, pointers);
    if (fp8)
        for (int g = 0; g < m.groups; g++)
            p.block_scale[int64_t(tile) * m.groups + g] =
                s.source == SRC_FP8 ? fp8_scale(s, tile * kTile, g * m.group)
                                    : p.rounding.fp8_scales[(tile * kTile / 128) * int64_t(m.groups) + g];
}

void pack_range(void* argument, int thread) {
    Packing& p = *static_cast<Packing*>(argument);
    const int threads = p.pool->size();
    std::vector<float> rows(size_t(kTile) * p.m.cols);
    std::vector<int16_t> codes(size_t(p.m.cols));
    const int first_row = int(int64_t(p.m.rows) * thread / threads), last_row = int(int64_t(p.m.rows) * (thread + 1) / threads);
    if (is_ternary(p.m.format) && p.source.source == SRC_FLOAT) {
        double sum = 0;
        for (int row = first_row; row < last_row; row++) {
            if (!read_row(p.source, row, rows.data())) p.damaged = true;
            for (int c = 0; c < p.m.cols; c++) sum += std::fabs(double(rows[c]));
        }
        p.partial[thread] = sum;
        p.pool->barrier();
        if (thread == 0) {
            double total = 0;
            for (double part : p.partial) total += part;
            const float mean = larger(float(total / (double(p.m.rows) * p.m.cols)), 1e-5f);
            p.rounding.ternary_inverse = 1.0f / mean;
            p.rounding.ternary_scale = 1.0f / p.rounding.ternary_inverse;  // the reference divides by the inverse
        }
        p.pool->barrier();
    }
    if (p.source.round >= 2 && p.source.source == SRC_FLOAT) {
        const int blocks = (p.m.rows + 127) / 128, columns = (p.m.cols + 127) / 128;
        for (int b = thread; b < blocks; b += threads)
            for (int row = 128 * b; row < smaller(p.m.rows, 128 * b + 128); row++) {
                if (!read_row(p.source, row, rows.data())) p.damaged = true;
                for (int c = 0; c < p.m.cols; c++) {
                    float& most = p.rounding.fp8_scales[int64_t(b) * columns + c / 128];
                    most = larger(most, std::fabs(rows[c]));
                }
            }
        p.pool->barrier();
        if (thread == 0)
            for (float& scale : p.rounding.fp8_scales) {
                scale = larger(scale, 1e-4f) / 448.0f;
                if (p.source.round == 3) scale = std::exp2(std::ceil(std::log2(scale)));
            }
        p.pool->barrier();
    }
    const int first = int(int64_t(p.m.tiles) * thread / threads), last = int(int64_t(p.m.tiles) * (thread + 1) / threads);
    const EdgeMatrix& s = p.source;
    const bool in_rows = s.source != SRC_TERNARY;  // those are stored as four quarters beside each other
    const size_t row_bytes = in_rows ? stored_bytes(s.weight) / size_t(s.rows) : 0;
    int released = first;
    for (int tile = first; tile < last; tile++) {
        pack_tile(p, tile, rows.data(), codes.data());
        if (!in_rows || (tile + 1 < last && size_t(tile + 1 - released) * kTile * row_bytes < kReleaseAtOnce)) continue;
        const size_t begin = size_t(released) * kTile, end = smaller(size_t(tile + 1) * kTile, size_t(s.rows));
        release_pages(static_cast<const char*>(s.weight.data) + begin * row_bytes, (end - begin) * row_bytes);
        released = tile + 1;
    }
}

}  // namespace

Matrix plan_matrix(const EdgeMatrix& s) {
    Matrix m;
    m.rows = s.rows, m.cols = s.cols, m.activation = s.activation;
    m.format = s.format == FMT_BASE3 && s.cols > kMostBase3Columns ? int32_t(FMT_TERNARY) : s.format;
    m.tiles = (s.rows + kTile - 1) / kTile;
    m.padded = int(round_up(s.cols, kColumns));
    const bool fp8 = (s.source == SRC_FP8 || s.round >= 2) && m.format < FMT_INT8;
    switch (m.format) {
        case FMT_F32: m.tile_bytes = int64_t(m.padded) * 64; break;
        case FMT_BF16: m.tile_bytes = int64_t(m.padded) * 32; break;
        case FMT_INT8: m.tile_bytes = int64_t(m.padded) * 16; break;
        case FMT_TERNARY: m.tile_bytes = int64_t(m.padded) * 4; break;
        case FMT_BASE3: {
            const int64_t vectors = (s.cols + kBase3Columns - 1) / kBase3Columns;
            m.padded = int(round_up(vectors * kBase3Columns, kColumns));
            m.tile_bytes = vectors * 64;
            break;
        }
        default: {
            const bool stored = s.source == SRC_INT4;
            m.group = s.group < 0 ? int(round_up(s.cols, kSumGroup)) : s.group;
            m.groups = (s.cols + m.group - 1) / m.group;
            m.padded = m.group * m.groups;
            m.has_zeros = stored && s.zero.data;
            m.scale_bytes = 2;
            if (stored && s.scale.dtype != DT_BF16)
                for (int64_t i = 0; i < int64_t(s.rows) * m.groups && m.scale_bytes == 2; i++)
                    if (!is_bf16(read_float(s.scale, i))) m.scale_bytes = 4;
            m.tile_bytes = round_up(int64_t(m.padded) * 8 + int64_t(m.groups) * kTile * (m.scale_bytes + m.has_zeros), 64);
        }
    }
    if (fp8) {
        m.group = s.source == SRC_FP8 && s.group < 0 ? m.padded : s.source == SRC_FP8 ? s.group : 128;
        m.groups = (m.cols + m.group - 1) / m.group;
        m.padded = int(round_up(m.padded, 64));
        m.block_scale = reinterpret_cast<const float*>(1);  // filled by pack_matrix
    }
    return m;
}

size_t planned_bytes(const Matrix& m) {
    size_t bytes = size_t(m.tile_bytes) * size_t(m.tiles) + 64;
    bytes += size_t(m.tiles) * kTile * 4 + 64;
    if (m.block_scale) bytes += size_t(m.tiles) * size_t(m.groups) * 4 + 64;
    return bytes;
}

std::string pack_matrix(const EdgeMatrix& s, Matrix& m, Arena& arena, ThreadPool& pool, const Kernels& kernels) {
    m = plan_matrix(s);
    uint8_t* data = static_cast<uint8_t*>(arena.take(size_t(m.tile_bytes) * size_t(m.tiles)));
    float* row_scale = nullptr;
    float* block_scale = nullptr;
    if (m.format == FMT_INT8 || is_ternary(m.format))
        row_scale = static_cast<float*>(arena.take(size_t(m.tiles) * kTile * 4));
    if (m.block_scale) block_scale = static_cast<float*>(arena.take(size_t(m.tiles) * size_t(m.groups) * 4));
    m.data = data, m.row_scale = row_scale, m.block_scale = block_scale;
    Packing p{s, m, data, row_scale, block_scale, {}, &pool, kernels, std::vector<double>(size_t(pool.size())), {}, {}, {}};
    if (s.round >= 2) p.rounding.fp8_scales.assign(size_t((m.rows + 127) / 128) * size_t((m.cols + 127) / 128), 0.0f);
    pool.run(pack_range, &p);
    release_pages(s.weight.data, stored_bytes(s.weight));
    if (p.damaged) return std::string(s.name) + ": holds NaN or infinity; the weights are damaged, copy the folder again";
    if (p.illegal) return std::string(s.name) + ": holds a code that is no ternary value; copy the folder again";
    const bool seen = m.format == FMT_INT4 && stored_as_codes(s, m.format);  // by pack_range
    if (s.scale.data && !seen)
        for (int64_t i = 0; i < s.scale.count && !p.unbounded; i++) p.unbounded = !std::isfinite(read_float(s.scale, i));
    if (p.unbounded) return std::string(s.name) + ": a scale is NaN or infinity; the weights are damaged, copy the folder again";
    return {};
}

}  // namespace smidgen
