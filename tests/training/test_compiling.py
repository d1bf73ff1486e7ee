from __future__ import annotations

import os
import signal
import subprocess
from typing import Any

import pytest
import torch
from torch import Tensor

from smidgen.model import Decoder, cross_entropy
from smidgen.runtime.errors import ConfigError
from smidgen.training.compiling import compile_training, first_pass
from smidgen.training.interrupts import StopSignals
from smidgen.training.precision import apply_precision

CPU = torch.device("cpu")
FAMILIES = ["elite-tiny", "gemma3-tiny", "tinylm-tiny", "tinylm-gqa-tiny", "tilda-tiny", "rscalm-tiny"]
# The others are made of the same parts.
FEW = ["elite-tiny", "gemma3-tiny", "tinylm-tiny"]
LENGTH = 48
SMALL = {"model.vocab_size": 65, "model.max_seq_len": LENGTH, "model.num_layers": 2}


def small(randomized_decoder: Any, preset: str, precision: str = "fp32", **overrides: Any) -> Decoder:
    pattern = {"model.layer_pattern": ["sliding", "full"]} if preset == "gemma3-tiny" else {}
    model: Decoder = randomized_decoder(preset, {**SMALL, **pattern, **overrides})
    apply_precision(model, precision, CPU)
    return model.train()


def loss_and_gradients(model: Decoder) -> list[Tensor]:
    model.zero_grad()
    ids = torch.randint(0, 65, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    loss, _ = cross_entropy(model.hidden(ids).flatten(0, 1), model.head_weight, ids.roll(-1, 1).flatten())
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]


# Eager's own operations inside Dynamo's and AOTAutograd's graphs: what breaks a graph breaks it here too, in seconds.
@pytest.mark.parametrize(
    "preset", [preset if preset in FEW else pytest.param(preset, marks=pytest.mark.torture) for preset in FAMILIES]
)
def test_a_layer_of_every_family_is_one_graph(randomized_decoder: Any, preset: str) -> None:
    activations = {"model.linear.activation_bits": None} if preset.startswith("tinylm") else {}
    model = small(randomized_decoder, preset, **activations)
    plain = loss_and_gradients(model)
    compile_training(model, backend="aot_eager")
    # Eager norms, rotations and attention have backward passes of their own, which add up in another order.
    torch.testing.assert_close(loss_and_gradients(model), plain, rtol=1e-4, atol=5e-5)


@pytest.mark.parametrize(
    "precision",
    [
        "fp8_delayed",
        pytest.param("fp8_tensorwise", marks=pytest.mark.torture),
        pytest.param("fp8_block", marks=pytest.mark.torture),
    ],
)
def test_fp8_layers_are_one_graph(randomized_decoder: Any, precision: str) -> None:
    model = small(randomized_decoder, "elite-tiny", precision)
    compile_training(model, backend="aot_eager")
    assert all(torch.isfinite(value).all() for value in loss_and_gradients(model))


@pytest.mark.parametrize("mode", ["selective", "full"])
def test_checkpointed_layers_are_one_graph(randomized_decoder: Any, mode: Any) -> None:
    model = small(randomized_decoder, "gemma3-tiny")
    plain = loss_and_gradients(model)
    model.set_activation_checkpointing(mode)
    compile_training(model, backend="aot_eager")
    torch.testing.assert_close(loss_and_gradients(model), plain, rtol=1e-4, atol=1e-5)


def test_layers_of_one_type_share_their_graphs(randomized_decoder: Any) -> None:
    from torch._dynamo.utils import counters

    graphs = []
    for layers in (3, 5):
        model = small(randomized_decoder, "elite-tiny", **{"model.num_layers": layers})
        compile_training(model, backend="aot_eager")
        counters.clear()
        loss_and_gradients(model)
        graphs.append(counters["stats"]["unique_graphs"])
    assert graphs[0] == graphs[1] <= 2


def refuse(*graph: Any) -> Any:
    """A backend that nothing may reach."""
    raise AssertionError("a pass without gradients was compiled")


def test_evaluation_and_generation_are_not_compiled(randomized_decoder: Any) -> None:
    model = small(randomized_decoder, "elite-tiny").eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        plain = model(ids)
        compile_training(model, backend=refuse)
        assert torch.equal(model(ids), plain)
        cache = model.new_cache(1)
        torch.testing.assert_close(model(ids, cache=cache), plain)


def test_a_missing_compiler_is_one_clear_line(randomized_decoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"training\.compile = true: needs a C"):
        compile_training(small(randomized_decoder, "elite-tiny"))


def test_the_first_pass_is_announced_and_timed() -> None:
    heard: list[Any] = []
    with first_pass(lambda: heard.append("begun"), heard.append):
        assert heard == ["begun"]
    assert heard[0] == "begun"
    assert 0 <= heard[1] < 1


def test_a_ctrl_c_in_the_first_pass_reaches_the_training_and_no_compiler() -> None:
    """A terminal sends it to every process that was started from it."""
    heard: list[signal.Signals] = []
    with StopSignals(heard.append) as signals:
        with first_pass(lambda: None, lambda seconds: None), subprocess.Popen(["sleep", "60"]) as compiler:
            compiler.send_signal(signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            compiler.terminate()
        assert compiler.returncode == -signal.SIGTERM
        assert signals.received == signal.SIGINT
    assert heard == [signal.SIGINT]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.torture
@pytest.mark.parametrize("mode", ["none", "selective", "full"])
@pytest.mark.parametrize("preset", FAMILIES)
def test_inductor_gives_eagers_gradients(randomized_decoder: Any, preset: str, mode: Any) -> None:
    activations = {"model.linear.activation_bits": None} if preset.startswith("tinylm") else {}
    model = small(randomized_decoder, preset, **activations)
    plain = loss_and_gradients(model)
    model.set_activation_checkpointing(mode)
    compile_training(model)
    torch.testing.assert_close(loss_and_gradients(model), plain, rtol=1e-3, atol=1e-4)
