// Defines the table of one instruction set. The including file has chosen the lanes and names the table.
#pragma once
#include "kernels_attention.h"
#include "kernels_float.h"
#include "kernels_gemm.h"
#include "kernels_matvec.h"
#include "kernels_packing.h"
#include "kernels_prompt.h"
#include "kernels_recorded.h"

namespace smidgen {
namespace {

constexpr Kernels make_table(const char* name) {
    return {name,   kBlock,      norm,       add_to, quantize, activate, matvec, gemm,
            pack_values, pack_codes, scores, softmax,  mix,      sum_of, largest, kPackPairs, pack_int4, finite,
            attend_lanes, {dots, weighted, map}};
}

}  // namespace
}  // namespace smidgen
