"""Recorded operations as lists that the native library runs, without PyTorch in between (see inference/replay.py).

Each operation is lowered on its own, by one of the rules below; what has no rule, or not for these types and shapes,
stays a call of PyTorch. The library works on the tensors' memory: weights are held once.
"""

from __future__ import annotations

import ctypes as c
import functools
import logging
import math
import weakref
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload

from smidgen.edge import library as native

logger = logging.getLogger(__name__)

_aten = torch.ops.aten
_DTYPES = {
    torch.float32: native.FLOAT32,
    torch.bfloat16: native.BFLOAT16,
    torch.int64: native.INT64,
    torch.bool: native.BOOL,
}
_FLOATS = (torch.float32, torch.bfloat16)
_DIMENSIONS = 4
MOST_ROWS = 256
"""Rows on the left of a product up to which it is the library's; more are better multiplied in blocks."""

_SHARED_NUMBERS = 8192
"""In an operation, from which on all of the library's threads take part in it."""

Operations = list[native.Operation]
Rule = Callable[..., Operations | None]


class Runner:
    """The library's threads for recorded operations; they end with it."""

    def __init__(self, threads: int, instruction_set: str | None = None) -> None:
        self._library = native.library()
        self.threads = threads
        isa = -1 if instruction_set is None else native.instruction_sets()[instruction_set]
        self._handle = self._library.edge_recorded_create(threads, isa)
        if not self._handle:
            raise native.EdgeError(native.last_error())
        # Not at the interpreter's exit: the threads of a forked process are its parent's, and cannot be joined.
        weakref.finalize(self, self._library.edge_recorded_destroy, self._handle).atexit = False

    def prepared(self, operations: Sequence[native.Operation]) -> Callable[[], None]:
        """A function that runs them; the caller keeps their tensors."""
        array = (native.Operation * len(operations))(*operations)
        run, handle, count = self._library.edge_recorded_run, self._handle, len(array)

        def run_all(_: Runner = self) -> None:
            if run(handle, array, count):
                raise IndexError(native.last_error())

        return run_all


@functools.cache
def is_available() -> bool:
    """Whether the native library was built."""
    try:
        native.library()
    except native.EdgeError as error:
        logger.info("decoding on a processor goes without the native library: %s", error)
        return False
    return True


def make_runner() -> Runner | None:
    """As many threads as PyTorch has; None where the native library was not built."""
    return Runner(torch.get_num_threads()) if is_available() else None


def is_shared(operations: Operations) -> bool:
    """Whether threads are woken for these."""
    return any(math.prod(operation.size) >= _SHARED_NUMBERS for operation in operations)


def lowered(
    function: OpOverload, args: Sequence[Any], kwargs: dict[str, Any], results: Sequence[Tensor]
) -> Operations | None:
    """`function(*args, **kwargs)` into `results`, or in place where there are none; None where it must stay a call."""
    rule = _RULES.get(function)
    if rule is None:
        return None
    return rule(*(results or (args[0],)), *args, **kwargs)


# Numbers one by one.


def _map(
    code: str, out: Tensor, *inputs: Tensor | float, number: float = 1.0, constant: float = 0.0
) -> Operations | None:
    """`out = code(*inputs)` by broadcasting; an input that is a number takes the place of `constant`."""
    tensors = [out, *(value.expand(out.shape) for value in inputs if isinstance(value, Tensor))]
    numbers = [value for value in inputs if not isinstance(value, Tensor)]
    if len(numbers) > 1 or any(tensor.dtype not in _DTYPES for tensor in tensors):
        return None
    shape, strides = _collapsed(out.shape, [tensor.stride() for tensor in tensors])
    if len(shape) > _DIMENSIONS:
        return None
    filled = (1,) * (_DIMENSIONS - len(shape))
    nothing = (0,) * len(filled)
    operands = [_operand(tensor, (*nothing, *stride)) for tensor, stride in zip(tensors, strides, strict=True)]
    given = iter(operands[1:])
    ordered = [next(given) if isinstance(value, Tensor) else native.Operand() for value in inputs]
    constant = float(numbers[0]) if numbers else constant
    return [_operation(code, (*filled, *shape), operands[0], *ordered, number=float(number), constant=constant)]


