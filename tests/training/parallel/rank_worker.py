"""What every rank of the tests runs: train each case divided, then, on rank 0, in one process; write how they differ.

Started as torchrun would start it: `rank_worker.py CASES.json RESULTS.json`, with RANK, WORLD_SIZE, … set.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from smidgen.config import Config, load_config
from smidgen.model import Decoder
from smidgen.runtime.errors import TrainingError
from smidgen.training.compiling import compile_training
from smidgen.training.objectives import Batch, LanguageModeling
from smidgen.training.optimizers import (
    average_and_clip,
    load_optimizer_tensors,
    make_optimizer,
    optimizer_tensors,
    set_rates,
)
from smidgen.training.parallel import (
    Degrees,
    ProcessGroup,
    Ranks,
    agree_on_amax,
    joined_ranks,
    parallelize,
    whole_copy,
    whole_on_main,
)
from smidgen.training.precision import apply_precision, commit_amax

VOCAB, LENGTH, SEQUENCES = 61, 16, 4
STEPS, PASSES = 3, 2
SMALL = {
    "model.vocab_size": VOCAB,
    "model.vocab_padding_multiple": 4,
    "model.hidden_size": 32,
    "model.num_layers": 2,
    "model.max_seq_len": LENGTH,
    "model.feed_forward.intermediate_size": 64,
    "model.attention.num_heads": 4,
    "training.precision": "fp32",
    "training.gradient_clip": 0.5,
    # Adam divides by the gradient's size: a small eps would blow up rounding errors of gradients near zero.
    "training.optimizer": {"kind": "adamw", "eps": 1e-3},
}
GROUPED = {"model.attention.head_dim": 8, "model.attention.num_kv_heads": 2}
LATENT = {
    "model.attention.q_lora_rank": 16,
    "model.attention.kv_lora_rank": 8,
    "model.attention.qk_nope_head_dim": 8,
    "model.attention.qk_rope_head_dim": 4,
    "model.attention.v_head_dim": 8,
}
# Rounding activations to 8 bits turns a difference of 1e-7 into one of a whole code.
EXACT = {"model.linear.activation_bits": None}
FAMILIES: dict[str, dict[str, Any]] = {
    "elite-tiny": GROUPED,
    "tilda-tiny": LATENT,
    "rscalm-tiny": {**GROUPED, "model.attention.num_kv_heads": 4},
    "tinylm-tiny": {**LATENT, **EXACT},
    "tinylm-gqa-tiny": {**GROUPED, **EXACT},
    "gemma3-tiny": {
        **GROUPED,
        "model.attention.num_kv_heads": 1,
        "model.attention.sliding_window": 4,
        "model.layer_pattern": ["sliding", "full"],
    },
}


def configuration(case: dict[str, Any]) -> Config:
    return load_config(case["preset"], {**SMALL, **FAMILIES[case["preset"]], **case["overrides"]})


class Training:
    """A few steps on random tokens, with ragged labels, as the loop takes them."""

    def __init__(self, config: Config, ranks: Ranks, backend: str | None) -> None:
        self.config, self.ranks = config, ranks
        self.model = Decoder(config.model).initialize(1).train()
        apply_precision(self.model, config.training.precision, torch.device("cpu"))
        self.model.set_activation_checkpointing(config.training.activation_checkpointing)
        if backend is not None:
            compile_training(self.model, backend)
        self.parallel = parallelize(self.model, LanguageModeling().loss, ranks)
        self.optimizer = make_optimizer(self.model, config.training.optimizer)
        self.random = torch.Generator().manual_seed(5)

    def step(self) -> tuple[float, float]:
        """Mean loss and gradient norm of a step."""
        self.optimizer.zero_grad(set_to_none=True)
        sums = torch.zeros(2)
        for number in range(PASSES):
            batch = self.share()
            with self.parallel.accumulating(number == PASSES - 1):
                loss, weight, _ = self.parallel.loss(self.model, batch)
                loss.backward()
            sums += torch.stack([loss.detach(), weight.float()])
        self.parallel.finish_gradients()
        loss, weight = self.ranks.sum(sums)
        set_rates(self.optimizer, 1e-2, 0.1)
        norm = average_and_clip(self.model.parameters(), weight, self.config.training.gradient_clip)
        assert type(norm) is Tensor
        self.optimizer.step()
        agree_on_amax(self.model, self.ranks)
        commit_amax(self.model)
        return (loss / weight).item(), norm.item()

    def share(self) -> Batch:
        """This rank's rows of the next batch."""
        tokens = torch.randint(0, VOCAB, (SEQUENCES, LENGTH + 1), generator=self.random)
        labels = tokens[:, 1:].clone()
        labels[0, :7] = -100
        count = SEQUENCES // self.ranks.batch_size
        rows = slice(self.ranks.batch_rank * count, (self.ranks.batch_rank + 1) * count)
        return Batch(tokens[rows, :-1].contiguous(), labels[rows].contiguous())

    @torch.no_grad()
    def evaluate(self) -> float:
        self.model.eval()
        loss, weight, _ = self.parallel.loss(self.model, self.share())
        self.parallel.finish_evaluation()
        self.model.train()
        loss, weight = self.ranks.sum(torch.stack([loss, weight.float()]))
        return (loss / weight).item()

    def whole_state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Weights and optimiser state, whole, on the main rank."""
        model = whole_copy(self.model, self.ranks)
        weights = {} if model is None else {name: p.detach() for name, p in model.named_parameters()}
        return weights, whole_on_main(optimizer_tensors(self.optimizer, self.model), self.ranks)


def run_case(case: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    config = configuration(case)

    def train(ranks: Ranks, backend: str | None) -> tuple[Training, list[list[float]], float]:
        torch.manual_seed(0)
        training = Training(config, ranks, backend)
        steps = [list(training.step()) for _ in range(STEPS)]
        return training, steps, training.evaluate()

    divided, steps, evaluation = train(ranks, case["backend"])
    weights, state = divided.whole_state()
    # What was gathered can be divided again: the optimiser takes back its own state.
    state = ranks.broadcast(state)
    load_optimizer_tensors(divided.optimizer, divided.model, state)
    reloaded = whole_on_main(optimizer_tensors(divided.optimizer, divided.model), ranks)
    if not ranks.is_main:
        return {}
    alone, steps_alone, evaluation_alone = train(Ranks(), None)
    weights_alone, state_alone = alone.whole_state()
    assert list(weights) == list(weights_alone)
    assert state.keys() == state_alone.keys() == reloaded.keys()
    return {
        "steps": steps,
        "steps_alone": steps_alone,
        "evaluation": evaluation,
        "evaluation_alone": evaluation_alone,
        "weight_error": max((weights[name] - weights_alone[name]).abs().max().item() for name in weights),
        "weight_change": max((p - q).abs().max().item() for p, q in zip(weights.values(), begun(config), strict=True)),
        "reloaded": all(torch.equal(state[name], reloaded[name]) for name in state),
    }


def begun(config: Config) -> list[Tensor]:
    return [p.detach() for p in Decoder(config.model).initialize(1).parameters()]


def collectives(ranks: Ranks) -> dict[str, Any]:
    """What each rank's voice becomes."""
    return {
        "any_none": ranks.any(False),
        "any_last": ranks.any(ranks.rank == ranks.size - 1),
        "sum": ranks.sum(torch.tensor([1.0, float(ranks.batch_rank)])).tolist(),
        "largest": ranks.largest(torch.tensor([1.0, float(ranks.rank)])).tolist(),
        "broadcast": ranks.broadcast({"from": ranks.rank}),
        "gather": ranks.gather(ranks.rank),
        "on_main": ranks.on_main(lambda: ranks.rank),
        "refused": refusal(ranks),
    }


def refusal(ranks: Ranks) -> str:
    def refuse() -> None:
        raise TrainingError(f"refused by {ranks.rank}")

    try:
        ranks.on_main(refuse)
    except TrainingError as error:
        return str(error)
    return "nothing"


def main(cases_path: str, results_path: str) -> None:
    torch.set_num_threads(1)
    cases = json.loads(Path(cases_path).read_text())
    results: list[dict[str, Any]] = []
    with joined_ranks(Degrees(int(os.environ["WORLD_SIZE"]), 1, 1), torch.device("cpu")) as whole:
        for case in cases:
            degrees = Degrees(*case["degrees"])
            ranks = whole if degrees == whole.degrees else ProcessGroup(degrees, "cpu")
            try:
                result = collectives(ranks) if case["preset"] is None else run_case(case, ranks)
            except Exception:
                result = {"error": traceback.format_exc()}
                print(result["error"], file=sys.stderr)
            results.append(result)
            if "error" in result:
                break  # the others may wait in a collective that this rank has left
        if whole.is_main:
            Path(results_path).write_text(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
