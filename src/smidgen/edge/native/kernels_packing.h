// Stored codes into tiles, where the two orders differ by more than a copy.
#pragma once
#include "kernels.h"

namespace smidgen {
namespace {

// Four nibbles of each lane, from bit `Shift` on, as its four bytes.
template <int Shift>
inline I spread_nibbles(B b) {
    const I first = addi(field<Shift, 15>(b), shift_left<8>(field<Shift + 4, 15>(b)));
    const I second = addi(field<Shift + 8, 15>(b), shift_left<8>(field<Shift + 12, 15>(b)));
    return addi(first, shift_left<16>(second));
}

void pack_int4(const uint8_t* rows, int64_t row_bytes, int runs, uint8_t* tile) {
    constexpr int kRuns = 4;  // at once: 16 words of each row
    alignas(64) uint8_t turned[kRuns * 256];
    for (int run = 0; run < runs; run += kRuns) {
        const int some = smaller(kRuns, runs - run);
        transpose_words(rows + 16 * run, row_bytes, kTile, 4 * some, kTile, turned);
        for (const uint8_t* word = turned; word < turned + 256 * some; word += 256)
            for (int pair = 0; pair < 2; pair++, tile += 128) {
                const B low = load_bytes(word + 64 * pair), high = load_bytes(word + 64 * pair + 128);
                const I even = addi(spread_nibbles<0>(low), shift_left<4>(spread_nibbles<0>(high)));
                const I odd = addi(spread_nibbles<16>(low), shift_left<4>(spread_nibbles<16>(high)));
                store(reinterpret_cast<float*>(tile), as_float(even));
                store(reinterpret_cast<float*>(tile + 64), as_float(odd));
            }
    }
}

}  // namespace
}  // namespace smidgen
