"""An engine for a MODEL argument: PyTorch's, or the native one that needs no PyTorch."""

from __future__ import annotations

import argparse
import importlib.util
import logging
from typing import TYPE_CHECKING, Literal

from smidgen.runtime.errors import MissingDependencyError, SmidgenError
from smidgen.runtime.model_folders import stored_model

if TYPE_CHECKING:
    import torch

    from smidgen.runtime.protocols import Engine, Tokenizer

logger = logging.getLogger(__name__)

EngineName = Literal["torch", "edge"]
Precision = Literal["fp32", "bf16", "auto"]


def add_engine_flags(parser: argparse.ArgumentParser) -> None:
    """MODEL, what runs it, and how it computes."""
    parser.add_argument("model", metavar="MODEL", help="a model, checkpoint, run or Hugging Face folder")
    parser.add_argument(
        "--engine",
        choices=["torch", "edge"],
        default="torch",
        help="PyTorch, or the native engine for processors (default: torch)",
    )
    parser.add_argument(
        "--precision",
        choices=["fp32", "bf16", "auto"],
        default="fp32",
        help="type of products; auto: bf16 where the device has instructions for it (torch engine)",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: auto; torch engine)")
    parser.add_argument(
        "--speculate",
        type=int,
        default=0,
        metavar="N",
        help="greedy answers: guess up to N tokens from repetitions, check them at once (torch engine; default: off)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="processor threads (default: the engine's choice)")
    parser.add_argument(
        "--cache",
        choices=["float16", "bfloat16", "float32", "int8"],
        help="type of keys and values (edge engine; default: float16)",
    )


def open_engine(
    model: str,
    engine: EngineName = "torch",
    *,
    device: str = "auto",
    precision: Precision = "fp32",
    max_batch_size: int = 8,
    max_seq_len: int | None = None,
    threads: int | None = None,
    speculate: int = 0,
    cache: str | None = None,
) -> tuple[Engine, Tokenizer]:
    """The engine that runs a MODEL argument, and the model's tokenizer.

    `device`, `precision` and `speculate` (see TorchEngine) are the torch engine's; the edge engine runs on the
    processor in the scheme that the folder is stored in, `cache` names the type of its keys and values.
    `max_batch_size` requests run at once, the others wait; `max_seq_len` bounds prompt and answer (the model's context
    if left out). `threads`: None leaves the engine's default.
    Raises ModelFolderError for what is no model with a tokenizer, MissingDependencyError without the engine.
    """
    if threads is not None and threads < 1:
        raise SmidgenError(f"threads = {threads}: use 1 or more")
    if engine == "edge":
        if speculate:
            raise SmidgenError(f"speculate = {speculate}: the edge engine makes no drafts; use --engine torch")
        return _open_edge(model, device, precision, max_batch_size, max_seq_len, threads, cache)
    if cache is not None:
        raise SmidgenError(f"cache = {cache}: the torch engine keeps the type it computes in; use --engine edge")
    if importlib.util.find_spec("torch") is None:
        raise MissingDependencyError("torch", "train", "without --engine edge this command")
    return _open_torch(model, device, precision, max_batch_size, max_seq_len, threads, speculate)


def open_engine_from(args: argparse.Namespace, max_batch_size: int = 8) -> tuple[Engine, Tokenizer]:
    """`open_engine` with the values of `add_engine_flags`."""
    return open_engine(
        args.model,
        args.engine,
        device=args.device,
        precision=args.precision,
        max_batch_size=max_batch_size,
        threads=args.threads,
        speculate=args.speculate,
        cache=args.cache,
    )


def chosen_precision(precision: str, device: torch.device) -> str:
    """What `--precision` comes to on a device; says so where it is no good choice."""
    from smidgen.kernels.bf16 import multiplies_bf16_fast

    is_fast = multiplies_bf16_fast(device)
    if precision == "auto":
        return "bf16" if is_fast else "fp32"
    if precision == "bf16" and not is_fast:
        logger.warning("%s has no instructions for bf16: fp32 reads prompts faster (--precision auto chooses)", device)
    return precision


def _open_torch(
    model: str,
    device_name: str,
    precision: str,
    max_batch_size: int,
    max_seq_len: int | None,
    threads: int | None,
    speculate: int,
) -> tuple[Engine, Tokenizer]:
    import torch

    from smidgen.folders import load, load_tokenizer
    from smidgen.folders.end_tokens import end_tokens_of
    from smidgen.inference import TorchEngine
    from smidgen.training.devices import resolve_device
    from smidgen.training.precision import apply_precision

    if threads is not None:
        torch.set_num_threads(threads)
    device = resolve_device(device_name)
    tokenizer = load_tokenizer(model)
    decoder = load(model, device=device)
    apply_precision(decoder, chosen_precision(precision, device), device)
    ends = end_tokens_of(model, tokenizer)
    return TorchEngine(decoder, ends, max_batch_size, max_seq_len, speculate=speculate), tokenizer


def _open_edge(
    model: str,
    device: str,
    precision: str,
    max_batch_size: int,
    max_seq_len: int | None,
    threads: int | None,
    cache: str | None,
) -> tuple[Engine, Tokenizer]:
    if device not in ("auto", "cpu"):
        raise SmidgenError(f"device = {device}: the edge engine runs on the processor; use --engine torch")
    if precision != "fp32":
        raise SmidgenError(
            f"precision = {precision}: the edge engine computes as the folder is stored (smidgen quantize chooses); "
            "leave it out, or use --engine torch"
        )
    if importlib.util.find_spec("smidgen.edge") is None:
        raise SmidgenError("the edge engine is not part of this installation; use --engine torch")
    edge = importlib.import_module("smidgen.edge")
    from smidgen.tokenization import load_tokenizer

    folder = stored_model(model)
    options = {"threads": threads, "max_batch_size": max_batch_size, "max_seq_len": max_seq_len, "cache": cache}
    opened: Engine = edge.load(str(folder), **{name: value for name, value in options.items() if value is not None})
    return opened, load_tokenizer(folder)
