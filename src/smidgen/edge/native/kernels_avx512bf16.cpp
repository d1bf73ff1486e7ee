#define SMIDGEN_PAIRS
#include "lanes_avx512bf16.h"
#include "kernels_table.h"

namespace smidgen {
const Kernels* kernels_avx512bf16() {
    static constexpr Kernels table = make_table("avx512bf16");
    return &table;
}
}  // namespace smidgen
