#define SMIDGEN_VNNI
#include "lanes_avx2.h"
#include "kernels_table.h"

namespace smidgen {
const Kernels* kernels_avxvnni() {
    static constexpr Kernels table = make_table("avxvnni");
    return &table;
}
}  // namespace smidgen
