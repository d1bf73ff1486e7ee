from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch

from smidgen.config import Config, load_config
from smidgen.model import Decoder
from smidgen.training.footprint import full_sequences, predict_footprint
from smidgen.training.objectives import LanguageModeling
from smidgen.training.optimizers import average_and_clip, make_optimizer, set_rates
from smidgen.training.precision import apply_precision

CPU = torch.device("cpu")


def measured_peak(step: Callable[[], None]) -> int:
    """The most bytes that PyTorch's CPU allocator had given out at once while `step` ran, less what it began with."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    held = peak = 0
    for event in profile.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


def real_step(config: Config) -> tuple[Decoder, Callable[[], None]]:
    training = config.training
    model = Decoder(config.model).initialize(0).train()
    apply_precision(model, training.precision, CPU)
    model.set_dropout(training.dropout)
    model.set_activation_checkpointing(training.activation_checkpointing)
    optimizer = make_optimizer(model, training.optimizer)
    set_rates(optimizer, 1e-3, 0.1)
    batch = full_sequences(config)(training.batch_size)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss, weight, _ = LanguageModeling().loss(model, batch)
        loss.backward()
        del loss
        average_and_clip(model.parameters(), weight, 1.0)
        optimizer.step()

    step()  # makes the optimiser's state
    optimizer.zero_grad(set_to_none=True)
    return model, step


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("elite-tiny", {"training.precision": "fp32", "training.batch_size": 4}),
        ("elite-tiny", {"training.activation_checkpointing": "selective", "training.optimizer.kind": "muon"}),
        ("gemma3-tiny", {"training.activation_checkpointing": "full", "training.optimizer.kind": "lion"}),
        ("tinylm-tiny", {"training.batch_size": 3, "model.max_seq_len": 300}),
        # The window of the hybrid family at work: scores of 1,024² tokens would be a third of it all.
        (
            "gemma3-tiny",
            {
                "training.batch_size": 1,
                "training.precision": "fp32",
                "training.dropout": 0.0,
                "data.document_masks": False,
                "model.max_seq_len": 1024,
                "model.attention.sliding_window": 64,
                "model.layer_pattern": ["sliding", "full"],
            },
        ),
    ],
)
def test_equal_to_what_a_real_step_takes(preset: str, overrides: dict[str, Any]) -> None:
    config = load_config(preset, {"model.num_layers": 2, "training.batch_size": 2, **overrides})
    model, step = real_step(config)
    begun_with = sum(p.nbytes for p in model.parameters())
    predicted = predict_footprint(config, config.training.batch_size)
    measured = measured_peak(step) + begun_with + predicted.optimizer
    assert predicted.peak == pytest.approx(measured, rel=0.02)


PROCESS = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
from test_footprint import load_config, predict_footprint, real_step
torch.set_num_threads(1)
small = load_config("elite-tiny", {{"training.precision": "fp32", "training.batch_size": 1, "model.max_seq_len": 16}})
predict_footprint(small, 1)
real_step(small)[1]()  # the libraries' own memory
before = int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1]) * 1024
config = load_config("elite-tiny", {overrides!r})
model, step = real_step(config)
step()
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
print(predict_footprint(config, config.training.batch_size).peak, grown)
"""


@pytest.mark.torture
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc/self/status is Linux's")
def test_a_process_grows_by_little_more_than_its_tensors(repository: Any) -> None:
    """What the C library's heap loses between blocks comes on top: 15 to 33 % were measured on two shapes."""
    overrides = {"training.precision": "fp32", "training.batch_size": 16, "model.hidden_size": 256}
    code = PROCESS.format(tests=str(repository / "tests" / "training"), overrides=overrides)
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    predicted, grown = map(int, run.stdout.split())
    assert predicted < grown < 1.4 * predicted


@pytest.mark.parametrize("precision", ["fp32", "fp16", "fp8_tensorwise", "fp8_delayed", "fp8_block"])
def test_every_precision_can_be_predicted(precision: str) -> None:
    config = load_config("elite-tiny", {"model.num_layers": 1, "training.precision": precision})
    footprint = predict_footprint(config, 1)
    assert footprint.peak > footprint.state > 0


def test_parts_by_hand() -> None:
    config = load_config("elite-tiny", {"training.precision": "fp32"})
    count = 4 * sum(p.numel() for p in Decoder(config.model).parameters())
    adamw = predict_footprint(config, 1)
    assert adamw.weights == pytest.approx(count, rel=1e-3)  # RoPE's frequencies beside them
    assert (adamw.gradients, adamw.average) == (count, 0)
    assert adamw.optimizer == pytest.approx(2 * count, rel=1e-3)
    assert predict_footprint(load_config("elite-tiny", {"training.optimizer.kind": "lion"}), 1).optimizer == count
    averaging = predict_footprint(load_config("elite-tiny", {"training.ema_decay": 0.99}), 1)
    assert averaging.average == count
    assert averaging.state == pytest.approx(4 * count, rel=1e-3)


def test_activations_grow_with_the_batch_and_shrink_with_checkpointing() -> None:
    def activations(batch_size: int, mode: str) -> int:
        config = load_config("elite-tiny", {"training.activation_checkpointing": mode})
        return predict_footprint(config, batch_size).activations

    assert activations(4, "none") == pytest.approx(2 * activations(2, "none"), rel=0.1)
    assert activations(2, "none") > 1.5 * activations(2, "selective") > 2 * activations(2, "full")


def test_a_gpus_attention_keeps_no_scores_for_dropout() -> None:
    config = load_config(
        "elite-tiny", {"training.dropout": 0.1, "training.precision": "fp32", "model.max_seq_len": 1024}
    )
    dry = config.model_copy(update={"training": config.training.model_copy(update={"dropout": 0.0})})
    on_cpu, on_gpu = (predict_footprint(config, 1, as_gpu=as_gpu).activations for as_gpu in (False, True))
    scores = config.model.num_layers * 4 * 1024 * 1024 * 4  # of 4 heads, in float32
    assert on_cpu - on_gpu > scores
    assert on_gpu < 1.2 * predict_footprint(dry, 1).activations


def test_sliding_layers_keep_memory_linear_in_the_length() -> None:
    """From 2,048 to 32,768 tokens a token costs the same, give or take the edges."""

    def activations(length: int) -> int:
        overrides = {
            "model.vocab_size": 256,
            "model.hidden_size": 32,
            "model.num_layers": 2,
            "model.layer_pattern": ["sliding"],
            "model.attention.sliding_window": 512,
            "model.max_seq_len": length,
            "training.precision": "fp32",
            "training.dropout": 0.0,
            "data.document_masks": False,
        }
        return predict_footprint(load_config("gemma3-tiny", overrides), 1).activations

    per_token = [activations(length) / length for length in (2048, 32_768)]
    assert max(per_token) < 1.1 * min(per_token)
