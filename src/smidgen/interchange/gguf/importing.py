"""A model from a GGUF file of one of the four architectures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from smidgen.config import ModelConfig, validate
from smidgen.folders.memory import check_memory, structure_of
from smidgen.interchange.gguf.architectures import BY_NAME, GgufArchitecture
from smidgen.interchange.gguf.layout import Entry
from smidgen.interchange.gguf.metadata import Metadata
from smidgen.interchange.gguf.reader import GgufFile, open_gguf
from smidgen.interchange.gguf.vocabulary_import import tokenizer_of
from smidgen.interchange.imported import Imported
from smidgen.kernels.ternary import SMALLEST_SCALE
from smidgen.model import Decoder
from smidgen.runtime.errors import ConfigError, InterchangeError


def import_gguf(path: Path) -> Imported:
    """The model and tokenizer of a GGUF file, float32. Raises InterchangeError in one line for a file that is damaged,
    hostile, or of a model that Smidgen does not run exactly."""
    with open_gguf(path) as file:
        architecture, config = read_config(file)
        shapes = dict(structure_of(config, path).named_parameters())
        entries = [_stored_here(entry, file) for entry in architecture.entries(config)]
        _check(file, entries, shapes)
        check_memory(path, shapes.values())
        decoder = Decoder(config)
        parameters = dict(decoder.named_parameters())
        with torch.no_grad():
            for entry in entries:
                parameters[entry.ours].copy_(_read(entry, file))
        turn = file.values.get("tokenizer.ggml.eot_token_id")
        ends = (turn,) if isinstance(turn, int) and 0 <= turn < config.vocab_size else ()
        return Imported(decoder.eval(), tokenizer_of(file), f"GGUF {architecture.name}", ends)


def read_config(file: GgufFile) -> tuple[GgufArchitecture, ModelConfig]:
    """The architecture and the configuration that the metadata describe."""
    metadata = file.metadata()
    name = metadata.get("general.architecture")
    if not isinstance(name, str) or name not in BY_NAME:
        raise InterchangeError(
            f"{file.path}: general.architecture = {str(name)[:40]!r}: Smidgen reads {', '.join(BY_NAME)}"
        )
    if "split.count" in metadata and metadata["split.count"] != 1:
        raise InterchangeError(f"{file.path}: is one part of several; join them with llama-gguf-split --merge")
    architecture = BY_NAME[name]
    fields = Metadata(metadata, str(file.path), f"{name}.")
    embedding = file.tensors.get("token_embd.weight")
    if embedding is None or len(embedding.shape) != 2:
        raise InterchangeError(f"{file.path}: tensor 'token_embd.weight' is missing; Smidgen reads whole models")
    if fields.integer("block_count") > len(file.tensors):
        fields.refuse("block_count", f"the file has {len(file.tensors)} tensors in all")
    tree = {
        "vocab_size": embedding.shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **architecture.read(fields),
    }
    try:
        return architecture, validate(ModelConfig, tree)
    except ConfigError as error:
        raise InterchangeError(f"{file.path}: {error}") from None


def _stored_here(entry: Entry, file: GgufFile) -> Entry:
    """The entry with the names that this file has: gemma3's are those of newer files too, and scales are optional."""
    scale = entry.theirs[0].removesuffix("weight") + "scale"
    if scale not in file.tensors:
        return entry
    return dataclasses.replace(entry, theirs=(*entry.theirs, scale), join=_ternary)


def _ternary(weights: Sequence[Tensor]) -> Tensor:
    """Codes times a scale."""
    codes, scale = weights
    return codes * scale


def _check(file: GgufFile, entries: list[Entry], shapes: Mapping[str, Tensor]) -> None:
    """Compare names and shapes before any memory is taken."""
    wanted = [name for entry in entries for name in entry.theirs]
    for name in wanted:
        if name not in file.tensors:
            raise InterchangeError(f"{file.path}: tensor {name!r} is missing; the file does not hold its whole model")
    extra = sorted(file.tensors.keys() - set(wanted) - {"rope_freqs.weight"})
    if extra or "rope_freqs.weight" in file.tensors:
        name = extra[0] if extra else "rope_freqs.weight"
        raise InterchangeError(f"{file.path}: tensor {name!r} has no place in a model that Smidgen runs")
    for entry in entries:
        parts = [torch.empty(file.tensors[name].shape, device="meta") for name in entry.theirs]
        try:
            shape = tuple(entry.join(parts).shape)
        except (RuntimeError, ValueError, IndexError):
            shape = None
        if shape != tuple(shapes[entry.ours].shape):
            raise InterchangeError(
                f"{file.path}: tensor {entry.theirs[0]!r} has shape {list(file.tensors[entry.theirs[0]].shape)}, which "
                f"does not make {entry.ours} {list(shapes[entry.ours].shape)}"
            )


def _read(entry: Entry, file: GgufFile) -> Tensor:
    weight = entry.join([torch.from_numpy(file.read(name)) for name in entry.theirs])
    if not torch.isfinite(weight).all():
        raise InterchangeError(f"{file.path}: tensor {entry.theirs[0]!r} holds values that are no numbers")
    if file.values["general.architecture"] == "bitnet" and entry.ours.endswith("_proj.weight"):
        return _master(weight)
    return weight


def _master(weight: Tensor) -> Tensor:
    """A master weight that rounds to `weight`, whose values are -β, 0 and β.

    The model takes the mean of |W| for β. With a share p of the codes not zero, β/p for those has this mean, and
    rounds to ±1 all the same.
    """
    scale = weight.abs().max()
    if scale <= SMALLEST_SCALE:
        return weight
    codes = (weight / scale).round()
    return codes * (scale / codes.abs().mean())
