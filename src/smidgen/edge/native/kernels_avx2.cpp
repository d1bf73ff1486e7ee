#include "lanes_avx2.h"
#include "kernels_table.h"

namespace smidgen {
const Kernels* kernels_avx2() {
    static constexpr Kernels table = make_table("avx2");
    return &table;
}
}  // namespace smidgen
