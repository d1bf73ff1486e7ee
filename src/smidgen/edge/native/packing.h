// Inside the packing of weights: what its files share.
#pragma once
#include "repack.h"

namespace smidgen {

// Stored codes: 0 ... 15, 0 ... 2 (3 where the file is damaged), and what belongs to them.
int int4_code(const EdgeMatrix& m, int row, int col);
int int4_groups(const EdgeMatrix& m);
int int4_zero(const EdgeMatrix& m, int row, int group);
int ternary_code(const EdgeMatrix& m, int row, int col);
float fp8_scale(const EdgeMatrix& m, int row, int col);
size_t stored_bytes(const EdgeTensor& t);

// Sixteen rows of floats, after the rounding that the model asks for, into a tile.
void pack_float_rows(const Matrix&, uint8_t* tile, const float* const* rows);
// Codes: -128 ... 127, 0 ... 15 or 0 ... 2 by the format; missing rows keep what stands for zero.
void pack_code_row(const Matrix&, uint8_t* tile, int r, const int16_t* codes);
uint8_t empty_byte(int format);

}  // namespace smidgen
