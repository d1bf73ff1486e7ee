"""The engine of `--ensemble`: several MODELs of one tokenizer."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from smidgen.cli.engines import chosen_precision
from smidgen.runtime.errors import SmidgenError

if TYPE_CHECKING:
    from smidgen.runtime.protocols import Engine, Tokenizer


def open_ensemble(args: argparse.Namespace, max_batch_size: int) -> tuple[Engine, Tokenizer]:
    """MODEL and those of `--ensemble` as one engine. Raises SmidgenError where their tokenizers differ."""
    if args.engine != "torch":
        raise SmidgenError(f"--engine {args.engine}: --ensemble runs on the torch engine; use that")
    for name in ("speculate", "cache"):
        if getattr(args, name):
            raise SmidgenError(f"--{name} {getattr(args, name)}: an ensemble takes none; leave it out")
    import torch

    from smidgen.folders import load, load_tokenizer
    from smidgen.folders.end_tokens import end_tokens_of
    from smidgen.inference.ensemble import EnsembleEngine
    from smidgen.training.devices import resolve_device
    from smidgen.training.precision import apply_precision

    if args.threads is not None:
        torch.set_num_threads(args.threads)
    tokenizer, device, members = load_tokenizer(args.model), resolve_device(args.device), []
    precision = chosen_precision(args.precision, device)
    for name in (args.model, *args.ensemble):
        if load_tokenizer(name).fingerprint != tokenizer.fingerprint:
            raise SmidgenError(f"--ensemble {name}: has another tokenizer than {args.model}; all must share one")
        member = load(name, device=device)
        apply_precision(member, precision, device)
        members.append(member)
    return EnsembleEngine(members, end_tokens_of(args.model, tokenizer), max_batch_size), tokenizer
