#include "repack.h"

#include <atomic>
#include <cmath>
#include <map>
#include <mutex>
#include <new>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace smidgen {
namespace {

constexpr size_t kLargePage = size_t(2) << 20;
constexpr int kMostBase3Columns = 65000;  // 256 times a sum of codes of -127 ... 127 is a 32-bit number
constexpr size_t kReleaseAtOnce = size_t(8) << 20;  // of a stored matrix, once packed

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

bool all_finite(const float* values, int n) {
    float damage = 0;
    for (int i = 0; i < n; i++) damage += values[i] * 0.0f;
    return damage == 0.0f;
}

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
    std::vector<double> partial;
    std::atomic<bool> damaged{false};
    std::atomic<bool> illegal{false};
};

// Sixteen rows of floats, after the rounding that the model asks for, into a tile.
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

// Codes: -128 ... 127, 0 ... 15 or 0 ... 2 by the format; missing rows keep what stands for zero.
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

// Four nibbles as four bytes.
inline uint32_t spread_nibbles(uint32_t x) {
    x = (x | (x << 8)) & 0x00ff00ffu;
    return (x | (x << 4)) & 0x0f0f0f0fu;
}

// A row of stored int4 codes, whole runs of 32 columns (four words), into its lanes of a tile.
void copy_int4_row(const EdgeMatrix& s, int row, uint8_t* tile, int r) {
    const uint32_t* words = static_cast<const uint32_t*>(s.weight.data) + int64_t(row) * (s.cols / 8);
    for (int c = 0; c < s.cols; c += 32, words += 4, tile += 256)
        for (int j = 0; j < 4; j++) {
            const int half = 16 * (j % 2);
            const uint32_t low = (words[j / 2] >> half) & 0xffff, high = (words[2 + j / 2] >> half) & 0xffff;
            const uint32_t four = spread_nibbles(low) | (spread_nibbles(high) << 4);
            std::memcpy(tile + 64 * j + 4 * r, &four, 4);
        }
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
        const bool whole = s.cols % 32 == 0;
        if (whole) copy_int4_row(s, row, tile, r);
        else
            for (int c = 0; c < s.cols; c++) codes[c] = int16_t(int4_code(s, row, c));
        for (int g = 0; g < m.groups; g++) {
            store_scale(m, tile, g, r, read_float(s.scale, int64_t(row) * m.groups + g));
            if (m.has_zeros) {
                uint8_t* zeros = tile + int64_t(m.groups) * m.group * 8 + int64_t(m.groups) * kTile * m.scale_bytes;
                zeros[g * kTile + r] = uint8_t(int4_zero(s, row, g));
            }
        }
        if (whole) return;
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

namespace {

std::mutex mappings_mutex;
std::map<uintptr_t, size_t> mappings;

}  // namespace

void note_mapping(const void* data, size_t bytes) {
    std::lock_guard<std::mutex> lock(mappings_mutex);
    mappings[reinterpret_cast<uintptr_t>(data)] = bytes;
}

void forget_mapping(const void* data) {
    std::lock_guard<std::mutex> lock(mappings_mutex);
    mappings.erase(reinterpret_cast<uintptr_t>(data));
}

// Only pages that lie wholly inside, and only of a file: memory that the caller owns would be lost.
void release_pages(const void* data, size_t bytes) {
#if (defined(__unix__) || defined(__APPLE__)) && defined(MADV_DONTNEED)
    const uintptr_t start = reinterpret_cast<uintptr_t>(data);
    const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE)), first = (start + page - 1) / page * page;
    const uintptr_t last = (start + bytes) / page * page;
    std::lock_guard<std::mutex> lock(mappings_mutex);
    auto behind = mappings.upper_bound(start);
    if (behind == mappings.begin()) return;
    const auto& found = *--behind;
    if (start + bytes <= found.first + found.second && first < last)
        madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
#else
    (void)data, (void)bytes;
#endif
}

