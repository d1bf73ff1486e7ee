"""Train a student to be like a teacher of the same tokenizer; or let a teacher write texts for any student.

Example: smidgen distill elite-tiny --teacher runs/large --data.path data --run runs/student --training.max_steps 500
Resume:  smidgen distill runs/student
Ternary: smidgen distill runs/large --teacher runs/large --data.path data --tuning.quantize.scheme ternary --run runs/t
Texts:   smidgen distill --write texts.jsonl --teacher runs/large --prompts prompts.txt --temperature 0.8

STUDENT is a preset (random weights), a YAML file, a model that goes on from its weights, or a run to resume. The texts
are JSON lines with text, prompt and completion, for 'smidgen prepare' or 'smidgen sft'; a stopped command goes on.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from smidgen.cli.fields import describe_fields
from smidgen.cli.sampling import add_sampling_flags, sampling_params

OVERRIDES = True


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "smidgen distill [STUDENT] --teacher MODEL [--run DIR] [--data.path DIR] [--training.lr 3e-4 …]"
    parser.add_argument("student", metavar="STUDENT", nargs="?", help="preset, YAML file, model or run folder")
    parser.add_argument("--teacher", metavar="MODEL", help="what is imitated")
    parser.add_argument("--run", metavar="DIR", help="run folder to make or resume (default: runs/<student>-distilled)")
    parser.add_argument("--write", metavar="FILE", help="write the teacher's answers to --prompts, and train nothing")
    parser.add_argument("--prompts", metavar="FILE", help="a prompt a line, or JSON lines with a field prompt")
    parser.add_argument("--engine", choices=["torch", "edge"], default="torch", help="what runs the teacher (--write)")
    add_sampling_flags(parser, without=frozenset({"logprobs"}), temperature=1.0)
    fields = describe_fields(["tuning", "data", "training", "model"])
    parser.epilog = f"Any field of the configuration may be given as a flag:\n{fields}"


def run(args: argparse.Namespace) -> int:
    from smidgen.runtime.errors import ConfigError

    if args.write is not None:
        return _write(args)
    if args.prompts is not None:
        raise ConfigError("--prompts: belongs to --write FILE, which takes the teacher's answers")
    if args.student is None:
        raise ConfigError(
            "STUDENT: name a preset, a model or a run, e.g. smidgen distill elite-tiny --teacher runs/large"
        )

    from smidgen.cli.observers import training_observers
    from smidgen.cli.pretrain import print_summary
    from smidgen.folders.run import is_run_folder
    from smidgen.training.base import load_training_config
    from smidgen.training.parallel import is_main_rank
    from smidgen.tuning.distillation import distill

    resumes = is_run_folder(args.student) and args.run in (None, args.student)
    run_path = Path(args.run or (args.student if resumes else f"runs/{Path(args.student).name}-distilled"))
    overrides = list(args.overrides)
    if args.teacher is not None:
        overrides += ["--tuning.objective.kind", "distillation", "--tuning.objective.teacher", args.teacher]
    elif not resumes:
        raise ConfigError("--teacher: name the model that the student learns from")
    source = args.student
    if is_run_folder(source) and not resumes:
        # Another run's model is what this one begins with; its own training says how.
        overrides += ["--tuning.base", source]
    config = load_training_config(source, overrides)
    if not is_main_rank():
        logging.disable(logging.WARNING)
        summary = distill(config, run_path)
    else:
        with training_observers(config, run_path) as observer:
            summary = distill(config, run_path, observer)
        print_summary(summary, "distill")
    return 0 if summary.stopped_by is None else 128 + summary.stopped_by


def _write(args: argparse.Namespace) -> int:
    from smidgen.cli.engines import open_engine
    from smidgen.runtime.errors import ConfigError
    from smidgen.tuning.distillation import read_prompts, write_texts

    if args.overrides:
        raise ConfigError(f"{args.overrides[0]}: nothing is trained with --write; leave it out")
    if args.teacher is None or args.prompts is None:
        raise ConfigError("--write: needs --teacher MODEL and --prompts FILE")
    prompts = read_prompts(Path(args.prompts))
    engine, tokenizer = open_engine(args.teacher, args.engine)
    written = write_texts(engine, tokenizer, prompts, Path(args.write), sampling_params(args), _progress)
    print(f"{args.write}: {written} new answers to {len(prompts)} prompts")
    return 0


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done} of {total} prompts", end="\n" if done == total else "", file=sys.stderr, flush=True)
