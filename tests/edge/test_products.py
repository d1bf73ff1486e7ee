"""Integer products against numpy's, to the last bit, on every instruction set; saturating inputs included."""

from __future__ import annotations

import ctypes as c
from typing import Any

import numpy as np
import pytest

from smidgen.edge import library as native

FLOAT_POINTER = c.POINTER(c.c_float)


def tensor(array: np.ndarray, dtype: int) -> native.Tensor:
    return native.Tensor(array.ctypes.data, array.size, dtype, 0)


def product(isa: str, matrix: native.Matrix, x: np.ndarray) -> np.ndarray:
    """x [T, cols] float32 through the native product."""
    y = np.full((len(x), matrix.rows), np.nan, np.float32)
    x = np.ascontiguousarray(x, np.float32)
    status = native.library().edge_product(
        native.instruction_sets()[isa],
        matrix,
        len(x),
        x.ctypes.data_as(FLOAT_POINTER),
        y.ctypes.data_as(FLOAT_POINTER),
    )
    assert status == 0, native.last_error()
    return y


def activations(rng: np.random.Generator, tokens: int, cols: int, extreme: bool) -> np.ndarray:
    """Whole numbers whose largest is 127: the codes of a token are the numbers themselves."""
    if extreme:
        x = rng.choice([-127, 127], (tokens, cols))
    else:
        x = rng.integers(-127, 128, (tokens, cols))
    x[:, 0] = 127
    return x.astype(np.float32)


SHAPES = [
    (16, 64, 1),
    (33, 96, 1),
    (48, 768, 2),
    (40, 100, 3),
    (64, 256, 5),
    (50, 352, 13),
    (16, 4096, 24),
    (20, 32, 31),
]


def coded(
    weight: native.Tensor, scale: np.ndarray[Any, Any], rows: int, cols: int, source: int, format_name: str
) -> native.Matrix:
    """A matrix of stored codes that is multiplied by inputs of 8 bits."""
    return native.Matrix(
        weight=weight,
        scale=tensor(scale, native.FLOAT32),
        rows=rows,
        cols=cols,
        source=source,
        format=native.FORMATS[format_name],
        group=-1,
        activation=native.ACTIVATIONS["int8"],
    )


@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(("rows", "cols", "tokens"), SHAPES)
def test_int8(isa: str, rows: int, cols: int, tokens: int, extreme: bool) -> None:
    rng = np.random.default_rng(rows + cols)
    codes = rng.choice([-128, 127], (rows, cols)) if extreme else rng.integers(-128, 128, (rows, cols))
    codes = codes.astype(np.int8)
    scale = np.ones(rows, np.float32)
    matrix = coded(tensor(codes, native.INT8), scale, rows, cols, native.STORED_INT8, "int8")
    x = activations(rng, tokens, cols, extreme)
    expected = (x.astype(np.int64) @ codes.astype(np.int64).T).astype(np.float32)
    assert np.array_equal(product(isa, matrix, x), expected)


