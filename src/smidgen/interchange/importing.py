"""A model folder from a model of another program: what `smidgen import` does."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from smidgen.folders import load_folder, load_tokenizer, save
from smidgen.interchange.checkpoints.importing import Hints, import_checkpoint
from smidgen.interchange.gguf.importing import import_gguf
from smidgen.interchange.imported import Imported
from smidgen.runtime.errors import InterchangeError, TokenizerError
from smidgen.runtime.protocols import Tokenizer
from smidgen.tokenization import load_tokenizer as load_tokenizer_files

_TORCH = {".pt", ".pth", ".ckpt", ".bin"}


def read_model(source: str | Path, tokenizer: str | Path | None = None, hints: Hints | None = None) -> Imported:
    """The model and tokenizer in a GGUF file, a `.pt` checkpoint, or a Hugging Face folder.

    tokenizer: its folder or file, where the source has none or another one is wanted; left out, the one beside a
    checkpoint is taken. Raises a SmidgenError in one line for what cannot be read.
    """
    path = Path(source)
    if path.is_dir():
        try:
            own = load_tokenizer(path)
        except TokenizerError:
            own = None
        found = Imported(load_folder(path), own, "Hugging Face folder")
    elif not path.is_file():
        raise InterchangeError(f"{path}: no such file or folder; name a GGUF file, a .pt checkpoint or a folder")
    elif path.suffix.lower() in _TORCH:
        found = dataclasses.replace(import_checkpoint(path, hints), tokenizer=_tokenizer_beside(path))
    else:
        found = import_gguf(path)
    return found if tokenizer is None else dataclasses.replace(found, tokenizer=load_tokenizer_files(tokenizer))


def import_model(
    source: str | Path, out: str | Path, tokenizer: str | Path | None = None, hints: Hints | None = None
) -> Imported:
    """Write what `read_model` reads as a model folder, which appears whole or not at all."""
    found = read_model(source, tokenizer, hints)
    save(found.model, out, found.tokenizer)
    return found


def _tokenizer_beside(path: Path) -> Tokenizer | None:
    for name in ("tokenizer.model", "tokenizer.json"):
        if (path.parent / name).is_file():
            return load_tokenizer_files(path.parent / name)
    return None
