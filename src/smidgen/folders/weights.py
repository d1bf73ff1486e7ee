"""A decoder's weights as safetensors: one file written, one or several read, every name and shape checked first."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from smidgen.config import ModelConfig
from smidgen.folders.memory import check_memory, structure_of
from smidgen.folders.parts import make_file
from smidgen.model import Decoder
from smidgen.model.quantized import StoredMatrix
from smidgen.runtime.errors import ModelFolderError
from smidgen.runtime.fields import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"

_UNFIT = "weights and config.json do not belong together"
_READABLE = {"F64", "F32", "F16", "BF16"}
_STORED = {
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float8_e4m3fn: "F8_E4M3",
}
"""Types of stored matrices, which are read as they are."""
_VOCABULARY = ("model.embed_tokens.weight", "lm_head.weight")
"""Tensors with a row for each token: padded in memory, never in a file."""


def write_weights(decoder: Decoder, path: Path) -> None:
    """Write the weights under their Hugging Face names: no tied head, no padded vocabulary rows.

    Parameters are float32. Those of a quantised model are bfloat16, beside its stored matrices as they are. For a
    decoder on the meta device the file gets its header and its size; `write_parts` fills it.
    """
    dtype = torch.float32 if decoder.config.quantization is None else torch.bfloat16
    if decoder.model.embed_tokens.device.type == "meta":
        make_file(path, {name: weight.to(dtype) for name, weight in _unpadded(decoder)}, {"format": "pt"})
        return
    tensors = {name: weight.detach().to(dtype).contiguous().cpu() for name, weight in _unpadded(decoder)}
    tensors |= {name: tensor.contiguous().cpu() for name, tensor in _stored(decoder)}
    write_tensors(tensors, path, {"format": "pt"})


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Write a safetensors file. A full disk, and what else the system refuses, is an OSError that names the file."""
    try:
        save_file(dict(tensors), path, metadata=metadata)
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        code = int(number[1])
        raise OSError(code, os.strerror(code), str(path)) from None


@torch.no_grad()
def read_weights(config: ModelConfig, folder: Path) -> Decoder:
    """A decoder with the weights of a folder's safetensors files, of any float type; padded rows are zero.

    Raises ModelFolderError, before any memory is taken, when a file is damaged or a tensor is missing, left over or of
    another shape than the configuration's.
    """
    with ExitStack() as stack:
        found = _open_tensors(folder, stack)
        if config.num_layers > len(found):
            raise ModelFolderError(f"{folder}: num_hidden_layers = {config.num_layers}: {_UNFIT}: {len(found)} tensors")
        structure = structure_of(config, folder)
        expected = dict(_unpadded(structure)) | dict(_stored(structure))
        _check_names(found, expected, folder, is_tied=config.tie_word_embeddings)
        for name, weight in expected.items():
            _check_tensor(found[name], name, weight)
        check_memory(folder, expected.values())
        decoder = Decoder(config)
        for name, weight in _unpadded(decoder):
            weight.copy_(found[name].read(name))
        for prefix, matrix in _matrices(decoder):
            for part in matrix.names:
                name = f"{prefix}.{part}"
                tensor = found[name].read(name)
                _check_values(found[name], name, tensor, matrix)
                matrix.take(part, tensor)
    for name, parameter in decoder.named_parameters():
        if name in _VOCABULARY:
            parameter[config.vocab_size :] = 0
    return decoder


class TensorFile:
    """An open safetensors file."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        try:
            self.handle: Any = stack.enter_context(safe_open(path, framework="pt", device="cpu"))
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelFolderError(f"{path}: damaged or unreadable: {error}; copy the file again") from None
        self.names = list(self.handle.keys())

    def read(self, name: str) -> Tensor:
        try:
            return self.handle.get_tensor(name)
        except (SafetensorError, OSError, ValueError) as error:
            raise ModelFolderError(f"{self.path}: tensor '{name}' cannot be read: {error}") from None


def _open_tensors(folder: Path, stack: ExitStack) -> dict[str, TensorFile]:
    """The file of each tensor of a folder, by the tensor's name."""
    if (folder / WEIGHTS).is_file():
        file = TensorFile(folder / WEIGHTS, stack)
        return dict.fromkeys(file.names, file)
    if not (folder / INDEX).is_file():
        pickled = any(folder.glob("*.bin")) or any(folder.glob("*.pt")) or any(folder.glob("*.pth"))
        remedy = (
            "Smidgen never unpickles; save the model as safetensors with transformers"
            if pickled
            else "this folder has no weights"
        )
        raise ModelFolderError(f"{folder / WEIGHTS}: missing: {remedy}")
    weight_map = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
        raise ModelFolderError(f"{folder / INDEX}: weight_map: an object of tensor and file names is needed")
    files = {}
    for name in sorted(set(weight_map.values())):
        if Path(name).name != name:
            raise ModelFolderError(f"{folder / INDEX}: weight_map names '{name}': a file of this folder is needed")
        files[name] = TensorFile(folder / name, stack)
    for tensor, name in weight_map.items():
        if tensor not in files[name].names:
            raise ModelFolderError(f"{folder / name}: tensor '{tensor}' is missing, though {INDEX} names this file")
    return {tensor: files[name] for tensor, name in weight_map.items()}


