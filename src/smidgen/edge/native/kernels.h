// The table of functions that each instruction set fills, and what they work on.
#pragma once
#include "abi.h"
#include "common.h"

namespace smidgen {

// A matrix packed in tiles of 16 rows. A tile is a sequence of 64-byte vectors, four bytes for each row:
//   F32      one column                 BF16     columns 2j, 2j + 1
//   INT8     columns 4j ... 4j + 3, code + 128
//   INT4     of each 32 columns, vector j: 4j ... 4j + 3 in the low nibbles, 16 + 4j ... in the high ones; code + 8
//   TERNARY  of each 64 columns, vector j: byte b, bits 2i: column 16 j + 4 i + b; code + 1
//   BASE3    20 columns: byte b is ceil(256 / 243 * sum of digit i * 3^(4 - i)), digit i of column 4 i + b; code + 1
// Behind the vectors of a tile stand, for INT4, scales [groups, 16] of `scale_bytes` each and zero points [groups, 16].
struct Matrix {
    int32_t format = 0, activation = 0;
    int32_t rows = 0, cols = 0, padded = 0, tiles = 0;
    int32_t group = 0, groups = 0, scale_bytes = 0, has_zeros = 0;
    int64_t tile_bytes = 0;
    const uint8_t* data = nullptr;
    const float* row_scale = nullptr;    // [tiles * 16]; INT8, TERNARY and BASE3
    const float* block_scale = nullptr;  // [tiles, groups]: of `group` columns; BF16 from FP8 blocks
    const float* column_scale = nullptr; // [padded]: the input is multiplied by it first (absorbed matrices)
    int64_t bytes() const { return tile_bytes * tiles + (row_scale ? 4ll * tiles * kTile : 0); }
};

constexpr int kDigits = 5, kBase3Columns = 4 * kDigits;  // of a byte and of a vector of BASE3
inline bool is_ternary(int format) { return format == FMT_TERNARY || format == FMT_BASE3; }

// Inputs of a product: token rows with a stride; codes only where a matrix asks for them.
struct Inputs {
    float* values = nullptr;     // [tokens, stride], zero behind the last column
    int8_t* codes = nullptr;     // [tokens, stride]
    int32_t* sums = nullptr;     // [tokens, stride / 32]
    float* scale = nullptr;      // [tokens]
    int64_t stride = 0;
    float* block_values = nullptr;   // blocks of `block` tokens: [stride, block]
    int8_t* block_codes = nullptr;   // [stride / 4, block, 4]
    int32_t* block_sums = nullptr;   // [stride / 32, block], times -8: what is added where a nibble of 8 stands for zero
    uint8_t* block_pairs = nullptr;  // [stride / 2, block] pairs of bf16, or of 16-bit codes
    float* pair_scales = nullptr;    // [stride / 64, block]: what 64 columns of such codes are multiplied by
};

constexpr int kPairGroup = 64;  // columns of codes of 16 bits that share a scale, in inputs and in weights

// Whether `gemm` rounds the inputs of this matrix where an instruction set multiplies pairs of them: to bf16 or to codes.
inline bool takes_pairs(const Matrix& m) { return m.format == FMT_BF16 && m.activation == ACT_FLOAT && !m.block_scale; }

// An input of `map`: numbers of DT_F32 or DT_BF16, or where `data` is null the one `value`.
struct MapInput {
    const void* data = nullptr;
    int dtype = DT_F32;
    float value = 0;
};

// What recorded operations are made of: `dtype` is DT_F32 or DT_BF16, sums are float32.
struct RecordedKernels {
    // y [m][row] = sum over i of rows [row][i] times x [m][i], `length` numbers; strides in numbers.
    void (*dots)(int dtype, const void* rows, int64_t row_stride, int64_t count, int64_t length, const float* x, int64_t many,
                 int64_t x_stride, float* y, int64_t y_stride);
    // y [m][i] = sum over rows of w [m][row] times rows [row][i], `width` numbers.
    void (*weighted)(int dtype, const void* rows, int64_t row_stride, int64_t count, int64_t width, const float* w,
                     int64_t many, int64_t w_stride, float* y, int64_t y_stride);
    // An operation of maps_vectors() on n numbers, three inputs.
    void (*map)(int code, int64_t n, float number, const MapInput* inputs, void* out, int dtype);
};

constexpr int kLaneVectors = 2, kLanes = kLaneVectors * kTile;  // queries of a task of a prompt
constexpr int kTilesOfABlock = 2;  // of keys and values, widened at once: they stay in the first cache

// Queries of a prompt, up to kLanes of them, and the tiles of the cache that they look at. Positions count from the first tile.
struct Lanes {
    int dtype, rows, key_dim, value_dim, tiles;
    int held;                          // positions that were written
    const float *from, *to;            // [kLanes]: the positions that each query looks at
    const float* queries;              // [rows, key_dim], scaled
    const void *const *keys, *const *values;  // [tiles]; the same array where keys begin with the values
    const float *const *key_scales, *const *value_scales;  // int8 only
    int second, second_scales;         // keys from this dimension on have scales of their own, so many numbers behind the first
    float* out;                        // [rows, out_stride]
    int64_t out_stride;
    float* scratch;                    // lane_floats(key_dim, value_dim)
};
constexpr size_t lane_floats(int key_dim, int value_dim) {
    const size_t keys = size_t(key_dim), values = size_t(value_dim);
    return kLanes * (keys + values) + kTilesOfABlock * kTile * (kLanes + (keys > values ? keys : values));
}

struct Kernels {
    const char* name;
    int block;  // tokens of a block in `gemm`
    // y = norm(x) * w over n numbers; kind 0, 1: RMS (w holds the gain), 2: LayerNorm.
    void (*norm)(int kind, const float* x, const float* w, float eps, int n, float* y);
    void (*add)(float* x, const float* y, int n);
    // codes = round(x * 127 / max(absmax, floor)), zero up to `padded`; sums of each 32 codes. Returns absmax / 127.
    float (*quantize)(const float* x, int n, int padded, float floor, int8_t* codes, int32_t* sums);
    // gate = act(gate) * up, or gate = act(gate) where up is null.
    void (*activate)(int kind, float* gate, const float* up, int n);
    // y [token][row] for tiles first ... last - 1 and tokens token ... token + count - 1 of x.
    void (*matvec)(const Matrix&, int first, int last, const Inputs& x, int token, int count, float* y, int64_t y_stride);
    // The same for many tokens, whole blocks of x; `scratch` holds two unpacked tiles (padded columns * kPanelBytes * 2).
    void (*gemm)(const Matrix&, int first, int last, const Inputs& x, int tokens, float* y, int64_t y_stride,
                 uint8_t* scratch);
    // Copy token rows into a block: `count` tokens from row `token`, the rest of the block zero.
    void (*pack_values)(const Inputs& x, int token, int count, int columns);
    void (*pack_codes)(const Inputs& x, int token, int count, int columns);
    // Scores of `rows` queries (q [dim][rows]) against `tiles` tiles of 16 keys: s [rows][stride]. `keys` of cache
    // dtype [dim][16] each; `scales` (int8 only) [16] a tile.
    void (*scores)(int dtype, int rows, const float* q, int dim, int tiles, const void* const* keys,
                   const float* const* scales, bool accumulate, float* s, int64_t stride);
    // exp(s - max) over n numbers (a multiple of 16, -inf where masked); returns the sum.
    float (*softmax)(float* s, int n);
    // out [row][dim] = sum over positions of p [row][stride] times values (cache dtype [dim][16] a tile).
    void (*mix)(int dtype, int rows, const float* p, int64_t stride, int dim, int tiles, const void* const* values,
                float* out, int64_t out_stride);
    float (*sum)(const void* data, int64_t bytes);  // for measuring bandwidth
    float (*largest)(const float* x, int n);
    // Values as pairs in `block_pairs`, for `gemm` with matrices that takes_pairs() names; null: floats are read.
    void (*pack_pairs)(const Inputs& x, int token, int count, int columns);
    // Sixteen rows of stored int4 codes, eight in a word of 32 bits from the lowest on and `runs` of 32 columns, as the
    // vectors of a tile.
    void (*pack_int4)(const uint8_t* rows, int64_t row_bytes, int runs, uint8_t* tile);
    bool (*finite)(const float* x, int n);  // whether all numbers are
    void (*attend_lanes)(const Lanes&);     // scores, softmax and mix of a prompt's queries
    RecordedKernels recorded;
};

const Kernels* kernels_scalar();
const Kernels* kernels_avx2();
const Kernels* kernels_avxvnni();
const Kernels* kernels_avx512();
const Kernels* kernels_avx512bf16();
const Kernels* kernels_neon();

int isa_count();
const char* isa_name(int index);
bool isa_available(int index);
const Kernels* isa_kernels(int index);
int best_isa();

}  // namespace smidgen
