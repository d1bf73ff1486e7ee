// kv_b_proj cut into heads, for latent attention that multiplies by it on both sides of the cache.
#include <cstring>

#include "packing.h"

namespace smidgen {
namespace {

// A head's part of kv_b_proj keeps its codes where one scale serves a row or the whole; else it is held as floats.
EdgeMatrix head_part(const EdgeMatrix& kv_b) {
    EdgeMatrix part = kv_b;
    part.activation = ACT_FLOAT;
    if (part.format == FMT_BASE3) part.format = FMT_TERNARY;  // a head's columns are few: five a byte would be padding
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

std::string absorb(const EdgeMatrix& kv_b, int heads, int nope, int v, Absorbed& result, Arena& arena, const Kernels& kernels) {
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
    source.format = codes ? key.format : int32_t(FMT_F32);
    Arena temporary(planned_bytes(plan_matrix(source)) + 4096);
    Matrix packed;
    std::string error = pack_matrix(source, packed, temporary, alone, kernels);
    if (!error.empty()) return error;
    for (int row = 0; row < kv_b.rows; row++) {
        const uint8_t* tile = packed.data + (row / kTile) * packed.tile_bytes;
        const int r = row % kTile;
        if (codes) row_scales[size_t(row)] = packed.row_scale[row];
        for (int c = 0; c < rank; c++) {
            const size_t at = size_t(row) * size_t(rank) + size_t(c);
            if (packed.format == FMT_INT8) {
                all_codes[at] = int16_t(tile[(c / 4) * 64 + r * 4 + c % 4] - 128);
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
