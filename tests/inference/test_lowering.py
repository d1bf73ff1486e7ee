"""The native library does to tensors what PyTorch does, on every instruction set and for sizes of any parity."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from oracle import make_model, make_prompts
from torch import Tensor

from smidgen.edge import library as native
from smidgen.inference import decoding, lowering
from smidgen.inference.engine import TorchEngine
from smidgen.inference.lowering import Runner
from smidgen.inference.replay import replayed
from smidgen.runtime import SamplingParams

pytestmark = pytest.mark.skipif(not lowering.is_available(), reason="the native library was not built")
SETS = list(native.instruction_sets()) if lowering.is_available() else []


def calls_of(replay: Callable[[], object]) -> list[Callable[[], object]]:
    return next(cell.cell_contents for cell in replay.__closure__ or () if isinstance(cell.cell_contents, list))


def check(
    function: Callable[..., Tensor | tuple[Tensor, ...]],
    *inputs: Tensor,
    isa: str | None = None,
    threads: int = 2,
    tolerance: float | None = None,
    whole: bool = True,
) -> None:
    """The same results as PyTorch's, twice, from inputs that change; all of it (`whole`) in one call of the library."""
    with torch.no_grad():
        outputs = [torch.full_like(value, 7) for value in _results(function(*inputs))]

        def step() -> None:
            for output, value in zip(outputs, _results(function(*inputs)), strict=True):
                output.copy_(value)

        replay = replayed(step, Runner(threads, isa))
        assert not whole or [call.__name__ for call in calls_of(replay)] == ["run_all"]
        for _ in range(2):
            for value in inputs:
                if value.is_floating_point():
                    value.normal_()
            replay()
            for output, expected in zip(outputs, _results(function(*inputs)), strict=True):
                if tolerance is None:
                    assert torch.equal(output, expected)
                else:
                    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)


def _results(value: Tensor | tuple[Tensor, ...]) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def tolerance_of(dtype: torch.dtype) -> float:
    return 2**-7 if dtype == torch.bfloat16 else 2e-6


BOTH = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
EVERY_SET = pytest.mark.parametrize("isa", SETS)


@EVERY_SET
@BOTH
@pytest.mark.parametrize("size", [(1, 1, 37), (1, 3, 64), (2, 9000)])
def test_numbers_one_by_one(isa: str, dtype: torch.dtype, size: tuple[int, ...]) -> None:
    x, y, wide = torch.randn(size).to(dtype), torch.randn(size).to(dtype), torch.randn(size)
    row = torch.randn(size[-1])

    def exact(x: Tensor, y: Tensor, wide: Tensor, row: Tensor) -> tuple[Tensor, ...]:
        return x + y, x - y, x * y, x * 0.5, x + row, wide.to(dtype), x.float(), x.abs(), -x, x.clamp(-1, 1), x.round()

    check(exact, x, y, wide, row, isa=isa)

    def near(x: Tensor, y: Tensor, wide: Tensor, row: Tensor) -> tuple[Tensor, ...]:
        gelu = F.gelu(x, approximate="tanh")
        return F.silu(x), gelu, F.relu(x).square(), x * row, wide / (row.abs() + 1), (wide.abs() + 1).rsqrt()

    check(near, x, y, wide, row, isa=isa, tolerance=tolerance_of(dtype))


@EVERY_SET
@BOTH
@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (33, 47), (64, 768), (1000, 130)])
@pytest.mark.parametrize("threads", [1, 3])
def test_products_with_a_row(isa: str, dtype: torch.dtype, rows: int, columns: int, threads: int) -> None:
    x, weight = torch.randn(columns).to(dtype), torch.randn(rows, columns).to(dtype)
    tall = weight.t().contiguous().t()

    def products(x: Tensor, weight: Tensor, tall: Tensor) -> tuple[Tensor, ...]:
        by_columns = torch.mm(x[None], tall.t())
        return torch.mv(weight, x), F.linear(x[None, None], weight)[0, 0], by_columns

    check(products, x, weight, tall, isa=isa, threads=threads, tolerance=16 * tolerance_of(dtype))


