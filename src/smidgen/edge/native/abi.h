// The C interface of the edge engine: everything that Python may call, and the structures that it fills.
// Mirrored in smidgen/edge/library.py; ABI_VERSION changes with any of it.
#pragma once
#include <cstdint>

#define SMIDGEN_EDGE_ABI_VERSION 3

#if defined(_WIN32)
#define SMIDGEN_EDGE_EXPORT __declspec(dllexport)
#else
#define SMIDGEN_EDGE_EXPORT __attribute__((visibility("default")))
#endif

extern "C" {

// Types of stored numbers.
enum EdgeDtype : int32_t { DT_NONE = 0, DT_F32, DT_BF16, DT_F16, DT_I8, DT_U8, DT_I32, DT_F8E4M3, DT_I64, DT_BOOL };

// How the numbers of a matrix are stored in the folder.
enum EdgeSource : int32_t {
    SRC_FLOAT = 0,    // weight: float type, [rows, cols]
    SRC_INT8 = 1,     // weight: int8 [rows, cols]; scale [rows]
    SRC_INT4 = 2,     // weight: int32 [rows, ceil(cols/8)]; scale [rows, groups]; zero: int32 [ceil(rows/8), groups] or none
    SRC_TERNARY = 3,  // weight: uint8 [rows/4, cols], code of row r + i * rows/4 at bits 2i; scale [1]
    SRC_FP8 = 4,      // weight: e4m3 [rows, cols]; scale float32, one for block x block weights
};

// How a matrix is held in memory, packed in tiles of 16 rows. TERNARY: 2 bits a code, BASE3: five codes a byte.
enum EdgeFormat : int32_t { FMT_F32 = 0, FMT_BF16 = 1, FMT_INT8 = 2, FMT_INT4 = 3, FMT_TERNARY = 4, FMT_BASE3 = 5 };

// What an input goes through before a product.
// FP8: in tiles of 128, those with scales of 2^n, or with one scale a token. ACT_ROUNDED: what the codes of ACT_INT8 stand
// for, as floats, for weights that are held as floats.
enum EdgeActivation : int32_t { ACT_FLOAT = 0, ACT_INT8, ACT_FP8, ACT_FP8_POW2, ACT_FP8_TOKEN, ACT_ROUNDED };

struct EdgeTensor {
    const void* data;
    int64_t count;  // elements
    int32_t dtype;
    int32_t reserved;
};

struct EdgeMatrix {
    EdgeTensor weight, scale, zero;
    int32_t rows, cols;
    int32_t source;      // EdgeSource
    int32_t format;      // EdgeFormat wanted in memory
    int32_t group;       // columns that share a scale (int4); side of a block (fp8); -1: the whole row or tensor
    int32_t activation;  // EdgeActivation
    int32_t round;       // 1: a float source is rounded to ternary first; 2: to FP8 blocks; 3: those with scales of 2^n
    int32_t reserved;
    char name[128];
};

struct EdgeLayer {
    EdgeMatrix q, k, v, o, gate, up, down, q_a, q_b, kv_a, kv_b;
    EdgeTensor input_norm, attention_out_norm, feed_forward_norm, feed_forward_out_norm;
    EdgeTensor q_norm, k_norm, attention_sub_norm, feed_forward_sub_norm, q_a_norm, kv_a_norm;
    int32_t window;  // 0: everything before
    int32_t rope;    // which of the two tables of frequencies
};

struct EdgeConfig {
    int32_t abi_version;
    int32_t vocab_size, hidden_size, num_layers, intermediate_size;
    int32_t num_heads, num_kv_heads, head_dim;
    int32_t latent, q_lora_rank, kv_lora_rank, nope, rope, v_dim;
    int32_t norm_kind;   // 0 rms, 1 rms with 1 + w, 2 layer norm
    int32_t activation;  // 0 silu, 1 gelu tanh, 2 relu squared
    int32_t gated, interleaved;
    float eps, softmax_scale, embedding_scale;
    int32_t max_seq_len, num_slots, chunk;  // chunk: most tokens of a slot in one pass
    int32_t cache_dtype;                    // DT_F32, DT_F16, DT_BF16 or DT_I8
    int32_t threads;
    int32_t isa;  // index into edge_isa_name, or -1 for the best
    const float* frequencies[2];
    int32_t num_frequencies;  // rotated pairs
    int32_t reserved;
};

struct EdgeSampling {
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    int32_t top_k, no_repeat_ngram_size, num_bias, logprobs;  // logprobs: -1 none
    uint64_t seed;
    const int32_t* bias_ids;
    const float* bias_values;
};

// What a recorded operation does. To numbers one by one, inputs a, b and c with the strides of `out`'s dimensions:
enum EdgeOperationCode : int32_t {
    OP_COPY = 0,   // a
    OP_ADD,        // a + number * b
    OP_SUB,        // a - number * b
    OP_MUL,
    OP_DIV,
    OP_ADDCDIV,    // a + number * b / c
    OP_MAXIMUM,    // of a and b; NaN where a is
    OP_MINIMUM,
    OP_SILU,
    OP_GELU,       // by tanh
    OP_ABS,
    OP_ROUND,      // ties to even
    OP_RECIPROCAL,
    OP_SQRT,
    OP_RSQRT,
    OP_COS,
    OP_SIN,
    OP_HYPOT,      // sqrt(a^2 + b^2)
    OP_REMAINDER,  // with the sign of b
    OP_EQ,
    OP_NE,
    OP_LT,
    OP_LE,
    OP_GT,
    OP_GE,
    OP_NOT,
    OP_AND,
    OP_WHERE,      // a ? b : c
    OP_TAKE,       // a moved by index[0] * index_stride
    OP_PUT,        // a, to `out` moved by index[0] * index_stride
    // Over the last dimension of a; the others are those of `out`:
    OP_SOFTMAX,
    OP_LENGTH,     // sqrt(sum a^2)
    OP_LARGEST,    // and where c has a type, the place of the first of them
    // out [batch, m, n] = number * sum over k of a [batch, m, k] b [batch, n, k], + c [batch, m, n] where it has a type;
    // size is {batch, m, n, k}; in b one of the strides of n and k is 1.
    OP_PRODUCT,
};

struct EdgeOperand {
    void* data;
    int64_t stride[4];  // in numbers
    int32_t dtype;      // DT_F32, DT_BF16, DT_I64, DT_BOOL; DT_NONE: the operation's `constant`
    int32_t reserved;
};

struct EdgeOperation {
    int32_t code, reserved;
    int64_t size[4];
    EdgeOperand out, a, b, c;
    double number, constant;
    const int64_t* index;
    int64_t index_stride, index_size;
};

struct EdgeChoice {
    int32_t token;  // -1: no token is allowed; -2: logits are not finite
    float logprob;
};

SMIDGEN_EDGE_EXPORT int32_t edge_abi_version(void);
SMIDGEN_EDGE_EXPORT const char* edge_sources(void);                  // a digest of the files it was built from
SMIDGEN_EDGE_EXPORT const char* edge_isa_name(int32_t index);        // null past the last
SMIDGEN_EDGE_EXPORT int32_t edge_isa_available(int32_t index);
SMIDGEN_EDGE_EXPORT int32_t edge_best_isa(void);
SMIDGEN_EDGE_EXPORT const char* edge_last_error(void);               // of this thread
SMIDGEN_EDGE_EXPORT const void* edge_map(const char* path, uint64_t bytes);  // null on failure
SMIDGEN_EDGE_EXPORT void edge_unmap(const void* data, uint64_t bytes);

SMIDGEN_EDGE_EXPORT void* edge_create(const EdgeConfig*, const EdgeMatrix* embedding, const EdgeMatrix* head,
                                      const EdgeTensor* final_norm, const EdgeLayer* layers);
SMIDGEN_EDGE_EXPORT void edge_destroy(void* model);
SMIDGEN_EDGE_EXPORT uint64_t edge_weight_bytes(const void* model);   // read by a decode step
SMIDGEN_EDGE_EXPORT uint64_t edge_cache_bytes(const void* model);

// Keep the first `length` tokens of a slot; returns how many could be kept (0 where a ring has forgotten them).
SMIDGEN_EDGE_EXPORT int32_t edge_truncate(void* model, int32_t slot, int32_t length);
// One pass over `count` tokens; those of a slot are neighbours and go behind what the slot holds. Rows of logits for the
// tokens whose `wanted` is 1 go to `logits` [wanted tokens, vocab_size] where that is not null; else the engine keeps them
// for edge_sample. Returns 0, or -1 (edge_last_error).
SMIDGEN_EDGE_EXPORT int32_t edge_forward(void* model, int32_t count, const int32_t* ids, const int32_t* slots,
                                         const uint8_t* wanted, float* logits);
SMIDGEN_EDGE_EXPORT int32_t edge_assign(void* model, int32_t slot, const EdgeSampling*, int32_t history_length,
                                        const int32_t* history);
// Forward, then a token for each wanted row: the whole step of a decoder in one call.
SMIDGEN_EDGE_EXPORT int32_t edge_step(void* model, int32_t count, const int32_t* ids, const int32_t* slots,
                                      const uint8_t* wanted, EdgeChoice* choices);
// The k most probable tokens of wanted row `row` of the last step, before penalties: ids [k], log-probabilities [k].
SMIDGEN_EDGE_EXPORT int32_t edge_top_logprobs(void* model, int32_t row, int32_t k, int32_t* ids, float* values);
// Sampling alone: what `logits` [vocab] (overwritten) become, -inf where a token cannot be drawn; then the draw.
SMIDGEN_EDGE_EXPORT int32_t edge_sample_logits(const EdgeSampling*, int32_t vocab, int32_t history_length,
                                               int32_t prompt_length, const int32_t* history, float* logits,
                                               int32_t draws, int32_t* tokens);

// Recorded operations: threads that wait for them (isa: -1 for the best), then any number of lists. Running a list
// returns 0, or -1 (edge_last_error).
SMIDGEN_EDGE_EXPORT void* edge_recorded_create(int32_t threads, int32_t isa);
SMIDGEN_EDGE_EXPORT void edge_recorded_destroy(void* runner);
SMIDGEN_EDGE_EXPORT int32_t edge_recorded_run(void* runner, const EdgeOperation* operations, int64_t count);

// One product alone, for tests: y [tokens, rows] = x [tokens, cols] times the packed matrix.
SMIDGEN_EDGE_EXPORT int32_t edge_product(int32_t isa, const EdgeMatrix*, int32_t tokens, const float* x, float* y);
// Bytes a second that one pass over the packed weights reaches by `threads` threads (a plain sum).
SMIDGEN_EDGE_EXPORT double edge_read_bandwidth(uint64_t bytes, int32_t threads, int32_t rounds);
}
