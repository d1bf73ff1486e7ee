"""A CPU's answer to CUDA graphs: the operations of a function are recorded once, then only they are called again.

A token's step is a few hundred small operations between products that read megabytes. Each product drives from the
processor's caches what the next operation needs, its code and Python's too, so that an operation of 2 µs takes 20, and
a view of a tensor as long. A recording holds no views, no allocations and no modules: one call for each operation that
computes, with its tensors bound, into memory that is planned once. Where the native library was built, neighbours that
it knows are one call of it (see inference/lowering.py).

What is recorded must not ask for values of tensors: sizes, branches and numbers stay as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from smidgen.inference.lowering import Operations, Runner, lowered

_ALIGNMENT = 64
_aten = torch.ops.aten
_nn = torch._C._nn
_INTO: dict[OpOverload, Callable[..., object]] = {
    _aten.add.Tensor: torch.add,
    _aten.addcdiv.default: torch.addcdiv,
    _aten.baddbmm.default: torch.baddbmm,
    _aten.bmm.default: torch.bmm,
    _aten.cat.default: torch.cat,
    _aten.div.Tensor: torch.div,
    _aten.gelu.default: _nn.gelu,
    _aten.hypot.default: torch.hypot,
    _aten.linalg_vector_norm.default: torch.linalg.vector_norm,
    _aten.mm.default: torch.mm,
    _aten.mul.Tensor: torch.mul,
    _aten.mv.default: torch.mv,
    _aten.silu.default: _nn.silu,
    _aten.sub.Tensor: torch.sub,
}
"""Functions that take `out`: their bindings cost half as much as the general ones of torch.ops."""
_COPIES = (_aten._to_copy.default, _aten.clone.default)
_EMPTY = {_aten.empty.memory_format, _aten.empty_like.default, _aten.empty_strided.default, _aten.new_empty.default}


@dataclass(eq=False)
class _Buffer:
    """Memory that an operation writes, from the operation `first` to the operation `last` that reads it."""

    size: int
    first: int
    last: int
    start: int = 0


@dataclass(frozen=True)
class _View:
    """A tensor in a buffer."""

    buffer: _Buffer
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass
class _Call:
    function: OpOverload
    args: Any
    kwargs: Any
    results: list[_View]


class _Recorder(TorchDispatchMode):
    """Runs operations and remembers those that compute."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []
        self.buffers: list[_Buffer] = []
        self._by_address: dict[int, _Buffer] = {}
        """Buffers whose memory of the first run was taken last; others may have had it before them."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._can_decompose():
            # In inference mode composite operations come whole: conversions, products of views.
            with self:
                return func.decompose(*args, **kwargs)
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        assert not _asks_for_values(func, given), (
            f"{func} asks for values of tensors, which a recording does not see again"
        )
        bound_args, bound_kwargs = tree_map(self._bound, (args, kwargs))
        result = func(*args, **kwargs)
        if func._schema.is_mutable:
            self.calls.append(_Call(func, bound_args, bound_kwargs, []))
            return result
        new = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if not given and func not in _EMPTY:
            # Of nothing but numbers: what it gives now it would give again.
            for tensor in new:
                self._by_address.pop(_address(tensor), None)
            return result
        if {_address(tensor) for tensor in new} <= {_address(tensor) for tensor in given}:
            return result  # views
        results = [self._allocated(tensor) for tensor in new]
        if func not in _EMPTY:
            self.calls.append(_Call(func, bound_args, bound_kwargs, results))
        return result

    def _allocated(self, tensor: Tensor) -> _View:
        index = len(self.calls)
        buffer = _Buffer(tensor.untyped_storage().nbytes(), index, index)
        self.buffers.append(buffer)
        self._by_address[_address(tensor)] = buffer
        return _view(tensor, buffer)

    def _bound(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        buffer = self._by_address.get(_address(value))
        if buffer is None:
            return value
        buffer.last = len(self.calls)
        return _view(value, buffer)


def replayed(function: Callable[[], object], runner: Runner | None = None) -> Callable[[], object]:
    """Call `function` once; returns what does the same to the tensors that exist, by its recorded operations alone.

    `runner`: runs what the native library knows.
    """
    with _Recorder() as recorder:
        function()
    memory = torch.empty(_plan(recorder.buffers), dtype=torch.uint8)

    def placed(value: Any) -> Any:
        if not isinstance(value, _View):
            return value
        start = value.buffer.start // value.dtype.itemsize
        tensor = torch.empty(0, dtype=value.dtype)
        return tensor.set_(memory.untyped_storage(), start + value.offset, value.shape, value.stride)

    is_view = lambda value: isinstance(value, _View)  # noqa: E731
    calls, neighbours = list[Callable[[], object]](), Operations()

    def end_neighbours() -> None:
        if runner is not None and neighbours:
            calls.append(runner.prepared(neighbours))
            neighbours.clear()

    for call in recorder.calls:
        args, kwargs, results = tree_map(placed, (call.args, call.kwargs, call.results), is_leaf=is_view)
        operations = None if runner is None else lowered(call.function, args, kwargs, results)
        if operations is not None:
            neighbours += operations
            continue
        end_neighbours()
        calls.append(_prepared(call.function, args, kwargs, results))
    end_neighbours()
    held = memory, recorder.calls

    def replay(_: object = held) -> None:
        for call in calls:
            call()

    return replay


def _prepared(function: OpOverload, args: Any, kwargs: Any, results: list[Tensor]) -> Callable[[], object]:
    """The operation as one call, into `results`."""
    if not results:
        method = getattr(args[0], function._schema.name.removeprefix("aten::"), None)
        if method is None:
            return partial(function, *args, **kwargs)
        if function is _aten.copy_.default:
            return partial(method, args[1])
        return partial(method, *args[1:], **kwargs)
    if function in _COPIES:
        return partial(results[0].copy_, args[0])
    if function in _INTO:
        return partial(_INTO[function], *args, **kwargs, out=results[0])
    into = _variant_with_results(function, len(results))
    if into is not None:
        names = [argument.name for argument in into._schema.arguments if argument.is_out]
        return partial(into, *args, **kwargs, **dict(zip(names, results, strict=True)))

    def call_and_copy() -> None:
        for target, value in zip(results, tree_leaves(function(*args, **kwargs)), strict=True):
            target.copy_(value)

    return call_and_copy


def _variant_with_results(function: OpOverload, count: int) -> OpOverload | None:
    """The operation that writes into given tensors what `function` returns."""
    wanted = [(argument.name, str(argument.type)) for argument in function._schema.arguments]
    packet = function.overloadpacket
    for name in packet.overloads():
        variant: OpOverload = getattr(packet, name)
        arguments = variant._schema.arguments
        own = [(argument.name, str(argument.type)) for argument in arguments if not argument.is_out]
        if own == wanted and len(arguments) - len(own) == count:
            return variant
    return None


def _plan(buffers: Sequence[_Buffer]) -> int:
    """Give each buffer a start, so that those that are needed at the same time lie apart; returns the bytes of all."""
    end, alive = 0, list[_Buffer]()
    for buffer in sorted(buffers, key=lambda buffer: buffer.first):
        alive = [other for other in alive if other.last >= buffer.first]
        start = 0
        for other in sorted(alive, key=lambda other: other.start):
            if start + buffer.size <= other.start:
                break
            start = max(start, -(-(other.start + other.size) // _ALIGNMENT) * _ALIGNMENT)
        buffer.start = start
        alive.append(buffer)
        end = max(end, start + buffer.size)
    return end


def _asks_for_values(function: OpOverload, given: Sequence[Tensor]) -> bool:
    """Whether a number on the host, or the size of what is returned, depends on what tensors hold."""
    if function is _aten.index.Tensor:
        return any(tensor.dtype in (torch.bool, torch.uint8) for tensor in given[1:])
    return bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(function.tags))


def _view(tensor: Tensor, buffer: _Buffer) -> _View:
    return _View(buffer, tensor.dtype, int(tensor.storage_offset()), tuple(tensor.shape), tensor.stride())


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
