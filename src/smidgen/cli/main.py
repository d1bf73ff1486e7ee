"""The `smidgen` command: finds the subcommand, runs it, and turns errors into one line and an exit status."""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import smidgen
from smidgen.runtime.errors import MissingDependencyError, SmidgenError

COMMANDS = {
    "quickstart": "build a corpus, train a model on it, measure it and let it write, in a few minutes",
    "presets": "list the built-in configurations",
    "info": "parameters, FLOPs and memory of a model",
    "tokenizer": "train or inspect a tokenizer",
    "prepare": "turn text into a dataset folder",
    "pretrain": "train a model from scratch, or resume a run",
    "sft": "teach a model to chat, on conversations",
    "dpo": "teach a model which answers are better, on pairs of them",
    "distill": "teach a small model what a larger one knows",
    "merge": "make one model of several, or of a model and its adapter",
    "evaluate": "measure models: loss on a text or dataset, a suite of questions, GSM8K; several side by side",
    "generate": "continue a prompt",
    "bench": "rates of prompts and decoding on the edge engine",
    "chat": "talk to a model in the terminal",
    "export": "write a model for other programs: transformers, llama.cpp, onnxruntime",
    "serve": "answer over HTTP: an OpenAI-compatible API and a chat page",
    "import": "make a model folder of a GGUF file, another trainer's checkpoint or a Hugging Face folder",
    "quantize": "make a model smaller: int8, int4, packed ternary or FP8",
    "plot": "draw the curves of a run",
    "report": "write one HTML page on a run, or on several side by side",
    "track": "send a run's figures to TensorBoard, Weights & Biases or trackio",
}
"""Every subcommand with its summary. Each is a module of this package with `configure(parser)` and `run(args) -> int`;
one whose `OVERRIDES` is true takes dotted configuration overrides, found in `args.overrides`."""

_EXTRAS = {"torch": "train", "pydantic": "train", "matplotlib": "train", "transformers": "hf"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 1 for an error, 2 for wrong usage, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    try:
        return _run([a for a in arguments if a != "--debug"])
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`smidgen … | head`): not an error of ours.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if debug:
            raise
        print(f"smidgen: {_one_line(error)}", file=sys.stderr)
        return 1


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        print(_overview())
        return 0
    if arguments[0] in {"-V", "--version"}:
        print(f"smidgen {smidgen.__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "'smidgen --help' lists the commands"
        print(f"smidgen: '{name}' is not a command; {hint}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"smidgen.cli.{name}")
    parser = _Parser(
        prog=f"smidgen {name}",
        description=(module.__doc__ or "").strip(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.configure(parser)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    options, unknown = parser.parse_known_intermixed_args(rest)
    if getattr(module, "OVERRIDES", False):
        parser.refuse_misspelt(unknown)
        options.overrides = unknown
    elif unknown:
        parser.refuse(unknown)
    status: int = module.run(options)
    return status


class _Parser(argparse.ArgumentParser):
    """Wrong usage is one line, as every other mistake; `--help` has the rest."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"smidgen: {message}; '{self.prog} --help' shows what there is\n")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """End with the first option that does not exist, or the argument that is too many."""
        wrong = next((text for text in unknown if text.startswith("-")), unknown[0]).split("=")[0]
        self._suggest(wrong)
        self.error(f"{wrong}: no such option" if wrong.startswith("-") else f"'{wrong}': one argument too many")

    def refuse_misspelt(self, unknown: Sequence[str]) -> None:
        """End with the first that is nearly an option. Fields of the configuration have dots, but for `description`."""
        for text in unknown:
            name = text.split("=")[0]
            if name.startswith("--") and "." not in name and name != "--description":
                self._suggest(name)

    def _suggest(self, wrong: str) -> None:
        close = difflib.get_close_matches(wrong, set(re.findall(r"--[\w-]+", self.format_help())), n=1)
        if close:
            self.exit(2, f"smidgen: {wrong}: no such option; did you mean '{close[0]}'?\n")


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, summary in COMMANDS.items()]
    return "\n".join(
        [
            "Small language models, from a text file to a model that answers.",
            "",
            "usage: smidgen COMMAND …      (smidgen COMMAND --help shows its options and an example)",
            "",
            *lines,
        ]
    )


def _one_line(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] in _EXTRAS:
        package = str(error.name).split(".")[0]
        error = MissingDependencyError(package, _EXTRAS[package], "this command")
    if isinstance(error, SmidgenError):
        return str(error)
    if isinstance(error, OSError):
        return f"{error.filename or 'operating system'}: {error.strerror or error}"
    summary = " ".join(str(error).split())
    return f"internal error: {type(error).__name__}: {summary} (--debug shows the traceback)"