@EVERY_SET
@BOTH
@pytest.mark.parametrize(("heads", "group", "span", "size"), [(3, 4, 128, 64), (1, 9, 50, 17), (2, 1, 300, 33)])
def test_attention(isa: str, dtype: torch.dtype, heads: int, group: int, span: int, size: int) -> None:
    query = torch.randn(heads, group, size).to(dtype)
    keys, values = (torch.randn(heads, span + 1, size).to(dtype) for _ in range(2))
    added = torch.zeros(1, 1, span).masked_fill_(torch.arange(span) > span // 2, -torch.inf)

    def attend(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        own = [tensor[:, :span].float() for tensor in (keys, values)]
        scores = torch.baddbmm(added, query.float(), own[0].transpose(1, 2), alpha=size**-0.5)
        return torch.bmm(scores.softmax(-1), own[1]).to(dtype)

    check(attend, query, keys, values, isa=isa, tolerance=4 * tolerance_of(dtype))


@EVERY_SET
@BOTH
def test_rows(isa: str, dtype: torch.dtype) -> None:
    """Lengths, largest numbers and their places, rows that are looked up and stored, pieces put together."""
    x, table = torch.randn(2, 5, 39).to(dtype), torch.randn(11, 39).to(dtype)
    store, new = torch.zeros(2, 6, 39, dtype=dtype), torch.randn(2, 1, 39).to(dtype)
    index, one = torch.tensor([4]), torch.tensor([[7]])

    def rows(x: Tensor, table: Tensor, new: Tensor) -> tuple[Tensor, ...]:
        kept = store.clone()
        kept[0:2].index_copy_(1, index, new)
        largest, place = x.float().max(-1)
        return (
            torch.linalg.vector_norm(x.float(), dim=-1, keepdim=True),
            *(largest, place, x.amax(-1, keepdim=True), F.embedding(one, table), kept, torch.cat([x, kept], 1)),
            torch.stack([x, x + 1], dim=-1),
        )

    check(rows, x, table, new, isa=isa, tolerance=1e-6)


def test_conversions_for_products_alone_are_not_made() -> None:
    """Of what lies outside, in any view, unless it is written before it is read or read by anything else."""
    torch.manual_seed(0)
    cache, weight = torch.randn(1, 3, 40, 8).bfloat16(), torch.randn(24, 16).bfloat16()
    x, row = torch.randn(1, 3, 1, 8), torch.randn(4, 16)
    result = [torch.zeros(3, 1, 30), torch.zeros(3, 8, 8), torch.zeros(3, 1, 30), torch.zeros(3, 30, 8)]

    def step() -> None:
        seen = cache[:, :, :30].float()
        result[0].copy_(torch.bmm(x.flatten(0, 1), seen.flatten(0, 1).transpose(1, 2)))
        parts = weight.float().unflatten(0, (3, 8))[:, :, 4:12]
        result[1].copy_(torch.bmm(x.flatten(0, 1).expand(-1, 8, -1), parts.transpose(1, 2)))
        copied = cache[:, :, :30].float()
        cache.mul_(0.5)
        result[2].copy_(torch.bmm(x.flatten(0, 1), copied[0].transpose(1, 2)))
        result[3].copy_(torch.mm(weight.float(), row.t()).sum() + weight.float()[0, 0] * copied[0])

    with torch.no_grad():
        replay = replayed(step, Runner(1))
        for _ in range(2):
            x.normal_()
            before = cache.clone()
            step()
            expected = [value.clone() for value in result]
            cache.copy_(before)
            replay()
            for own, other in zip(result, expected, strict=True):
                torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-5)


def test_positions_and_masks() -> None:
    positions, active = torch.tensor([70]), torch.tensor([1])

    def inputs() -> tuple[Tensor, ...]:
        age = (positions[:, None] - torch.arange(96)) % 96
        visible = (age < 32) & (age <= positions[:, None])
        added = torch.zeros_like(visible, dtype=torch.float32).masked_fill_(~visible, -torch.inf)
        slots = (positions % 50).masked_fill(active == 0, 50)
        angles = positions[:, None].float() * torch.linspace(0, 1, 24)
        return added, slots, torch.where(visible, age, -1), angles.cos(), angles.sin()

    check(inputs, tolerance=1e-6)


def test_numbers_that_are_none() -> None:
    """They stay, and the largest of numbers with NaN is NaN."""
    x = torch.tensor([[1.0, torch.nan, torch.inf, -torch.inf, 5.0]])
    results = [torch.zeros(1), torch.zeros(1, dtype=torch.int64), torch.zeros(1, 5), torch.zeros(1, 5)]
    with torch.no_grad():

        def step() -> None:
            for result, value in zip(results, (*x.max(-1), x.clamp(min=0), x * 2), strict=True):
                result.copy_(value)

        replay = replayed(step, Runner(1))
        expected = [result.clone() for result in results]
        for values in ([1.0, torch.nan, torch.inf, -torch.inf, 5.0], [-torch.inf] * 5, [0.0, torch.inf, 1.0, 2.0, 3.0]):
            x[0] = torch.tensor(values)
            step()
            expected = [result.clone() for result in results]
            replay()
            for result, wanted in zip(results, expected, strict=True):
                torch.testing.assert_close(result, wanted, equal_nan=True)


def test_what_has_no_rule_stays_pytorchs() -> None:
    x, weight = torch.randn(3, 17), torch.randn(17, 17)
    check(lambda x, weight: ((x * 2).cumsum(-1) @ weight).erf() + 1, x, weight, tolerance=1e-5, whole=False)
    check(lambda x: x.double() * 2, x, whole=False)


def test_the_librarys_threads_do_not_run_beside_pytorchs() -> None:
    x, weight, other = torch.randn(1, 96), torch.randn(96, 96), torch.randn(1, 96)
    with torch.no_grad():
        for threads, count in ((1, 3), (2, 5)):
            step = lambda: other.copy_((((x * 2) @ weight) + 1).cumsum(-1) * 3)  # noqa: E731
            replay = replayed(step, Runner(threads))
            expected = other.clone()
            replay()
            torch.testing.assert_close(other, expected, rtol=1e-3, atol=1e-3)
            assert len(calls_of(replay)) == count


def test_an_index_outside_is_an_error() -> None:
    table, ids, row = torch.randn(4, 8), torch.tensor([2]), torch.zeros(1, 8)
    with torch.no_grad():
        replay = replayed(lambda: row.copy_(F.embedding(ids, table)), Runner(1))
        ids[0] = 4
        with pytest.raises(IndexError, match="outside"):
            replay()


def logits_of_steps(preset: str, dtype: torch.dtype, step: type[decoding.DecodingStep]) -> list[Tensor]:
    """Logits of tokens that are given, so that rounding does not lead to other ones."""
    model = make_model(preset)
    model.compute_dtype = dtype
    engine = TorchEngine(model, max_batch_size=1, decoding=None if step is decoding.ReplayedDecodingStep else step)
    prompt = make_prompts((40,))[0]
    engine.submit(prompt, SamplingParams(max_new_tokens=200, temperature=0, ignore_eos=True))
    while not engine.step():
        pass
    found = []
    with torch.inference_mode():
        for offset in range(0, 100, 3):
            engine._decoding.load([(offset * 7) % 300], [40 + offset], [True])
            found.append(engine._decoding.logits(1, 41 + offset).clone())
    return found


@BOTH
@pytest.mark.parametrize("preset", ["elite-tiny", "gemma3-tiny", "tilda-tiny", "rscalm-tiny"])
def test_a_whole_step(preset: str, dtype: torch.dtype) -> None:
    """As by direct calls, beyond a ring's window and where the span of a recording changes."""
    recorded = logits_of_steps(preset, dtype, decoding.ReplayedDecodingStep)
    direct = logits_of_steps(preset, dtype, decoding.DecodingStep)
    for own, other in zip(recorded, direct, strict=True):
        error = (own - other).norm() / other.norm()
        assert error < (0.03 if dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("preset", ["elite-tiny", "gemma3-tiny", "tilda-tiny", "rscalm-tiny"])
def test_a_step_is_one_call(preset: str) -> None:
    model = make_model(preset)
    model.compute_dtype = torch.bfloat16
    engine = TorchEngine(model, max_batch_size=1)
    engine.submit([1, 2, 3], SamplingParams(max_new_tokens=4, temperature=0))
    for _ in range(3):
        engine.step()
    [replay] = engine._decoding._graphs.values()  # type: ignore[attr-defined]
    assert [call.__name__ for call in calls_of(replay)] == ["run_all"]
