"""Parameters, FLOPs and memory of a model, and the devices that can train and run it: a preset, a configuration file,
or any model folder.

Example: smidgen info elite-112m --training.batch_size 4 --training.activation_checkpointing selective
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from smidgen.config import Config, ModelConfig

OVERRIDES = True
TOKENS_PER_PARAMETER = 20
"""Compute-optimal training tokens a parameter (Hoffmann et al., 2022)."""
LENGTH_TO_ASSUME = 2048
"""Tokens a sequence, where no configuration of a training says."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a preset, a YAML file, or a model, checkpoint, run or Hugging Face folder"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    figures = collect(*_resolve(args.model, args.overrides))
    if args.json:
        json.dump(figures, sys.stdout, indent=2)
        print()
    else:
        _print(args.model, figures)
    return 0


def _resolve(name: str, overrides: list[str]) -> tuple[ModelConfig, Config | None]:
    from smidgen.config import load_config, preset_names
    from smidgen.runtime.errors import ConfigError

    path = Path(name)
    if name in preset_names() or path.is_file() or (path / "config.yaml").is_file() or not path.exists():
        config = load_config(name, overrides)
        return config.model, config
    if overrides:
        raise ConfigError(f"{overrides[0]}: a model folder's configuration is fixed; overrides go with a preset")
    from smidgen.folders import model_config

    return model_config(path), None


def collect(model: ModelConfig, config: Config | None) -> dict[str, Any]:
    """Every figure of `smidgen info`, as plain numbers."""
    from smidgen.model import cache_elements_per_token, count_by_part, flops_per_token

    config = config or _usual_training(model)
    training = config.training
    parts = count_by_part(model)
    parameters = sum(parts.values())
    seq_len = training.seq_len or model.max_seq_len
    tokens = training.tokens_per_step
    if training.batch_size:
        tokens = training.batch_size * training.gradient_accumulation_steps * seq_len
    return {
        "parameters": parameters,
        "parameters_by_part": parts,
        "training_flops_per_token": flops_per_token(model, seq_len),
        "seq_len": seq_len,
        "max_seq_len": model.max_seq_len,
        "weights_bytes": {"float32": parameters * 4, "bf16": parameters * 2, **_stored(model)},
        "cache_elements_per_token": cache_elements_per_token(model),
        "cache_bytes_at_max_seq_len": _cache_bytes(model),
        "compute_optimal_tokens": parameters * TOKENS_PER_PARAMETER,
        "tokens_per_step": tokens,
        "training_tokens": None if training.max_steps is None or tokens is None else tokens * training.max_steps,
        **_memory(config),
    }


def _stored(model: ModelConfig) -> dict[str, int]:
    """Bytes of the folder of a quantised model."""
    from smidgen.evaluation.quantization import model_size
    from smidgen.model import load_architecture

    return {} if model.quantization is None else {"stored": model_size(load_architecture(model)).bytes}


def _usual_training(model: ModelConfig) -> Config:
    """What to assume of a model that comes without a training section."""
    from smidgen.config import Config, TrainingConfig

    return Config(model=model, training=TrainingConfig(batch_size=1, seq_len=min(model.max_seq_len, LENGTH_TO_ASSUME)))


