#include "lanes_scalar.h"
#include "kernels_table.h"

namespace smidgen {
const Kernels* kernels_scalar() {
    static constexpr Kernels table = make_table("scalar");
    return &table;
}
}  // namespace smidgen