def _collapsed(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """As few dimensions as the tensors of these strides can be walked through by; at least one."""
    sizes, steps = list[int](), [list[int]() for _ in strides]
    for dim, size in enumerate(shape):
        if size == 1:
            continue
        if sizes and all(own[-1] == stride[dim] * size for own, stride in zip(steps, strides, strict=True)):
            sizes[-1] *= size
            for own, stride in zip(steps, strides, strict=True):
                own[-1] = stride[dim]
            continue
        sizes.append(size)
        for own, stride in zip(steps, strides, strict=True):
            own.append(stride[dim])
    if not sizes:
        return (1,), [(1,) for _ in strides]
    return tuple(sizes), [tuple(own) for own in steps]


def _operand(tensor: Tensor, stride: Sequence[int]) -> native.Operand:
    return native.Operand(tensor.data_ptr(), (c.c_int64 * _DIMENSIONS)(*stride), _DTYPES[tensor.dtype])


def _operation(
    code: str,
    size: Sequence[int],
    out: native.Operand,
    *inputs: native.Operand,
    number: float = 1.0,
    constant: float = 0.0,
) -> native.Operation:
    a, b, last = (*inputs, *(native.Operand() for _ in range(3 - len(inputs))))
    return native.Operation(
        native.OPERATIONS[code], 0, (c.c_int64 * _DIMENSIONS)(*size), out, a, b, last, number, constant
    )


def _unary(code: str) -> Rule:
    return lambda out, a: _map(code, out, a)


def _binary(code: str) -> Rule:
    return lambda out, a, b: _map(code, out, a, b)


def _sum(code: str) -> Rule:
    return lambda out, a, b, alpha=1: _map(code, out, a, b, number=alpha)


def _of_bools(code: str, count: int) -> Rule:
    def rule(out: Tensor, *inputs: Tensor) -> Operations | None:
        is_known = len(inputs) == count and all(value.dtype == torch.bool for value in inputs)
        return _map(code, out, *inputs) if is_known else None

    return rule


def _copy(out: Tensor, source: Tensor, *_: Any, **__: Any) -> Operations | None:
    return _map("copy", out, source)


def _copy_into(out: Tensor, _: Tensor, source: Tensor, non_blocking: bool = False) -> Operations | None:
    return _map("copy", out, source)


def _fill(value: float) -> Rule:
    return lambda out, *_, **__: _map("copy", out, value)


def _clamp(out: Tensor, a: Tensor, low: float | None = None, high: float | None = None) -> Operations | None:
    if high is None and low is not None:
        return _map("maximum", out, a, low)
    if low is None and high is not None:
        return _map("minimum", out, a, high)
    return _joined([_map("maximum", out, a, low or 0.0), _map("minimum", out, out, high or 0.0)])


def _addcdiv(out: Tensor, a: Tensor, b: Tensor, divisor: Tensor, value: float = 1) -> Operations | None:
    return _map("addcdiv", out, a, b, divisor, number=value)


def _gelu(out: Tensor, a: Tensor, approximate: str = "none") -> Operations | None:
    return _map("gelu", out, a) if approximate == "tanh" else None


def _power(out: Tensor, a: Tensor, exponent: float) -> Operations | None:
    return _map("mul", out, a, a) if exponent == 2 else None


def _where(out: Tensor, condition: Tensor, a: Tensor, b: Tensor) -> Operations | None:
    return _map("where", out, condition, a, b)


def _masked_fill(out: Tensor, a: Tensor, mask: Tensor, value: float) -> Operations | None:
    return _map("where", out, mask, value, a)


def _cat(out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> Operations | None:
    ends = torch.tensor([part.shape[dim] for part in parts]).cumsum(0).tolist()
    return _joined(
        _map("copy", out.narrow(dim, end - part.shape[dim], part.shape[dim]), part)
        for part, end in zip(parts, ends, strict=True)
    )


def _stack(out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> Operations | None:
    return _joined(_map("copy", out.select(dim, place), part) for place, part in enumerate(parts))


def _joined(parts: Iterable[Operations | None]) -> Operations | None:
    known = list[native.Operation]()
    for part in parts:
        if part is None:
            return None
        known += part
    return known


# Rows by an index.


def _embedding(out: Tensor, weight: Tensor, ids: Tensor, *_: Any) -> Operations | None:
    if ids.numel() != 1 or ids.dtype != torch.int64:
        return None
    return _indexed("take", _map("copy", out, weight[0].expand(out.shape)), ids, weight.stride(0), len(weight))


def _index_copy(out: Tensor, _: Tensor, dim: int, index: Tensor, source: Tensor) -> Operations | None:
    if index.numel() != 1 or index.dtype != torch.int64:
        return None
    operations = _map("copy", out.narrow(dim, 0, 1), source)
    return _indexed("put", operations, index, out.stride(dim), out.shape[dim])


def _indexed(code: str, operations: Operations | None, index: Tensor, stride: int, size: int) -> Operations | None:
    if operations is None:
        return None
    operation = operations[0]
    operation.code = native.OPERATIONS[code]
    operation.index, operation.index_stride, operation.index_size = index.data_ptr(), stride, size
    return operations


# Over the last dimension.


def _over_rows(code: str, out: Tensor, a: Tensor, indices: Tensor | None = None) -> Operations | None:
    """`out` and `indices` have the dimensions of `a`, with strides of 0 where the last one is gone."""
    tensors = [out, a] if indices is None else [out, a, indices]
    is_known = a.dtype in _FLOATS and out.dtype in _FLOATS and a.dim() <= _DIMENSIONS and a.stride(-1) == 1
    if not is_known or (code == "softmax" and out.stride(-1) != 1):
        return None
    filled = _DIMENSIONS - a.dim()
    operands = [_operand(tensor, (*(0,) * filled, *tensor.stride())) for tensor in tensors]
    extra = [native.Operand(), operands[2]] if indices is not None else []
    return [_operation(code, (*(1,) * filled, *a.shape), operands[0], operands[1], *extra)]


def _softmax(out: Tensor, a: Tensor, dim: int, half_to_float: bool) -> Operations | None:
    return None if dim not in (-1, a.dim() - 1) else _over_rows("softmax", out, a)


def _length(
    out: Tensor, a: Tensor, order: float = 2, dim: Sequence[int] | None = None, keepdim: bool = False, **_: Any
) -> Operations | None:
    if order != 2 or not _is_last(dim, a):
        return None
    return _over_rows("length", out if keepdim else out[..., None], a)


def _largest(out: Tensor, a: Tensor, dim: Sequence[int] = (), keepdim: bool = False) -> Operations | None:
    return _over_rows("largest", out if keepdim else out[..., None], a) if _is_last(dim, a) else None


def _largest_and_place(out: Tensor, place: Tensor, a: Tensor, dim: int, keepdim: bool = False) -> Operations | None:
    if not _is_last([dim], a):
        return None
    return _over_rows("largest", *((out, a, place) if keepdim else (out[..., None], a, place[..., None])))


def _is_last(dim: Sequence[int] | None, a: Tensor) -> bool:
    return dim is not None and len(dim) == 1 and dim[0] in (-1, a.dim() - 1)


# Products.


def _product(out: Tensor, a: Tensor, b: Tensor, added: Tensor | None = None, alpha: float = 1.0) -> Operations | None:
    """`out [B, m, n] = alpha · a [B, m, k] b [B, k, n] + added`."""
    batches, rows, length = a.shape
    columns = b.shape[2]
    tensors = [out, a, b] if added is None else [out, a, b, added]
    if any(tensor.dtype not in _FLOATS for tensor in tensors) or rows > MOST_ROWS:
        return None
    if not all(_has_unit_stride(tensor) for tensor in (out, a)) or 1 not in (b.stride(1), b.stride(2)):
        return None
    operands = [_operand(out, (*out.stride(), 0)), _operand(a, (*a.stride(), 0))]
    operands.append(_operand(b, (b.stride(0), b.stride(2), b.stride(1), 0)))
    if added is not None:
        added = added.expand(out.shape)
        if added.stride(2) not in (0, 1):
            return None
        operands.append(_operand(added, (*added.stride(), 0)))
    return [_operation("product", (batches, rows, columns, length), *operands, number=float(alpha))]


def _has_unit_stride(tensor: Tensor) -> bool:
    return tensor.stride(-1) == 1 or tensor.shape[-1] == 1


def _mv(out: Tensor, matrix: Tensor, x: Tensor) -> Operations | None:
    return _product(out[None, None], x[None, None], matrix.t()[None])


def _mm(out: Tensor, a: Tensor, b: Tensor) -> Operations | None:
    return _product(out[None], a[None], b[None])


def _bmm(out: Tensor, a: Tensor, b: Tensor) -> Operations | None:
    return _product(out, a, b)


def _baddbmm(out: Tensor, added: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Operations | None:
    return _product(out, a, b, added, alpha) if beta == 1 else None


_RULES: dict[OpOverload, Rule] = {
    _aten._softmax.default: _softmax,
    _aten._to_copy.default: _copy,
    _aten.abs.default: _unary("abs"),
    _aten.add.Tensor: _sum("add"),
    _aten.addcdiv.default: _addcdiv,
    _aten.amax.default: _largest,
    _aten.baddbmm.default: _baddbmm,
    _aten.bitwise_and.Tensor: _of_bools("and", 2),
    _aten.bitwise_not.default: _of_bools("not", 1),
    _aten.bmm.default: _bmm,
    _aten.cat.default: _cat,
    _aten.clamp.default: _clamp,
    _aten.clone.default: _copy,
    _aten.copy_.default: _copy_into,
    _aten.cos.default: _unary("cos"),
    _aten.div.Tensor: _binary("div"),
    _aten.embedding.default: _embedding,
    _aten.gelu.default: _gelu,
    _aten.hypot.default: _binary("hypot"),
    _aten.index_copy_.default: _index_copy,
    _aten.linalg_vector_norm.default: _length,
    _aten.masked_fill.Scalar: _masked_fill,
    _aten.max.dim: _largest_and_place,
    _aten.mm.default: _mm,
    _aten.mul.Tensor: _binary("mul"),
    _aten.mv.default: _mv,
    _aten.neg.default: lambda out, a: _map("mul", out, a, -1.0),
    _aten.pow.Tensor_Scalar: _power,
    _aten.reciprocal.default: _unary("reciprocal"),
    _aten.relu.default: lambda out, a: _map("maximum", out, a, 0.0),
    _aten.remainder.Scalar: _binary("remainder"),
    _aten.round.default: _unary("round"),
    _aten.rsqrt.default: _unary("rsqrt"),
    _aten.silu.default: _unary("silu"),
    _aten.sin.default: _unary("sin"),
    _aten.stack.default: _stack,
    _aten.sub.Tensor: _sum("sub"),
    _aten.where.self: _where,
    _aten.zeros_like.default: _fill(0.0),
}
PRODUCTS = (_aten.baddbmm.default, _aten.bmm.default, _aten.mm.default, _aten.mv.default)
"""Of factors of any types, where they are lowered."""
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    for _kind in ("Tensor", "Scalar"):
        _RULES[getattr(getattr(_aten, _name), _kind)] = _binary(_name)
# In place it is the same, into the first argument.
_RULES |= {
    _aten.add_.Tensor: _sum("add"),
    _aten.clamp_.default: _clamp,
    _aten.div_.Tensor: _binary("div"),
    _aten.masked_fill_.Scalar: _masked_fill,
    _aten.mul_.Tensor: _binary("mul"),
    _aten.round_.default: _unary("round"),
    _aten.sub_.Tensor: _sum("sub"),
}
