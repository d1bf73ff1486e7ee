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

from smidgen.inference.lowering import PRODUCTS, Operations, Runner, is_shared, lowered

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


@dataclass(eq=False)
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

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else PyTorch loads its compiler, a second of a start, to tell it to keep away."""
        return False

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

    `runner`: runs what the native library knows; beside calls of PyTorch's, only what needs no other threads.
    """
    with _Recorder() as recorder:
        function()
    memory = _Memory(recorder.buffers)
    # PyTorch's threads go on turning after a product of its own, and would be in the way of the library's.
    is_mixed = (
        runner is not None and runner.threads > 1 and not all(_is_lowered(call, memory) for call in recorder.calls)
    )
    unneeded = list[_Call]() if runner is None or is_mixed else _read_unconverted(recorder.calls, memory)
    calls, neighbours = list[Callable[[], object]](), Operations()

    def end_neighbours() -> None:
        if runner is not None and neighbours:
            calls.append(runner.prepared(neighbours))
            neighbours.clear()

    for call in recorder.calls:
        if call in unneeded:
            continue
        bound = memory.bound(call)
        operations = None if runner is None else lowered(*bound)
        if operations is not None and not (is_mixed and is_shared(operations)):
            neighbours += operations
            continue
        end_neighbours()
        calls.append(_prepared(*bound))
    end_neighbours()
    held = memory, recorder.calls

    def replay(_: object = held) -> None:
        for call in calls:
            call()

    return replay


class _Memory:
    """Where the tensors of a recording lie."""

    def __init__(self, buffers: Sequence[_Buffer]) -> None:
        self._bytes = torch.empty(_plan(buffers), dtype=torch.uint8)
        self.replaced: dict[_Buffer, tuple[Tensor, _View]] = {}
        """Copies that nobody reads: for each buffer the tensor that is read instead, and its copy."""

    def bound(self, call: _Call) -> tuple[OpOverload, Any, Any, list[Tensor]]:
        """The call with its tensors."""
        given = (call.args, call.kwargs, call.results)
        return call.function, *tree_map(self._placed, given, is_leaf=lambda value: isinstance(value, _View))

    def _placed(self, value: Any) -> Any:
        if not isinstance(value, _View):
            return value
        if value.buffer in self.replaced:
            return _of_source(value, *self.replaced[value.buffer])
        start = value.buffer.start // value.dtype.itemsize
        tensor = torch.empty(0, dtype=value.dtype)
        return tensor.set_(self._bytes.untyped_storage(), start + value.offset, value.shape, value.stride)


def _read_unconverted(calls: Sequence[_Call], memory: _Memory) -> list[_Call]:
    """Copies in float32 of tensors from outside (a cache, a weight) that only products of the library read, which may
    as well read the tensors themselves: `memory` then binds those. Returns what need not be copied.
    """
    found = []
    readers_of = dict[_Buffer, list[int]]()
    for index, call in enumerate(calls):
        for buffer in {view.buffer for view in _views(call)}:
            readers_of.setdefault(buffer, []).append(index)
    for index, call in enumerate(calls):
        if call.function not in _COPIES or not isinstance(source := call.args[0], Tensor):
            continue
        [copy] = call.results
        if (source.dtype, copy.dtype) != (torch.bfloat16, torch.float32):
            continue
        readers = readers_of.get(copy.buffer, [])
        between = calls[index + 1 : readers[-1]] if readers else []
        is_written = any(
            other.function._schema.is_mutable and _address(other.args[0]) == _address(source)
            for other in between
            if isinstance(other.args[0], Tensor)
        )
        memory.replaced[copy.buffer] = source, copy
        if is_written or not all(
            calls[place].function in PRODUCTS and _is_lowered(calls[place], memory) for place in readers
        ):
            del memory.replaced[copy.buffer]
            continue
        found.append(call)
    return found


def _is_lowered(call: _Call, memory: _Memory) -> bool:
    function, args, kwargs, results = memory.bound(call)
    return all(value is not None for value in args) and lowered(function, args, kwargs, results) is not None


def _views(call: _Call) -> list[_View]:
    leaves = tree_leaves((call.args, call.kwargs), is_leaf=lambda value: isinstance(value, _View))
    return [leaf for leaf in leaves if isinstance(leaf, _View)]


def _of_source(view: _View, source: Tensor, copy: _View) -> Tensor | None:
    """What `view` of a copy is of the source; None where no strides say it."""
    dimensions = list[tuple[int, int, int]]()  # size, stride of the copy, stride of the source
    for size, own, other in sorted(zip(copy.shape, copy.stride, source.stride(), strict=True), key=lambda d: d[1]):
        if size == 1:
            continue
        if (
            dimensions
            and dimensions[-1][0] * dimensions[-1][1] == own
            and dimensions[-1][0] * dimensions[-1][2] == other
        ):
            dimensions[-1] = (dimensions[-1][0] * size, *dimensions[-1][1:])
        else:
            dimensions.append((size, own, other))
    offset, rest, starts = source.storage_offset(), view.offset - copy.offset, list[int]()
    for _, own, other in reversed(dimensions):
        starts.insert(0, rest // own)
        offset, rest = offset + rest // own * other, rest % own
    strides = []
    for size, stride in zip(view.shape, view.stride, strict=True):
        if size == 1 or stride == 0:
            strides.append(0)
            continue
        for (extent, own, other), start in zip(dimensions, starts, strict=True):
            if stride % own == 0 and start + (size - 1) * (stride // own) < extent:
                strides.append(stride // own * other)
                break
        else:
            return None
    return source.as_strided(view.shape, strides, offset)


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