def _memory(config: Config) -> dict[str, Any]:
    from dataclasses import asdict

    from smidgen.config import AUTO_BATCH_SIZE
    from smidgen.model.memory import DEVICES, running_bytes
    from smidgen.training.devices import resolve_device
    from smidgen.training.footprint import predict_footprint

    running = running_bytes(config.model)
    if config.model.quantization is not None:
        # It runs with its weights as floats at the most, and is not trained.
        devices = [
            {"name": device.name, "memory_bytes": device.memory, "trains": False, "runs": device.fits(running)}
            for device in DEVICES
        ]
        return {"training_bytes": None, "devices": devices}
    training = config.training
    # What batch_size auto will find depends on the device: the least is shown.
    batch_size = 1 if training.batch_size == AUTO_BATCH_SIZE else training.batch_size
    on_computer = on_gpu = predict_footprint(config, batch_size)
    if training.dropout:
        on_gpu = predict_footprint(config, batch_size, as_gpu=True)
    device_type = resolve_device(training.device).type
    return {
        "training_bytes": {
            "batch_size": batch_size,
            "optimizer_kind": training.optimizer.kind,
            "activation_checkpointing": training.activation_checkpointing,
            "precision": training.precision,
            "device": device_type,
            **asdict(on_computer if device_type == "cpu" else on_gpu),
        },
        "devices": [
            {
                "name": device.name,
                "memory_bytes": device.memory,
                "trains": device.fits(on_computer.peak + on_computer.state if device.is_computer else on_gpu.peak),
                "runs": device.fits(running),
            }
            for device in DEVICES
        ],
    }


def _cache_bytes(model: ModelConfig) -> int:
    """The bf16 cache of one sequence of full length; sliding layers hold a window only."""
    import torch

    from smidgen.model import load_architecture

    with torch.device("meta"):
        decoder = load_architecture(model)
        decoder.compute_dtype = torch.bfloat16
        return decoder.new_cache(1).nbytes


def _print(name: str, figures: dict[str, Any]) -> None:
    from smidgen.cli.tables import format_bytes, print_table

    parts = figures["parameters_by_part"]
    rows = [["parameters", f"{figures['parameters']:,}", ""]]
    rows += [["", f"{count:,}", part.replace("_", " ")] for part, count in parts.items() if count]
    weights, training = figures["weights_bytes"], figures["training_bytes"]
    if training is not None:
        rows += _training_rows(figures)
    running = [[format_bytes(weights["stored"]), "weights as they are stored"]] if "stored" in weights else []
    running += [
        [format_bytes(weights["bf16"]), "weights in bf16"],
        [format_bytes(weights["float32"]), "weights in float32"],
        [format_bytes(figures["cache_bytes_at_max_seq_len"]), f"bf16 cache of {figures['max_seq_len']:,} tokens"],
    ]
    rows += [["" if number else "running", *row] for number, row in enumerate(running)]
    print_table([name, "", ""], rows)
    columns = {} if training is None else {"trains": f"training, {_passes(figures)}"}
    columns["runs"] = "running in bf16, full context"
    verdicts = {True: "fits", False: "does not fit"}
    devices = [[device["name"], *(verdicts[device[column]] for column in columns)] for device in figures["devices"]]
    print()
    print_table(["device", *columns.values()], devices)


def _passes(figures: dict[str, Any]) -> str:
    memory = figures["training_bytes"]
    return f"{memory['batch_size']} × {figures['seq_len']:,} tokens, {memory['precision']}"


def _training_rows(figures: dict[str, Any]) -> list[list[str]]:
    from smidgen.cli.tables import format_bytes, format_count

    flops, memory = figures["training_flops_per_token"], figures["training_bytes"]
    rows = [
        ["training", format_count(flops), f"FLOPs a token at {figures['seq_len']:,} tokens a sequence"],
        ["", format_count(figures["compute_optimal_tokens"]), f"tokens at {TOKENS_PER_PARAMETER} a parameter"],
    ]
    if figures["training_tokens"]:
        rows.append(["", format_count(figures["training_tokens"]), "tokens in this configuration's steps"])
    rows += [
        ["", format_bytes(memory["weights"]), "weights in float32"],
        ["", format_bytes(memory["gradients"]), "gradients"],
        ["", format_bytes(memory["optimizer"]), f"state of {memory['optimizer_kind']}"],
    ]
    if memory["average"]:
        rows.append(["", format_bytes(memory["average"]), "moving average of the weights"])
    checkpointing = f"activation_checkpointing {memory['activation_checkpointing']}"
    return [
        *rows,
        ["", format_bytes(memory["activations"]), f"activations of {_passes(figures)}, {checkpointing}"],
        ["", format_bytes(memory["peak"]), f"at the peak of a step on {memory['device']}"],
    ]
