from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch

from smidgen.config import Config
from smidgen.model import Decoder
from smidgen.runtime.errors import ConfigError, TrainingError
from smidgen.training.precision import (
    amax_tensors,
    apply_precision,
    commit_amax,
    compute_dtype,
    discard_amax,
    load_precision_state,
    make_scaler,
    precision_state,
    resolve_precision,
)

CPU = torch.device("cpu")
FP8 = ["fp8_tensorwise", "fp8_delayed", "fp8_block"]
MakeConfig = Callable[..., Config]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", *FP8])
def test_activations_have_the_precision_and_masters_and_gradients_are_float32(
    make_config: MakeConfig, precision: str
) -> None:
    config = make_config(precision=precision)
    model = Decoder(config.model).initialize(0)
    apply_precision(model, precision, CPU)
    hidden = model.hidden(torch.arange(24)[None])
    assert hidden.dtype == compute_dtype(precision)
    hidden.float().square().sum().backward()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("fp8", FP8)
def test_fp8_rounds_more_than_bf16(make_config: MakeConfig, fp8: str) -> None:
    config = make_config()
    outputs = {}
    for precision in ("fp32", "bf16", fp8):
        model = Decoder(config.model).initialize(0)
        apply_precision(model, precision, CPU)
        with torch.no_grad():
            outputs[precision] = model(torch.arange(24)[None])
    error = {name: (outputs[name] - outputs["fp32"]).norm() for name in ("bf16", fp8)}
    assert 0 < error["bf16"] < error[fp8]


def test_the_scaler_scales_for_fp16_only() -> None:
    assert not make_scaler("bf16", CPU, 1024).is_enabled()
    scaler = make_scaler("fp16", CPU, 1024)
    assert scaler.is_enabled()
    assert scaler.get_scale() == 2.0**16 / 1024


def test_fp8_is_off_unless_asked_for(make_config: MakeConfig) -> None:
    assert make_config().training.precision == "fp32"
    model = Decoder(make_config().model).initialize(0)
    conversion = apply_precision(model, "bf16", CPU)
    assert (conversion.recipe, conversion.converted, conversion.kept) == (None, (), ())
    assert amax_tensors(model) == []
    assert precision_state(model) == {}
    commit_amax(model)


def test_fp8_that_no_layer_can_take_is_refused(make_config: MakeConfig) -> None:
    config = make_config(**{"model.linear.kind": "ternary"})
    with pytest.raises(ConfigError, match=r"training.precision = fp8_tensorwise.*ternary"):
        apply_precision(Decoder(config.model).initialize(0), "fp8_tensorwise", CPU)


class Run:
    """A training of a tiny decoder, step by step, with the calls that the loop makes."""

    def __init__(self, config: Config, precision: str) -> None:
        self.model = Decoder(config.model).initialize(0).train()
        self.conversion = apply_precision(self.model, precision, CPU)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=3e-3)

    def step(self, number: int, spoil: bool = False) -> float:
        """The loss a token before the step; two passes make it. A step that is spoilt is skipped."""
        generator = torch.Generator().manual_seed(number)
        self.optimizer.zero_grad()
        total = 0.0
        for _ in range(2):
            tokens = [torch.randint(0, 61, (4,), generator=generator)]
            while len(tokens) <= 24:
                tokens.append((tokens[-1] * 5 + 3) % 61)
            ids = torch.stack(tokens, dim=1)
            logits = self.model(ids[:, :-1])
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
            (loss * (torch.nan if spoil else 1.0)).backward()
            total += loss.item()
        if spoil:
            discard_amax(self.model)
            return total / 192
        for parameter in self.model.parameters():
            assert parameter.grad is not None
            parameter.grad /= 192
        self.optimizer.step()
        commit_amax(self.model)
        return total / 192


@pytest.mark.parametrize("precision", FP8)
def test_training_follows_bf16(make_config: MakeConfig, precision: str) -> None:
    """Within 0.02 nats of bf16 at every one of 30 steps, while the loss falls by half."""
    runs = [Run(make_config(), name) for name in ("bf16", precision)]
    assert len(runs[1].conversion.converted) == 2 * 7
    losses = [[run.step(number) for number in range(30)] for run in runs]
    assert losses[0][-1] < losses[0][0] / 1.8
    assert max(abs(a - b) for a, b in zip(*losses, strict=True)) < 0.02


def test_delayed_scaling_resumes_to_the_bit(make_config: MakeConfig) -> None:
    run = Run(make_config(), "fp8_delayed")
    for number in range(3):
        run.step(number)
    resumed = Run(make_config(), "fp8_delayed")
    resumed.model.load_state_dict(run.model.state_dict())
    resumed.optimizer.load_state_dict(copy.deepcopy(run.optimizer.state_dict()))
    load_precision_state(resumed.model, precision_state(run.model))
    for number in range(3, 6):
        assert run.step(number) == resumed.step(number)
    state = precision_state(resumed.model)
    assert all(torch.equal(tensor, state[name]) for name, tensor in precision_state(run.model).items())
    assert len(state) == 2 * 3 * 2 * 7


def test_a_skipped_step_leaves_the_histories_untouched(make_config: MakeConfig) -> None:
    run = Run(make_config(), "fp8_delayed")
    run.step(0)
    before = precision_state(run.model)
    run.step(1, spoil=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in precision_state(run.model).items())
    assert not torch.stack(amax_tensors(run.model)).any()
    run.step(2)
    assert all(tensor.isfinite().all() for tensor in precision_state(run.model).values())


def test_ranks_that_agree_on_the_largest_values_get_the_same_scales(make_config: MakeConfig) -> None:
    runs = [Run(make_config(), "fp8_delayed") for _ in range(2)]
    for number, run in enumerate(runs):
        run.model(torch.full((1, 24), number)).sum().backward()
    first, second = (amax_tensors(run.model) for run in runs)
    for a, b in zip(first, second, strict=True):
        a.copy_(torch.maximum(a, b))
        b.copy_(a)
    for run in runs:
        commit_amax(run.model)
    states = [precision_state(run.model) for run in runs]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_fp8_state_of_another_model_is_refused_and_of_another_precision_ignored(make_config: MakeConfig) -> None:
    run = Run(make_config(), "fp8_delayed")
    state = precision_state(run.model)
    name = min(state)
    with pytest.raises(TrainingError, match=name):
        load_precision_state(run.model, {key: tensor for key, tensor in state.items() if key != name})
    load_precision_state(Run(make_config(), "fp8_block").model, state)
    load_precision_state(run.model, {})


@pytest.mark.parametrize(("is_fast", "expected"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_what_the_device_multiplies_and_stays_what_the_run_was_begun_with(
    make_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, is_fast: bool, expected: str
) -> None:
    monkeypatch.setattr("smidgen.training.precision.multiplies_bf16_fast", lambda _: is_fast)
    auto, cpu = make_config(precision="auto"), CPU
    assert resolve_precision(auto, cpu, None).training.precision == expected
    begun = make_config(precision="bf16")
    assert resolve_precision(auto, cpu, begun).training.precision == "bf16"
    assert resolve_precision(make_config(precision="fp16"), cpu, begun).training.precision == "fp16"