def _check_names(found: dict[str, TensorFile], expected: dict[str, Tensor], folder: Path, *, is_tied: bool) -> None:
    missing = sorted(expected.keys() - found.keys())
    if missing:
        raise ModelFolderError(
            f"{folder}: tensor '{missing[0]}'{_and_more(missing)} is missing: {_UNFIT}; copy the folder again"
        )
    # Older folders carry RoPE's frequencies, which follow from config.json.
    extra = sorted(name for name in found.keys() - expected.keys() if not name.endswith("rotary_emb.inv_freq"))
    if is_tied and "lm_head.weight" in extra:
        extra.remove("lm_head.weight")
        head, embedding = (found[name].read(name) for name in ("lm_head.weight", "model.embed_tokens.weight"))
        if not torch.equal(head, embedding):
            raise ModelFolderError(
                f"{folder}: tie_word_embeddings = true, but lm_head.weight differs from model.embed_tokens.weight; "
                "set it to false in config.json"
            )
    if extra:
        raise ModelFolderError(
            f"{folder}: tensor '{extra[0]}'{_and_more(extra)} has no place in the model that config.json describes; "
            "use a model that Smidgen implements in full"
        )


def _check_tensor(file: TensorFile, name: str, weight: Tensor) -> None:
    stored = file.handle.get_slice(name)
    shape, dtype = list(stored.get_shape()), stored.get_dtype()
    if shape != list(weight.shape) and not (shape == [] and list(weight.shape) == [1]):
        raise ModelFolderError(
            f"{file.path}: tensor '{name}' has shape {shape}, config.json asks for {list(weight.shape)}; {_UNFIT}"
        )
    needed = {_STORED[weight.dtype]} if weight.dtype in _STORED else _READABLE
    if dtype not in needed:
        raise ModelFolderError(f"{file.path}: tensor '{name}' has type {dtype}; {_one_of(needed)} is needed")


def _check_values(file: TensorFile, name: str, tensor: Tensor, matrix: StoredMatrix) -> None:
    """Refuse stored values that no quantiser writes: the product would be wrong without a word."""
    problem = None
    if name.endswith(".weight_shape"):
        if tuple(tensor.tolist()) != matrix.size:
            problem = f"is {tensor.tolist()}; {list(matrix.size)} is needed: {_UNFIT}"
    elif tensor.dtype == torch.uint8:
        if (tensor & (tensor >> 1) & 0x55).any():
            problem = "holds a code that is not ternary; copy the file again"
    elif ".weight_scale" in name and not tensor.isfinite().all():
        problem = "holds a scale that is not finite; copy the file again"
    if problem is not None:
        raise ModelFolderError(f"{file.path}: tensor '{name}' {problem}")


def _unpadded(decoder: Decoder) -> Iterator[tuple[str, Tensor]]:
    """Every parameter with its name, without padded vocabulary rows (views of the parameters themselves)."""
    for name, parameter in decoder.named_parameters():
        yield name, parameter[: decoder.config.vocab_size] if name in _VOCABULARY else parameter


def _stored(decoder: Decoder) -> Iterator[tuple[str, Tensor]]:
    """The tensors of every quantised matrix with their names."""
    for prefix, matrix in _matrices(decoder):
        for part, tensor in matrix.stored.items():
            yield f"{prefix}.{part}", tensor


def _matrices(decoder: Decoder) -> Iterator[tuple[str, StoredMatrix]]:
    for name, module in decoder.named_modules():
        if isinstance(module, StoredMatrix):
            yield name, module


def _one_of(names: set[str]) -> str:
    return next(iter(names)) if len(names) == 1 else f"one of {sorted(names)}"


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
