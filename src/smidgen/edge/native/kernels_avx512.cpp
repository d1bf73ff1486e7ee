#define SMIDGEN_SHORTS
#include "lanes_shorts.h"
#include "kernels_table.h"

namespace smidgen {
const Kernels* kernels_avx512() {
    static constexpr Kernels table = make_table("avx512");
    return &table;
}
}  // namespace smidgen
