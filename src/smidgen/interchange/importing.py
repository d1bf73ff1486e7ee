"""A model folder from a model of another program: what `smidgen import` does."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from smidgen.folders import check_target, load_folder, save
from smidgen.folders.adapter import is_adapter_folder
from smidgen.folders.end_tokens import end_tokens
from smidgen.folders.loading import optional_tokenizer
from smidgen.folders.model_folder import GENERATION_CONFIG
from smidgen.interchange.checkpoints.importing import Hints, import_checkpoint
from smidgen.interchange.gguf.importing import import_gguf
from smidgen.interchange.imported import Imported
from smidgen.interchange.source import write_ends
from smidgen.runtime.errors import InterchangeError
from smidgen.runtime.protocols import Tokenizer
from smidgen.tokenization import load_tokenizer as load_tokenizer_files

_TORCH = {".pt", ".pth", ".ckpt", ".bin"}


def read_model(source: str | Path, tokenizer: str | Path | None = None, hints: Hints | None = None) -> Imported:
    """The model and tokenizer in a GGUF file, a `.pt` checkpoint, or a Hugging Face folder.

    tokenizer: its folder or file, where the source has none or another one is wanted; left out, the one beside a
    checkpoint is taken. Raises a SmidgenError in one line for what cannot be read.
    """
    path = Path(source)
    if hints not in (None, Hints()) and path.exists() and path.suffix.lower() not in _TORCH:
        raise InterchangeError(
            f"{path}: describes its model itself; --num-heads, --max-seq-len, --rope-theta, --norm-eps and --rope are "
            "for .pt checkpoints"
        )
    if path.is_dir():
        own = optional_tokenizer(path)
        ends = () if own is None else end_tokens(path, own)
        kind = "PEFT adapter" if is_adapter_folder(path) else "Hugging Face folder"
        found = Imported(load_folder(path), own, kind, ends)
    elif not path.is_file():
        raise InterchangeError(f"{path}: no such file or folder; name a GGUF file, a .pt checkpoint or a folder")
    elif path.suffix.lower() in _TORCH:
        found = dataclasses.replace(import_checkpoint(path, hints), tokenizer=_tokenizer_beside(path))
    elif path.suffix.lower() == ".safetensors":
        raise InterchangeError(f"{path}: holds weights alone; name its folder, where config.json is")
    else:
        found = import_gguf(path)
    if tokenizer is None:
        return found
    return dataclasses.replace(found, tokenizer=load_tokenizer_files(tokenizer), end_ids=())


def import_model(
    source: str | Path, out: str | Path, tokenizer: str | Path | None = None, hints: Hints | None = None
) -> Imported:
    """Write what `read_model` reads as a model folder, which appears whole or not at all."""
    if Path(out).resolve() == Path(source).resolve():
        raise InterchangeError(f"{out}: is the source itself; name another folder")
    check_target(out)
    found = read_model(source, tokenizer, hints)

    def finish(folder: Path) -> None:
        settings = Path(source) / GENERATION_CONFIG
        if settings.is_file() and tokenizer is None:
            shutil.copyfile(settings, folder / GENERATION_CONFIG)
        if found.end_ids and found.tokenizer is not None:
            own = [] if found.tokenizer.eos_id is None else [found.tokenizer.eos_id]
            write_ends(folder, tuple(dict.fromkeys([*own, *found.end_ids])), found.tokenizer)

    save(found.model, out, found.tokenizer, finish)
    return found


def _tokenizer_beside(path: Path) -> Tokenizer | None:
    for name in ("tokenizer.model", "tokenizer.json"):
        if (path.parent / name).is_file():
            return load_tokenizer_files(path.parent / name)
    return None
