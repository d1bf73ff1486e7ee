#include "lanes_neon.h"
#include "kernels_table.h"

namespace smidgen {
const Kernels* kernels_neon() {
    static constexpr Kernels table = make_table("neon");
    return &table;
}
}  // namespace smidgen
