"""What was measured of a model: the figures that its checkpoint and run recorded, and nothing else."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smidgen.folders import resolve
from smidgen.folders.model_folder import QUANTIZATION_REPORT
from smidgen.runtime.fields import Fields, read_json


@dataclass(frozen=True)
class Measurements:
    """Of one checkpoint; None where the run did not record it."""

    step: int | None = None
    tokens: int | None = None
    """Tokens trained on until then."""
    loss: float | None = None
    """Validation loss, nats a token."""
    perplexity: float | None = None
    bits_per_byte: float | None = None


@dataclass(frozen=True)
class QuantizationLoss:
    """What `smidgen quantize` measured: before and after; None where it could not be measured."""

    text: str
    """The name of what it was measured on."""
    tokens: int
    perplexity: tuple[float, float]
    bits_per_byte: tuple[float, float] | None
    agreement: float
    """Part of the positions where both have the same most probable next token."""


def quantization_loss_of(model: str | Path) -> QuantizationLoss | None:
    """What was lost when the model that MODEL names was quantised; None where nobody measured it."""
    folder = resolve(model).folder
    if folder is None or not (folder / QUANTIZATION_REPORT).is_file():
        return None
    fields = Fields(read_json(folder / QUANTIZATION_REPORT), str(folder / QUANTIZATION_REPORT))
    bits = None
    if fields.values.get("bits_per_byte") is not None:
        bits = fields.number("bits_per_byte_before"), fields.number("bits_per_byte")
    return QuantizationLoss(
        text=fields.text("measured_on"),
        tokens=fields.integer("measured_tokens"),
        perplexity=(fields.number("perplexity_before"), fields.number("perplexity")),
        bits_per_byte=bits,
        agreement=fields.number("greedy_agreement"),
    )


def measurements_of(model: str | Path) -> Measurements | None:
    """The figures of the checkpoint that MODEL names; None for a folder that no run wrote."""
    folder = resolve(model).folder
    if folder is None:
        return None
    # A checkpoint's model lies beside its manifest, two folders below the run.
    manifest = folder.parent / "manifest.json"
    metrics = folder.parent.parent.parent / "metrics.jsonl"
    if folder.name != "model" or not manifest.is_file():
        return None
    step = json.loads(manifest.read_text(encoding="utf-8"))["step"]
    record = _validation(metrics, step) if metrics.is_file() else {}
    return Measurements(
        step=step,
        tokens=record.get("tokens"),
        loss=record.get("loss"),
        perplexity=record.get("perplexity"),
        bits_per_byte=record.get("bits_per_byte"),
    )


def _validation(metrics: Path, step: int) -> dict[str, Any]:
    """The last validation at a step; an unfinished last line is passed over."""
    found: dict[str, Any] = {}
    for line in metrics.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and record.get("kind") == "validation" and record.get("step") == step:
            found = record
    return found
