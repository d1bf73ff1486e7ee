#include "abi.h"

#include <chrono>
#include <exception>
#include <string>

#include "model.h"
#include "recorded.h"

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

using namespace smidgen;

namespace {

thread_local std::string last_error;

int fail(const char* message) {
    last_error = message;
    return -1;
}

Model* model_of(void* pointer) { return static_cast<Model*>(pointer); }

}  // namespace

extern "C" {

int32_t edge_abi_version(void) { return SMIDGEN_EDGE_ABI_VERSION; }
const char* edge_sources(void) {
#ifdef SMIDGEN_EDGE_SOURCES
    return SMIDGEN_EDGE_SOURCES;
#else
    return "";
#endif
}
const char* edge_isa_name(int32_t index) { return isa_name(index); }
int32_t edge_isa_available(int32_t index) { return isa_available(index); }
int32_t edge_best_isa(void) { return best_isa(); }
const char* edge_last_error(void) { return last_error.c_str(); }

const void* edge_map(const char* path, uint64_t bytes) {
#if defined(__unix__) || defined(__APPLE__)
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return nullptr;
    struct stat status;
    void* data = MAP_FAILED;
    if (fstat(file, &status) == 0 && uint64_t(status.st_size) == bytes && bytes)
        data = mmap(nullptr, bytes, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (data == MAP_FAILED) return nullptr;
    note_mapping(data, bytes);
    return data;
#else
    (void)path, (void)bytes;
    return nullptr;
#endif
}

void edge_unmap(const void* data, uint64_t bytes) {
#if defined(__unix__) || defined(__APPLE__)
    forget_mapping(data);
    munmap(const_cast<void*>(data), bytes);
#else
    (void)data, (void)bytes;
#endif
}

void* edge_create(const EdgeConfig* config, const EdgeMatrix* embedding, const EdgeMatrix* head, const EdgeTensor* final_norm,
                  const EdgeLayer* layers) {
    if (config->abi_version != SMIDGEN_EDGE_ABI_VERSION) {
        fail("the native library is of another version than the Python package; install it again");
        return nullptr;
    }
    try {
        return new Model(*config, *embedding, *head, *final_norm, layers);
    } catch (const std::exception& error) {
        fail(error.what());
        return nullptr;
    }
}

void edge_destroy(void* model) { delete model_of(model); }
uint64_t edge_weight_bytes(const void* model) { return static_cast<const Model*>(model)->weight_bytes(); }
uint64_t edge_cache_bytes(const void* model) { return static_cast<const Model*>(model)->cache_bytes(); }
int32_t edge_truncate(void* model, int32_t slot, int32_t length) { return model_of(model)->truncate(slot, length); }

int32_t edge_forward(void* model, int32_t count, const int32_t* ids, const int32_t* slots, const uint8_t* wanted, float* logits) {
    const char* error = model_of(model)->forward(count, ids, slots, wanted, logits);
    return error ? fail(error) : 0;
}

int32_t edge_assign(void* model, int32_t slot, const EdgeSampling* params, int32_t length, const int32_t* history) {
    try {
        const char* error = model_of(model)->assign(slot, *params, length, history);
        return error ? fail(error) : 0;
    } catch (const std::exception& error) {
        return fail(error.what());
    }
}

int32_t edge_step(void* model, int32_t count, const int32_t* ids, const int32_t* slots, const uint8_t* wanted, EdgeChoice* choices) {
    const char* error = model_of(model)->step(count, ids, slots, wanted, choices);
    return error ? fail(error) : 0;
}

int32_t edge_top_logprobs(void* model, int32_t row, int32_t k, int32_t* ids, float* values) {
    return model_of(model)->top_logprobs(row, k, ids, values) ? 0 : fail("no log-probabilities of this row");
}

int32_t edge_sample_logits(const EdgeSampling* params, int32_t vocab, int32_t length, int32_t prompt, const int32_t* history,
                           float* logits, int32_t draws, int32_t* tokens) {
    try {
        SamplerState state;
        state.assign(*params, vocab, history, prompt, length + draws + 1);
        for (int i = prompt; i < length; i++) state.append(history[i]);
        Sampler sampler(vocab, *isa_kernels(best_isa()));
        if (!sampler.penalize(state, logits)) return fail("the logits are not finite");
        if (params->temperature < 1e-6f) {
            for (int i = 0; i < draws; i++) tokens[i] = sampler.greedy(logits);
            return 0;
        }
        const bool any = sampler.filter(state, logits);
        for (int i = 0; i < vocab; i++) logits[i] = -__builtin_inff();
        for (size_t i = 0; any && i < sampler.ids().size(); i++) logits[sampler.ids()[i]] = sampler.values()[i];
        for (int i = 0; i < draws; i++) tokens[i] = any ? sampler.draw(state) : -1;
        return 0;
    } catch (const std::exception& error) {
        return fail(error.what());
    }
}

void* edge_recorded_create(int32_t threads, int32_t isa) {
    try {
        return new RecordedRunner(threads, *isa_kernels(isa < 0 ? best_isa() : isa));
    } catch (const std::exception& error) {
        fail(error.what());
        return nullptr;
    }
}

void edge_recorded_destroy(void* runner) { delete static_cast<RecordedRunner*>(runner); }

int32_t edge_recorded_run(void* runner, const EdgeOperation* operations, int64_t count) {
    try {
        const char* error = static_cast<RecordedRunner*>(runner)->run(operations, count);
        return error ? fail(error) : 0;
    } catch (const std::exception& error) {
        return fail(error.what());
    }
}

int32_t edge_product(int32_t isa, const EdgeMatrix* source, int32_t tokens, const float* x, float* y) {
    try {
        if (!isa_available(isa)) return fail("this processor lacks the instruction set");
        const Kernels* k = isa_kernels(isa);
        ThreadPool pool(1);
        Arena arena(planned_bytes(plan_matrix(*source)) + 4096);
        Matrix m;
        std::string error = pack_matrix(*source, m, arena, pool, *k);
        if (!error.empty()) return fail(error.c_str());
        const size_t rows = size_t(round_up(tokens, k->block)), stride = size_t(m.padded), out = size_t(m.tiles) * kTile;
        Arena memory(rows * (stride * 14 + out * 4 + 256) + stride * kPanelBytes * 2 + 65536);
        Inputs in;
        in.stride = int64_t(stride);
        in.values = static_cast<float*>(memory.take(rows * stride * 4)), in.codes = static_cast<int8_t*>(memory.take(rows * stride));
        in.sums = static_cast<int32_t*>(memory.take(rows * stride / 8)), in.scale = static_cast<float*>(memory.take(rows * 4));
        in.block_values = static_cast<float*>(memory.take(rows * stride * 4));
        in.block_codes = static_cast<int8_t*>(memory.take(rows * stride));
        in.block_sums = static_cast<int32_t*>(memory.take(rows * stride / 8));
        in.block_pairs = static_cast<uint8_t*>(memory.take(rows * stride * 2));
        in.pair_scales = static_cast<float*>(memory.take(rows * stride / 8));
        float* result = static_cast<float*>(memory.take(rows * out * 4));
        uint8_t* scratch = static_cast<uint8_t*>(memory.take(stride * kPanelBytes * 2));
        for (int t = 0; t < tokens; t++) {
            std::memcpy(in.values + t * in.stride, x + int64_t(t) * m.cols, size_t(m.cols) * 4);
            in.scale[t] = k->quantize(in.values + t * in.stride, m.cols, m.padded, 1e-5f, in.codes + t * in.stride, in.sums + t * (in.stride / kSumGroup));
        }
        for (int t = 0; t < tokens; t += k->block) {
            k->pack_values(in, t, smaller(k->block, tokens - t), m.padded);
            if (k->pack_pairs) k->pack_pairs(in, t, smaller(k->block, tokens - t), m.padded);
            k->pack_codes(in, t, smaller(k->block, tokens - t), m.padded);
        }
        if (tokens > 4)
            k->gemm(m, 0, m.tiles, in, tokens, result, int64_t(out), scratch);
        else
            k->matvec(m, 0, m.tiles, in, 0, tokens, result, int64_t(out));
        for (int t = 0; t < tokens; t++) std::memcpy(y + int64_t(t) * m.rows, result + size_t(t) * out, size_t(m.rows) * 4);
        return 0;
    } catch (const std::exception& error) {
        return fail(error.what());
    }
}

double edge_read_bandwidth(uint64_t bytes, int32_t threads, int32_t rounds) {
    try {
        ThreadPool pool(threads);
        Arena arena(bytes);
        struct Job {
            char* data;
            uint64_t part;
            const Kernels* kernels;
            float sums[256];
        } job{static_cast<char*>(arena.take(bytes)), bytes / uint64_t(threads) / 256 * 256, isa_kernels(best_isa()), {}};
        std::memset(job.data, 0, bytes);
        double best = 0;
        for (int i = 0; i < rounds; i++) {
            const auto start = std::chrono::steady_clock::now();
            pool.run([](void* p, int t) {
                Job& j = *static_cast<Job*>(p);
                j.sums[t & 255] = j.kernels->sum(j.data + uint64_t(t) * j.part, int64_t(j.part));
            }, &job);
            const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
            best = larger(best, double(job.part) * threads / seconds);
        }
        return best;
    } catch (const std::exception& error) {
        fail(error.what());
        return 0;
    }
}
}
