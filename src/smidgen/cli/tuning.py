"""What `smidgen sft` and `smidgen dpo` have in common: from MODEL or CONFIG and sources to a run."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.cli.fields import describe_fields
from smidgen.cli.training import one_at_a_time

if TYPE_CHECKING:
    from smidgen.config import Config
    from smidgen.data.conversations.folder import PreparedConversations
    from smidgen.tokenization import BaseTokenizer


def add_tuning_flags(parser: argparse.ArgumentParser, kind: str, data_help: str) -> None:
    parser.usage = f"smidgen {kind} MODEL|CONFIG --data SOURCE… [--run DIR] [--training.lr 1e-4 …]"
    parser.add_argument(
        "source", metavar="MODEL|CONFIG", help="the model to tune; a YAML file with tuning.base; or a run to go on with"
    )
    parser.add_argument("--run", metavar="DIR", help=f"run folder to make or resume (default: runs/<name>-{kind})")
    parser.add_argument("--data", metavar="SOURCE", nargs="+", default=[], help=data_help)
    parser.add_argument("--val-data", metavar="SOURCE", nargs="+", default=[], help="held-out data (default: a share)")
    parser.add_argument("--val-fraction", metavar="F", type=float, help="share held out (default: 0.02)")
    parser.add_argument(
        "--strict", action="store_true", help="stop at the first unusable record instead of counting it"
    )
    parser.add_argument("--max-time", metavar="HOURS", help="save and stop after so long; the same command goes on")
    fields = describe_fields(["tuning", "training", "data", "tracking"])
    parser.epilog = f"Any field of the configuration may be given as a flag:\n{fields}"


def load_tuning_config(args: argparse.Namespace, kind: str) -> tuple[Config, Path]:
    """The configuration that the arguments make, and the run folder."""
    from smidgen.folders.run import is_run_folder
    from smidgen.runtime.errors import ConfigError
    from smidgen.training.base import load_training_config
    from smidgen.tuning.defaults import TUNING_DEFAULTS

    if args.max_time is not None:
        args.overrides += ["--training.max_time", args.max_time]
    source = Path(args.source)
    is_run = is_run_folder(source)
    resumes = is_run and (Path(args.run).resolve() == source.resolve() if args.run else _kind_of(source) == kind)
    if is_run and not resumes and not args.run:
        raise ConfigError(f"--run: is missing; name the folder for what becomes of {source}")
    config = load_training_config(args.source, args.overrides, TUNING_DEFAULTS[kind], as_base=is_run and not resumes)
    found = config.tuning.objective.kind
    if found != kind:
        raise ConfigError(f"tuning.objective.kind = {found}: 'smidgen {kind}' does {kind}; use 'smidgen {found}'")
    run_path = source if resumes else Path(args.run or Path("runs") / f"{source.stem}-{kind}")
    return config, run_path


def _kind_of(run: Path) -> str:
    from smidgen.config import load_config

    return load_config(run).tuning.objective.kind


def with_data(config: Config, run_path: Path, args: argparse.Namespace, kind: str, weights: dict[str, float]) -> Config:
    """The configuration with the dataset folder of what --data names, made in the run folder unless it is there.

    Raises ConfigError for flags that would be without effect.
    """
    from smidgen.data.manifest import MANIFEST_NAME
    from smidgen.runtime.errors import ConfigError

    if not args.data:
        _refuse_preparing(args, "is about the records of --data; name some, or leave it out")
        return config
    if len(args.data) == 1 and (Path(args.data[0]) / MANIFEST_NAME).is_file():
        _refuse_preparing(args, f"{args.data[0]} is a dataset already; leave it out")
        return _with(config, path=args.data[0], mixture=None)
    unknown = set(weights) - set(args.data)
    if unknown:
        raise ConfigError(f"--weight {unknown.pop()}: names none of the sources; write it as in --data")
    if args.val_data and args.val_fraction is not None:
        raise ConfigError("--val-fraction: --val-data is held out instead of a share; give one of them")
    if getattr(args, "documents", None) is not None and "storyworld" not in args.data:
        raise ConfigError("--documents: counts the chats of the source storyworld; leave it out")
    with one_at_a_time(run_path):
        if not weights:
            folder = run_path / "conversations"
            report_prepared(_prepare(config, args.data, folder, args, kind), kind)
            return _with(config, path=str(folder), mixture=None)
        mixture = {}
        for number, source in enumerate(args.data):
            folder = run_path / "conversations" / f"{number:02d}"
            report_prepared(_prepare(config, [source], folder, args, kind), kind)
            mixture[str(folder)] = weights.get(source, 1.0)
        return _with(config, path=None, mixture=mixture)


def _refuse_preparing(args: argparse.Namespace, why: str) -> None:
    from smidgen.runtime.errors import ConfigError

    for name in ("val_data", "val_fraction", "strict", "weight", "documents"):
        if getattr(args, name, None) not in (None, [], False):
            raise ConfigError(f"--{name.replace('_', '-')}: {why}")


def _prepare(
    config: Config, sources: list[str], folder: Path, args: argparse.Namespace, kind: str
) -> PreparedConversations:
    from smidgen.data.conversations.folder import prepare_conversations
    from smidgen.data.conversations.reading import DEFAULT_CHATS
    from smidgen.tuning.run import base_tokenizer

    tokenizer: BaseTokenizer = base_tokenizer(config)
    return prepare_conversations(
        sources,
        folder,
        tokenizer,
        kind="preferences" if kind == "dpo" else "conversations",
        val_sources=args.val_data,
        val_fraction=0.02 if args.val_fraction is None else args.val_fraction,
        documents=getattr(args, "documents", None) or DEFAULT_CHATS,
        strict=args.strict,
    )


def _with(config: Config, **fields: object) -> Config:
    return config.model_copy(update={"data": config.data.model_copy(update=fields)})


def report_prepared(prepared: PreparedConversations, kind: str) -> None:
    """One line on a dataset folder, on standard output."""
    from smidgen.training.parallel import is_main_rank

    if prepared.already_prepared or not is_main_rank():
        return
    train, val = prepared.dataset.train, prepared.dataset.val
    each, noun = (2, "pairs") if kind == "dpo" else (1, "conversations")
    share = prepared.trained_tokens / train.num_tokens
    print(
        f"{(train.num_documents or 0) // each:,} {noun} and {(val.num_documents or 0) // each:,} held out: "
        f"{train.num_tokens:,} tokens, {share:.1%} of them the assistant's: {prepared.dataset.path}"
    )