Arena::Arena(size_t bytes) : bytes_(size_t(round_up(int64_t(bytes), int64_t(kLargePage)))) {
#if defined(__unix__) || defined(__APPLE__)
    void* region = mmap(nullptr, bytes_ + kLargePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (region == MAP_FAILED) throw std::bad_alloc();
    data_ = static_cast<char*>(region);
    used_ = size_t(round_up(int64_t(reinterpret_cast<uintptr_t>(data_)), int64_t(kLargePage)) - int64_t(reinterpret_cast<uintptr_t>(data_)));
    bytes_ += kLargePage;
#if defined(MADV_HUGEPAGE)
    madvise(data_, bytes_, MADV_HUGEPAGE);
#endif
#else
    data_ = new char[bytes_ + 64]();
    used_ = 64 - reinterpret_cast<uintptr_t>(data_) % 64;
    bytes_ += 64;
#endif
}

Arena::~Arena() {
#if defined(__unix__) || defined(__APPLE__)
    if (data_) munmap(data_, bytes_);
#else
    delete[] data_;
#endif
}

void* Arena::take(size_t bytes) {
    bytes = size_t(round_up(int64_t(bytes), 64));
    if (used_ + bytes > bytes_) throw std::bad_alloc();
    void* result = data_ + used_;
    used_ += bytes;
    return result;
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

std::string pack_matrix(const EdgeMatrix& s, Matrix& m, Arena& arena, ThreadPool& pool) {
    m = plan_matrix(s);
    uint8_t* data = static_cast<uint8_t*>(arena.take(size_t(m.tile_bytes) * size_t(m.tiles)));
    float* row_scale = nullptr;
    float* block_scale = nullptr;
    if (m.format == FMT_INT8 || is_ternary(m.format))
        row_scale = static_cast<float*>(arena.take(size_t(m.tiles) * kTile * 4));
    if (m.block_scale) block_scale = static_cast<float*>(arena.take(size_t(m.tiles) * size_t(m.groups) * 4));
    m.data = data, m.row_scale = row_scale, m.block_scale = block_scale;
    Packing p{s, m, data, row_scale, block_scale, {}, &pool, std::vector<double>(size_t(pool.size())), {}, {}};
    if (s.round >= 2) p.rounding.fp8_scales.assign(size_t((m.rows + 127) / 128) * size_t((m.cols + 127) / 128), 0.0f);
    pool.run(pack_range, &p);
    release_pages(s.weight.data, stored_bytes(s.weight));
    if (p.damaged) return std::string(s.name) + ": holds NaN or infinity; the weights are damaged, copy the folder again";
    if (p.illegal) return std::string(s.name) + ": holds a code that is no ternary value; copy the folder again";
    if (s.scale.data)
        for (int64_t i = 0; i < s.scale.count; i++)
            if (!std::isfinite(read_float(s.scale, i)))
                return std::string(s.name) + ": a scale is NaN or infinity; the weights are damaged, copy the folder again";
    return {};
}

namespace {

// A head's part of kv_b_proj keeps its codes where one scale serves a row or the whole; else it is held as floats.
EdgeMatrix head_part(const EdgeMatrix& kv_b) {
    EdgeMatrix part = kv_b;
    part.activation = ACT_FLOAT;
    if (part.format == FMT_INT4 || kv_b.source == SRC_FP8 || kv_b.round >= 2) part.format = FMT_F32;
    part.round = 0;
    part.source = SRC_FLOAT;  // of the plan: what is stored comes through codes or floats in memory
    return part;
}

}  // namespace

size_t absorbed_bytes(const EdgeMatrix& kv_b, int heads, int nope, int v) {
    EdgeMatrix key = head_part(kv_b), value = key;
    key.rows = kv_b.cols, key.cols = nope;
    value.rows = v;
    size_t bytes = planned_bytes(plan_matrix(key)) + planned_bytes(plan_matrix(value));
    bytes += size_t(round_up(nope, kColumns)) * 4 + 64;
    return bytes * size_t(heads);
}

std::string absorb(const EdgeMatrix& kv_b, int heads, int nope, int v, Absorbed& result, Arena& arena) {
    const int rank = kv_b.cols, per_head = nope + v;
    EdgeMatrix key = head_part(kv_b), value = key;
    key.rows = rank, key.cols = nope;
    value.rows = v;
    // The whole matrix as codes with a scale a row, or as floats, by the packing that the other matrices go through.
    ThreadPool alone(1);
    const bool codes = key.format >= FMT_INT8;
    const size_t whole = size_t(kv_b.rows) * size_t(rank);
    std::vector<float> floats(codes ? 0 : whole), row_scales(size_t(round_up(kv_b.rows, kTile)));
    std::vector<int16_t> all_codes(codes ? whole : 0);
    EdgeMatrix source = kv_b;
    if (!codes) source.format = FMT_F32;
    Arena temporary(planned_bytes(plan_matrix(source)) + 4096);
    Matrix packed;
    std::string error = pack_matrix(source, packed, temporary, alone);
    if (!error.empty()) return error;
    for (int row = 0; row < kv_b.rows; row++) {
        const uint8_t* tile = packed.data + (row / kTile) * packed.tile_bytes;
        const int r = row % kTile;
        if (codes) row_scales[size_t(row)] = packed.row_scale[row];
        for (int c = 0; c < rank; c++) {
            const size_t at = size_t(row) * size_t(rank) + size_t(c);
            if (packed.format == FMT_INT8) {
                all_codes[at] = int16_t(tile[(c / 4) * 64 + r * 4 + c % 4] - 128);
            } else if (packed.format == FMT_BASE3) {
                uint32_t byte = tile[(c / kBase3Columns) * 64 + r * 4 + c % 4];
                for (int i = 0; i < c % kBase3Columns / 4; i++) byte = (3 * byte) & 0xff;
                all_codes[at] = int16_t((3 * byte) >> 8);
            } else if (packed.format == FMT_TERNARY) {
                all_codes[at] = int16_t((tile[(c / 16) * 64 + r * 4 + c % 4] >> (2 * ((c % 16) / 4))) & 3);
            } else {
                float number = reinterpret_cast<const float*>(tile)[int64_t(c) * kTile + r];
                if (packed.block_scale) number *= packed.block_scale[int64_t(row / kTile) * packed.groups + c / packed.group];
                floats[at] = number;
            }
        }
    }
    auto build = [&](const EdgeMatrix& plan, int first_row, bool transposed) {
        Matrix m = plan_matrix(plan);
        uint8_t* data = static_cast<uint8_t*>(arena.take(size_t(m.tile_bytes) * size_t(m.tiles)));
        m.data = data;
        std::vector<float> rows(size_t(kTile) * size_t(m.cols));
        std::vector<int16_t> row(size_t(m.cols));
        float* scales = nullptr;
        if (codes) {
            scales = static_cast<float*>(arena.take(size_t(m.tiles) * kTile * 4));
            m.row_scale = scales;
            std::memset(data, empty_byte(m.format), size_t(m.tile_bytes) * size_t(m.tiles));
        }
        auto index = [&](int r, int c) {
            return transposed ? size_t(first_row + c) * size_t(rank) + size_t(r) : size_t(first_row + r) * size_t(rank) + size_t(c);
        };
        for (int tile = 0; tile < m.tiles; tile++) {
            const float* pointers[kTile] = {};
            for (int r = 0; r < kTile && tile * kTile + r < m.rows; r++) {
                const int at = tile * kTile + r;
                if (codes) {
                    for (int c = 0; c < m.cols; c++) row[size_t(c)] = all_codes[index(at, c)];
                    pack_code_row(m, data + tile * m.tile_bytes, r, row.data());
                    scales[at] = transposed ? 1.0f : row_scales[size_t(first_row + at)];
                } else {
                    for (int c = 0; c < m.cols; c++) rows[size_t(r) * size_t(m.cols) + size_t(c)] = floats[index(at, c)];
                    pointers[r] = rows.data() + size_t(r) * size_t(m.cols);
                }
            }
            if (!codes) pack_float_rows(m, data + tile * m.tile_bytes, pointers);
        }
        if (codes && transposed) {
            float* columns = static_cast<float*>(arena.take(size_t(m.padded) * 4));
            for (int c = 0; c < m.cols; c++) columns[c] = row_scales[size_t(first_row + c)];
            m.column_scale = columns;
        }
        return m;
    };
    for (int h = 0; h < heads; h++) {
        result.keys.push_back(build(key, h * per_head, true));
        result.values.push_back(build(value, h * per_head + nope, false));
    }
    return {};
}

}  // namespace smidgen
