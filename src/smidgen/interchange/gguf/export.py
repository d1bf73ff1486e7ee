"""Writing a model as one GGUF file."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from smidgen.config import ModelConfig
from smidgen.config.quantization import matches
from smidgen.interchange.gguf.architectures import GgufArchitecture, gguf_architecture
from smidgen.interchange.gguf.reader import is_gguf
from smidgen.interchange.gguf.types import (
    TERNARY_TYPES,
    TYPES,
    encode,
    encode_codes,
    file_type,
    type_of,
    type_of_override,
)
from smidgen.interchange.gguf.vocabulary import Vocabulary, vocabulary_of
from smidgen.model import Decoder, load_architecture
from smidgen.model.linear import Linear
from smidgen.runtime.errors import InterchangeError, MissingDependencyError
from smidgen.runtime.files import sync_folder
from smidgen.runtime.protocols import Tokenizer

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GgufReport:
    """What an export wrote."""

    architecture: str
    path: Path
    size: int
    """Bytes."""
    parameters: int
    types: dict[str, int]
    """Tensors of each type."""

    @property
    def bits_per_weight(self) -> float:
        """Bits a parameter, the whole file counted."""
        return self.size * 8 / self.parameters


def export_gguf(
    model: Decoder,
    path: str | Path,
    tokenizer: Tokenizer | None,
    kind: str = "f16",
    *,
    name: str = "smidgen",
    end_ids: Sequence[int] = (),
) -> GgufReport:
    """Write `model` to the file `path`, which appears whole or not at all.

    kind: one of TYPES; embedding and head stay at q8_0 or better, norms are f32, and projections that overrides of a
    quantised model store more finely than the others stay finer (`type_of_override`). tokenizer: None writes no
    vocabulary, for programs that feed ids. end_ids: tokens that end an answer beside the tokenizer's own. Raises
    InterchangeError for a model or tokenizer that llama.cpp lacks.
    """
    if kind not in TYPES:
        raise InterchangeError(f"type {kind}: unknown; use one of {', '.join(TYPES)}")
    try:
        import gguf
    except ModuleNotFoundError:
        raise MissingDependencyError("gguf", "export", "GGUF") from None
    config = model.config
    architecture = gguf_architecture(config)
    is_ternary = config.linear.kind == "ternary"
    if kind in TERNARY_TYPES and not is_ternary:
        raise InterchangeError(
            f"type {kind}: holds -1, 0 and 1 only, which ruins a {config.linear.kind} model; use q8_0 or q4_0"
        )
    path = Path(path)
    if path.is_dir():
        raise InterchangeError(f"{path}: is a folder; name a file, such as {path / 'model.gguf'}")
    if path.is_file() and not is_gguf(path):
        raise InterchangeError(f"{path}: holds something else than a GGUF model; choose another file")
    vocabulary = None if tokenizer is None else vocabulary_of(tokenizer, config.vocab_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    writer = gguf.GGUFWriter(temporary, architecture.name)
    try:
        _write_metadata(writer, architecture, model, kind, name)
        if vocabulary is not None and tokenizer is not None:
            _write_vocabulary(writer, vocabulary, tokenizer, end_ids)
        else:
            writer.add_tokenizer_model("no_vocab")
        types = _write_tensors(writer, architecture, model, kind, is_ternary)
        for file in writer.fout or ():
            file.flush()
            os.fsync(file.fileno())
        writer.close()
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        error.filename = str(path)
        raise
    finally:
        writer.close()
        temporary.unlink(missing_ok=True)
    counts = {other: list(types.values()).count(other) for other in TYPES if other in types.values()}
    if kind not in counts:
        logger.warning("type %s: no row of this model divides into its blocks; the file holds f16", kind)
    parameters = sum(parameter.numel() for parameter in _stored(model))
    return GgufReport(architecture.name, path, path.stat().st_size, parameters, counts)


def _stored(model: Decoder) -> Iterator[Tensor]:
    unpadded = model.config.model_copy(update={"vocab_padding_multiple": 1})
    return load_architecture(unpadded).parameters()


def _write_metadata(writer: Any, architecture: GgufArchitecture, model: Decoder, kind: str, name: str) -> None:
    writer.add_name(name)
    writer.add_type("model")
    writer.add_file_type(file_type(kind))
    writer.add_quantization_version(2)
    for key, value in architecture.metadata(model.config).items():
        _add(writer, f"{architecture.name}.{key}", value)


def _add(writer: Any, key: str, value: Any) -> None:
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    adders.get(type(value), writer.add_array)(key, value)


def _write_vocabulary(writer: Any, vocabulary: Vocabulary, tokenizer: Tokenizer, end_ids: Sequence[int]) -> None:
    writer.add_tokenizer_model(vocabulary.model)
    writer.add_tokenizer_pre(vocabulary.pre)
    writer.add_token_list(vocabulary.tokens)
    writer.add_token_types([int(kind) for kind in vocabulary.types])
    if vocabulary.scores is not None:
        writer.add_token_scores(vocabulary.scores)
    if vocabulary.merges is not None:
        writer.add_token_merges(vocabulary.merges)
    ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "padding": tokenizer.pad_id}
    more_ends = [number for number in end_ids if number != tokenizer.eos_id]
    ids["eot"] = more_ends[0] if more_ends else None
    if len(more_ends) > 1:
        logger.warning("GGUF names two tokens that end an answer; left out: %s", more_ends[1:])
    for role, number in ids.items():
        if number is not None:
            writer.add_uint32(f"tokenizer.ggml.{role}_token_id", number)
    writer.add_add_bos_token(tokenizer.adds_bos)
    writer.add_add_eos_token(False)
    if vocabulary.model == "llama":
        writer.add_add_space_prefix(vocabulary.adds_space)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


@dataclass(frozen=True)
class _Piece:
    """A tensor of the file before it is encoded."""

    name: str
    values: Tensor
    source: str
    """The weight of ours that it is, or a part of."""
    is_codes: bool = False
    """The values are -1, 0 and 1."""


def _write_tensors(
    writer: Any, architecture: GgufArchitecture, model: Decoder, kind: str, is_ternary: bool
) -> dict[str, str]:
    """Declare all tensors, then write them one by one, so that memory holds one at a time."""
    import gguf

    types: dict[str, str] = {}
    for piece in _pieces(architecture, load_architecture(model.config), is_ternary):
        shape = tuple(piece.values.shape)
        types[piece.name] = own = type_of(piece.name, shape, _wanted(model.config, piece.source, kind))
        own_type = gguf.GGMLQuantizationType[own.upper()]
        size = gguf.quant_shape_to_byte_shape(shape, own_type)
        writer.add_tensor_info(piece.name, size, np.dtype(np.uint8), int(np.prod(size)), raw_dtype=own_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for piece in _pieces(architecture, model, is_ternary):
        writer.write_tensor_data(np.ascontiguousarray(_encoded(piece, types[piece.name])))
    return types


def _wanted(config: ModelConfig, weight: str, kind: str) -> str:
    """The type asked for a weight of ours: that of the file, or that which its override calls for."""
    quantization, name = config.quantization, weight.removesuffix(".weight")
    if quantization is None or not any(matches(name, pattern) for pattern in quantization.overrides):
        return kind
    return type_of_override(kind, quantization.storage(name).scheme)


def _encoded(piece: _Piece, kind: str) -> NDArray[Any]:
    values = piece.values.detach().cpu().numpy()
    return (encode_codes if piece.is_codes else encode)(values, kind)


@torch.no_grad()
def _pieces(architecture: GgufArchitecture, model: Decoder, is_ternary: bool) -> Iterator[_Piece]:
    for entry in architecture.entries(model.config):
        weight = _weight(model, entry.ours)
        if is_ternary and isinstance(model.get_submodule(entry.ours.removesuffix(".weight")), Linear):
            codes, scale = _codes(weight)
            yield _Piece(entry.theirs[0], codes, entry.ours, is_codes=True)
            yield _Piece(entry.theirs[0].removesuffix("weight") + "scale", scale, entry.ours)
        else:
            for name, part in zip(entry.theirs, entry.split(weight), strict=True):
                yield _Piece(name, part.contiguous(), entry.ours)


def _weight(model: Decoder, name: str) -> Tensor:
    """A weight as the model computes with it, float32, without padded rows of the vocabulary."""
    if name == "lm_head.weight":
        return model.head_weight.float()
    module = model.get_submodule(name.removesuffix(".weight"))
    if name == "model.embed_tokens.weight":
        return model.model.embed_tokens.effective_weight()[: model.config.vocab_size].float()
    if isinstance(module, Linear):
        return module.effective_weight(torch.float32)
    return module.get_parameter("weight").float()


def _codes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Codes -1, 0 and 1 of a ternary weight, and the scale [1] that gives the weight back."""
    if weight.device.type == "meta":
        return weight, weight.new_empty(1)
    scale = weight.abs().max()
    codes = torch.zeros_like(weight) if scale == 0 else (weight / scale).round()
    assert torch.allclose(codes * scale, weight), "a ternary layer's weight has more than three values"
    return codes, scale[None]
