"""Train a student to be like a teacher: by the teacher's distributions, or by texts that the teacher writes.

Example: smidgen distill elite-tiny --teacher runs/large --data.path data --run runs/student --training.max_steps 500
Resume:  smidgen distill runs/student
Ternary: smidgen distill runs/large --teacher runs/large --data.path data --tuning.quantize.scheme ternary --run runs/t
Texts:   smidgen distill runs/small --teacher runs/large --prompts prompts.txt --temperature 0.8 --run runs/student
         smidgen distill --write texts.jsonl --teacher runs/large --prompts prompts.txt --temperature 0.8

STUDENT is a preset (random weights), a YAML file, a model that goes on from its weights, or a run to resume. Learning
distributions needs a teacher of the data's tokenizer. With --prompts the teacher, of any tokenizer, continues every
prompt, and the student learns the texts; a stopped command goes on. --write only writes them: JSON lines with text,
prompt and completion, for 'smidgen prepare' or 'smidgen sft'.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from smidgen.cli.fields import describe_fields
from smidgen.cli.sampling import add_sampling_flags, given_sampling_flags, sampling_params
from smidgen.cli.training import one_at_a_time, run_training

if TYPE_CHECKING:
    from smidgen.config import Config

OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "smidgen distill STUDENT --teacher MODEL (--data.path DIR | --prompts FILE) [--run DIR] …"
    parser.add_argument("student", metavar="STUDENT", nargs="?", help="preset, YAML file, model or run folder")
    parser.add_argument("--teacher", metavar="MODEL", help="what is imitated")
    parser.add_argument("--run", metavar="DIR", help="run folder to make or resume (default: runs/<student>-distilled)")
    parser.add_argument(
        "--prompts",
        metavar="FILE",
        help="learn the teacher's texts: a prompt a line, or JSON lines with a field prompt",
    )
    parser.add_argument("--write", metavar="FILE", help="write the teacher's answers to --prompts, and train nothing")
    parser.add_argument("--engine", choices=["torch", "edge"], help="what runs a teacher that writes (default: torch)")
    add_sampling_flags(parser, without=frozenset({"logprobs"}), temperature=1.0, seed=0)
    parser.add_argument("--max-time", metavar="HOURS", help="save and stop after so long; the same command goes on")
    fields = describe_fields(["tuning", "data", "training", "model", "tokenizer", "tracking"])
    parser.epilog = f"Any field of the configuration may be given as a flag:\n{fields}"


def run(args: argparse.Namespace) -> int:
    from smidgen.runtime.errors import ConfigError

    if args.write is not None:
        return _write(args)
    if args.student is None:
        raise ConfigError(
            "STUDENT: name a preset, a model or a run, e.g. smidgen distill elite-tiny --teacher runs/large"
        )

    if args.prompts is None:
        _refuse_writing_flags(args)
    from smidgen.folders.run import is_run_folder
    from smidgen.training.base import load_training_config
    from smidgen.training.pretraining import pretrain
    from smidgen.tuning.distillation import distill
    from smidgen.tuning.sequences import TEXTS

    resumes = is_run_folder(args.student) and args.run in (None, args.student)
    run_path = Path(args.run or (args.student if resumes else f"runs/{Path(args.student).name}-distilled"))
    overrides = list(args.overrides)
    if args.max_time is not None:
        overrides += ["--training.max_time", args.max_time]
    by_texts = args.prompts is not None or (run_path / TEXTS).is_file()
    if args.teacher is None and not resumes:
        raise ConfigError("--teacher: name the model that the student learns from")
    if by_texts and args.teacher is not None and args.prompts is None:
        raise ConfigError(f"--teacher {args.teacher}: {run_path} has a teacher's texts; leave it out")
    if args.teacher is not None and not by_texts:
        overrides += ["--tuning.objective.kind", "distillation", "--tuning.objective.teacher", args.teacher]
    source = args.student
    goes_on_from_run = is_run_folder(source) and not resumes
    if goes_on_from_run and not by_texts:
        # Another run's model is what this one begins with; its own training says how.
        overrides += ["--tuning.base", source]
    config = load_training_config(source, overrides, as_base=goes_on_from_run and by_texts)
    if not by_texts:
        return run_training(distill, config, run_path, "distill")
    if args.prompts is not None:
        config = _with_texts(config, run_path, args)
    return run_training(pretrain, config, run_path, "distill")


def _refuse_writing_flags(args: argparse.Namespace) -> None:
    from smidgen.runtime.errors import ConfigError

    for flag in [*given_sampling_flags(args), *(["--engine"] if args.engine else [])]:
        instead = "; use --tuning.objective.temperature for that of the divergence" if flag == "--temperature" else ""
        raise ConfigError(f"{flag}: says how the teacher writes answers to --prompts; leave it out{instead}")


def _with_texts(config: Config, run_path: Path, args: argparse.Namespace) -> Config:
    """The configuration that trains on what the teacher writes to --prompts, written in the run folder before."""
    from smidgen.cli.engines import open_engine
    from smidgen.folders.run import is_run_folder
    from smidgen.runtime.errors import ConfigError
    from smidgen.training.parallel import is_main_rank
    from smidgen.tuning.sequences import cut_off, read_prompts, texts_as_data

    if args.teacher is None:
        raise ConfigError("--prompts: needs --teacher MODEL, which continues them")
    if not is_run_folder(run_path) and (config.data.path is not None or config.data.mixture is not None):
        raise ConfigError(
            f"data.path = {config.data.path}: with --prompts the teacher's texts are the data; leave it out"
        )
    prompts = read_prompts(Path(args.prompts))
    with one_at_a_time(run_path):
        config = texts_as_data(
            config,
            run_path,
            args.teacher,
            lambda: open_engine(args.teacher, args.engine or "torch"),
            prompts,
            sampling_params(args),
            _progress,
        )
    cut, count = cut_off(run_path)
    if cut and is_main_rank():
        print(f"{cut} of {count} texts end at --max-new-tokens, not where the teacher would end them")
    return config


def _write(args: argparse.Namespace) -> int:
    from smidgen.cli.engines import open_engine
    from smidgen.runtime.errors import ConfigError
    from smidgen.tuning.sequences import read_prompts, write_texts

    if args.overrides:
        raise ConfigError(f"{args.overrides[0]}: nothing is trained with --write; leave it out")
    if args.teacher is None or args.prompts is None:
        raise ConfigError("--write: needs --teacher MODEL and --prompts FILE")
    prompts = read_prompts(Path(args.prompts))
    engine, tokenizer = open_engine(args.teacher, args.engine or "torch")
    written = write_texts(engine, tokenizer, prompts, Path(args.write), sampling_params(args), _progress)
    print(f"{args.write}: {written} new answers to {len(prompts)} prompts")
    return 0


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} prompts", end="\n" if done == total else "", file=sys.stderr, flush=True)