def int4_matrix(codes: np.ndarray, scale: np.ndarray, zero: np.ndarray | None, keep: list[Any]) -> native.Matrix:
    """Codes 0 ... 15 [rows, cols], packed as compressed-tensors packs them."""
    rows, cols = codes.shape
    padded = np.zeros((rows, -(-cols // 8) * 8), np.uint32)
    padded[:, :cols] = codes
    shifts = np.arange(8, dtype=np.uint32) * 4
    words = (padded.reshape(rows, -1, 8) << shifts).sum(-1, dtype=np.uint32)
    keep += [words, scale]
    matrix = native.Matrix(
        weight=tensor(words, native.INT32),
        scale=tensor(scale, native.FLOAT32),
        rows=rows,
        cols=cols,
        source=native.STORED_INT4,
        format=native.FORMATS["int4"],
        group=-1 if scale.shape[1] == 1 else cols // scale.shape[1],
        activation=native.ACTIVATIONS["int8"],
    )
    if zero is not None:
        padded = np.zeros((-(-rows // 8) * 8, zero.shape[1]), np.uint32)
        padded[:rows] = zero
        packed = (padded.reshape(-1, 8, zero.shape[1]) << shifts[:, None]).sum(1, dtype=np.uint32)
        keep.append(packed)
        matrix.zero = tensor(packed, native.INT32)
    return matrix


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(
    ("rows", "cols", "group", "tokens"),
    [(16, 64, 32, 1), (33, 96, 32, 2), (48, 768, 128, 1), (64, 256, 64, 5), (50, 352, 32, 13), (20, 40, 40, 3)],
)
def test_int4(isa: str, rows: int, cols: int, group: int, tokens: int, extreme: bool, asymmetric: bool) -> None:
    rng = np.random.default_rng(rows + cols)
    codes = rng.choice([0, 15], (rows, cols)) if extreme else rng.integers(0, 16, (rows, cols))
    groups = cols // group
    # Scales are powers of two, so that float32 sums are exact too.
    scale = (2.0 ** rng.integers(-2, 3, (rows, groups))).astype(np.float32)
    zero = rng.integers(0, 16, (rows, groups)) if asymmetric else None
    keep: list[Any] = []
    matrix = int4_matrix(codes, scale, zero, keep)
    x = activations(rng, tokens, cols, extreme)
    centred = codes - np.repeat(zero if zero is not None else np.full((rows, groups), 8), group, axis=1)
    expected = x.astype(np.float64) @ (centred * np.repeat(scale.astype(np.float64), group, axis=1)).T
    assert np.array_equal(product(isa, matrix, x), expected.astype(np.float32))


@pytest.mark.parametrize("format_name", ["ternary", "base3"])
@pytest.mark.parametrize("extreme", [False, True])
@pytest.mark.parametrize(("rows", "cols", "tokens"), [s for s in SHAPES if s[0] % 4 == 0])
def test_ternary(isa: str, rows: int, cols: int, tokens: int, extreme: bool, format_name: str) -> None:
    rng = np.random.default_rng(rows + cols)
    codes = rng.choice([0, 2], (rows, cols)) if extreme else rng.integers(0, 3, (rows, cols))
    quarters = codes.astype(np.uint8).reshape(4, rows // 4, cols)
    packed = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
    scale = np.ones(1, np.float32)
    matrix = coded(tensor(packed, native.UINT8), scale, rows, cols, native.STORED_TERNARY, format_name)
    x = activations(rng, tokens, cols, extreme)
    expected = x.astype(np.int64) @ (codes.astype(np.int64) - 1).T
    assert np.array_equal(product(isa, matrix, x), expected.astype(np.float32))


@pytest.mark.parametrize("tokens", [1, 2, 8])
def test_every_byte_of_base_3(isa: str, tokens: int) -> None:
    """All 243 combinations of five codes: row by row another one in each of the bytes of a vector."""
    rows, cols = 256, 40
    digits = np.arange(rows)[:, None] // 3 ** np.arange(4, -1, -1) % 3
    codes = np.repeat(np.tile(digits, (1, 2)), 4, axis=1).astype(np.uint8)
    quarters = codes.reshape(4, rows // 4, cols)
    packed = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
    scale = np.ones(1, np.float32)
    matrix = coded(tensor(packed, native.UINT8), scale, rows, cols, native.STORED_TERNARY, "base3")
    x = activations(np.random.default_rng(0), tokens, cols, False)
    assert np.array_equal(product(isa, matrix, x), x @ (codes.astype(np.float32) - 1).T)


@pytest.mark.parametrize("format_name", ["float32", "bf16", "int8", "int4", "ternary", "base3"])
@pytest.mark.parametrize(("rows", "cols", "tokens"), [(33, 100, 1), (48, 96, 4), (64, 256, 17)])
def test_floats(isa: str, format_name: str, rows: int, cols: int, tokens: int) -> None:
    """Random weights, inputs as they are: only the weights are rounded, as this test rounds them."""
    rng = np.random.default_rng(rows)
    weight = rng.standard_normal((rows, cols)).astype(np.float32)
    matrix = native.Matrix(
        weight=tensor(weight, native.FLOAT32),
        rows=rows,
        cols=cols,
        source=native.STORED_FLOAT,
        format=native.FORMATS[format_name],
        group=32,
        activation=native.ACTIVATIONS["float"],
        round=int(format_name in ("ternary", "base3")),
    )
    x = rng.standard_normal((tokens, cols)).astype(np.float32)
    result = product(isa, matrix, x)
    rounded = {"float32": weight, "bf16": to_bf16(weight)}.get(format_name)
    if format_name == "int8":
        scale = to_bf16(np.abs(weight).max(1, keepdims=True) / np.float32(127))
        rounded = np.clip(np.round(weight / scale), -128, 127) * scale
    elif format_name == "int4":
        groups = np.pad(weight, ((0, 0), (0, -cols % 32))).reshape(rows, -1, 32)
        scale = to_bf16(
            np.maximum(groups.max(-1, keepdims=True) / 7, groups.min(-1, keepdims=True) / -8).astype(np.float32)
        )
        rounded = (np.clip(np.round(groups / scale), -8, 7) * scale).reshape(rows, -1)[:, :cols]
    elif format_name in ("ternary", "base3"):
        beta = np.abs(weight).mean(dtype=np.float64)
        rounded = np.clip(np.round(weight / beta), -1, 1) * beta
    assert rounded is not None
    if isa == "avx512bf16" and format_name == "bf16" and tokens > 4:
        x = to_bf16(x)
    elif isa == "avx512" and format_name == "bf16" and tokens > 4:
        rounded, x = (as_shorts(array, bits, power) for array, bits, power in ((rounded, 4080, True), (x, 8191, False)))
    np.testing.assert_allclose(result, x @ rounded.T, atol=1e-4)


def as_shorts(x: np.ndarray, most: int, power_of_two: bool) -> np.ndarray:
    """What codes up to `most` hold of numbers [rows, columns], with a scale for 64 columns."""
    groups = np.pad(x, ((0, 0), (0, -x.shape[1] % 64))).reshape(len(x), -1, 64).astype(np.float64)
    scale = np.maximum(np.abs(groups).max(-1, keepdims=True), 2.0**-115) / most
    if power_of_two:  # the largest becomes 2^11 ... 4080
        scale = 2.0 ** (np.floor(np.log2(scale * most)) - 11)
    return (np.rint(groups / scale) * scale).reshape(len(x), -1)[:, : x.shape[1]]


def matrix_in_bf16(weight: np.ndarray) -> native.Matrix:
    """A weight [rows, columns] of float32 that is held in bf16; its inputs are not rounded."""
    rows, cols = weight.shape
    return native.Matrix(
        weight=tensor(weight, native.FLOAT32),
        rows=rows,
        cols=cols,
        source=native.STORED_FLOAT,
        format=native.FORMATS["bf16"],
        group=-1,
        activation=native.ACTIVATIONS["float"],
    )


@pytest.mark.parametrize("tokens", [5, 8, 12, 31])
@pytest.mark.parametrize("extreme", [False, True])
def test_shorts(isa: str, tokens: int, extreme: bool) -> None:
    """Codes of 16 bits in place of bf16: sums of the largest codes do not overflow, and the stated tolerance holds."""
    if isa != "avx512":
        pytest.skip(f"{isa} multiplies bf16 weights by floats")
    rows, cols = 49, 320
    rng = np.random.default_rng(tokens)
    weight = to_bf16(rng.standard_normal((rows, cols)).astype(np.float32))
    x = rng.standard_normal((tokens, cols)).astype(np.float32)
    if extreme:
        weight = np.sign(weight) * np.float32(255 * 2.0**-9)
        x = np.sign(x) * np.float32(3e8)
        weight[:2], x[:2] = 255 * 2.0**-9, -3e8
        weight[3, 64:200], x[3, 64:200] = 0, 0
        weight[4] *= np.float32(2.0**-110)
    else:  # one number of a group far above the others
        x[0, 7], weight[0, 8] = 300, 64
    matrix = matrix_in_bf16(weight)
    result = product(isa, matrix, x)
    expected = as_shorts(x, 8191, False) @ as_shorts(weight, 4080, True).T
    size = np.abs(x.astype(np.float64)) @ np.abs(weight.astype(np.float64)).T
    np.testing.assert_array_less(np.abs(result - expected), 4e-6 * size + 1e-30)

    # Inputs change by at most 2^-14 of the largest of their 64, weights by 2^-12.
    def largest(array: np.ndarray) -> np.ndarray:
        return np.repeat(np.abs(array).reshape(len(array), -1, 64).max(-1), 64, axis=1).astype(np.float64)

    exact = x.astype(np.float64) @ weight.astype(np.float64).T
    bound = 1.01 * 2.0**-14 * largest(x) @ np.abs(weight).T + 2.0**-12 * np.abs(x) @ largest(weight).T
    assert (np.abs(result - exact) <= bound + 1e-5 * size).all()
    x[2, 100], x[4, 3] = np.nan, np.inf
    assert list(np.isfinite(product(isa, matrix, x)).all(1)) == [i not in (2, 4) for i in range(tokens)]


def flushed(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) < np.finfo(np.float32).tiny, np.copysign(np.float32(0), x), x).astype(np.float32)


@pytest.mark.parametrize("tiny", [False, True])
@pytest.mark.parametrize("tokens", [5, 12, 31])
def test_pairs_of_bf16(isa: str, tokens: int, tiny: bool) -> None:
    """As Intel describes VDPBF16PS: inputs to nearest even, the odd product first, no denormal numbers."""
    if isa != "avx512bf16":
        pytest.skip(f"{isa} multiplies bf16 weights by float32 inputs")
    rows, cols = 33, 96
    rng = np.random.default_rng(tokens)
    weight = to_bf16(rng.standard_normal((rows, cols)).astype(np.float32))
    x = rng.standard_normal((tokens, cols)).astype(np.float32)
    x[0, :4] = np.array([1.0 + 2**-8, 1.0 + 3 * 2**-8, -1.0 - 2**-8, 65535.0], np.float32)  # ties, and a carry
    if tiny:  # products and weights on both sides of the smallest normal number
        weight, x = to_bf16(weight * np.float32(2.0**-125)), x * np.float32(0.25)
    matrix = matrix_in_bf16(weight)
    short, held = flushed(to_bf16(x)), flushed(weight)
    sums = np.zeros((tokens, rows), np.float32)
    for pair in range(0, cols, 2):
        for column in (pair + 1, pair):
            exact = short[:, column, None].astype(np.float64) * held[:, column].astype(np.float64)
            sums = flushed((sums.astype(np.float64) + exact).astype(np.float32))
    result = product(isa, matrix, x)
    # Through float64 a sum may be rounded twice: the last bit of a few.
    largest = np.abs(short.astype(np.float64)) @ np.abs(held.astype(np.float64)).T
    assert np.abs(result - sums.astype(np.float64)).max() <= 2.0**-22 * largest.max()
    assert (result == sums).mean() > 0.99
    # The stated tolerance: half a unit of 8 bits of each input.
    if not tiny:
        exact = x.astype(np.float64) @ weight.astype(np.float64).T
        bound = 2.0**-8 * (np.abs(x.astype(np.float64)) @ np.abs(weight.astype(np.float64)).T)
        assert (np.abs(result - exact) <= 1.01 * bound).all()


def to_bf16(x: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def test_a_matrix_with_nan_is_refused(isa: str) -> None:
    weight = np.ones((16, 32), np.float32)
    weight[3, 4] = np.nan
    matrix = native.Matrix(weight=tensor(weight, native.FLOAT32), rows=16, cols=32, group=-1, name=b"model.x")
    out = np.empty((1, 16), np.float32)
    pointer = out.ctypes.data_as(FLOAT_POINTER)
    x = np.ones(32, np.float32)
    assert native.library().edge_product(
        native.instruction_sets()[isa], matrix, 1, x.ctypes.data_as(FLOAT_POINTER), pointer
    )
    assert "model.x: holds NaN" in native.last_error()
