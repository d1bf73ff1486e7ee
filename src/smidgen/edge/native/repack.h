// Matrices as the folder stores them, and packed as the kernels read them.
#pragma once
#include <string>
#include <vector>

#include "abi.h"
#include "kernels.h"
#include "threadpool.h"

namespace smidgen {

// One region of zeroed memory in large pages where the system has them; matrices are cut from it.
class Arena {
public:
    explicit Arena(size_t bytes);
    ~Arena();
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    void* take(size_t bytes);
    size_t used() const { return used_; }

private:
    char* data_ = nullptr;
    size_t bytes_, used_ = 0;
};

// Row `row` of a stored matrix as floats. Returns false where a number is not finite.
bool read_row(const EdgeMatrix&, int row, float* out);
float read_float(const EdgeTensor&, int64_t index);

// Files mapped by edge_map. What has been read of them leaves the resident memory; it comes back where it is read again.
void note_mapping(const void* data, size_t bytes);
void forget_mapping(const void* data);
void release_pages(const void* data, size_t bytes);

// The shape of a packed matrix (no memory yet), and the bytes that it takes.
Matrix plan_matrix(const EdgeMatrix&);
size_t planned_bytes(const Matrix&);
// Pack it, with all threads of the pool. Returns an error, or nothing.
std::string pack_matrix(const EdgeMatrix&, Matrix&, Arena&, ThreadPool&, const Kernels&);

// kv_b_proj cut into heads and prepared for absorption: keys [rank, nope] and values [v, rank] of each head.
struct Absorbed {
    std::vector<Matrix> keys, values;
};
size_t absorbed_bytes(const EdgeMatrix& kv_b, int heads, int nope, int v);
std::string absorb(const EdgeMatrix& kv_b, int heads, int nope, int v, Absorbed&, Arena&, const Kernels&);

}  // namespace smidgen
