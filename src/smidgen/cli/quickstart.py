"""Build the built-in corpus, train a small model on it, measure what it learned, and let it write: a few minutes.

The score is the share of held-out questions answered exactly, beside an untrained model and a 5-gram model: people,
things and number pairs in the questions never occur in training text. What is finished is not done again.

Example: smidgen quickstart
         smidgen quickstart --out tiny --training.max_steps 300
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smidgen.config import Config
    from smidgen.data import Dataset
    from smidgen.evaluation.storyworld import Answer, StoryworldScore
    from smidgen.model import Decoder
    from smidgen.runtime.protocols import Tokenizer

OVERRIDES = True
DOCUMENTS = 32_000
"""Of the corpus: about as many as the preset's training reads, each once."""
UNTRAINED_QUESTIONS = 20
"""Of each kind, for the model that knows nothing: it never ends an answer by itself, which makes it the slowest."""
NGRAM_TOKENS = 1_000_000
"""Training tokens that the 5-gram model counts."""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.usage = "smidgen quickstart [--out DIR] [--training.max_steps N …]"
    parser.add_argument("--out", default="runs/quickstart", metavar="DIR", help="where (default: runs/quickstart)")
    parser.add_argument("--preset", default="quickstart", help="model and training (default: quickstart)")
    parser.add_argument(
        "--documents", type=int, default=DOCUMENTS, metavar="N", help=f"of the corpus (default: {DOCUMENTS:,})"
    )
    parser.add_argument(
        "--questions", type=int, default=100, metavar="N", help="held-out questions of each kind (default: 100)"
    )


def run(args: argparse.Namespace) -> int:
    from smidgen.cli.observers import training_observers
    from smidgen.config import load_config
    from smidgen.training.pretraining import pretrain, resolve

    begun = time.perf_counter()
    out = Path(args.out)
    data_path, run_path = out / "data", out / "run"
    config = load_config(args.preset, [*args.overrides, "--data.path", str(data_path)])

    heading("1. The corpus: stories, facts, patterns, lists, sums, functions and chats of a small invented world")
    dataset = prepare_corpus(config, data_path, args.documents)
    tokenizer = dataset.tokenizer()
    assert tokenizer is not None

    heading(f"2. Training ({args.preset}; Ctrl-C saves, the same command goes on)")
    with training_observers(config, run_path) as observer:
        summary = pretrain(config, run_path, observer)
    if summary.stopped_by is not None:
        print(f"Stopped after step {summary.steps} of {summary.total_steps}; the same command goes on.")
        return 128 + summary.stopped_by
    if summary.out_of_time:
        print(f"Out of time after step {summary.steps} of {summary.total_steps}; the same command goes on.")
        return 0

    asked = f"{args.questions} held-out questions of each kind"
    fewer = f" (untrained: {UNTRAINED_QUESTIONS})" if args.questions > UNTRAINED_QUESTIONS else ""
    heading(f"3. What it learned: {asked}{fewer}, answered exactly")
    show_scores(resolve(config, dataset), dataset, tokenizer, run_path, args.questions)

    heading("4. What it writes")
    show_sample(run_path, tokenizer)

    heading(f"Done in {time.perf_counter() - begun:.0f} s. Next:")
    print(f"  smidgen chat {run_path}")
    print(f'  smidgen generate {run_path} "One day Mia Fox" --temperature 0.8')
    print(f"  smidgen plot {run_path}      # or: smidgen report {run_path}")
    print(
        f"  smidgen pretrain gemma3-tiny --data.path {data_path} --run runs/gemma3   # another architecture, same text"
    )
    print("  smidgen prepare my.txt --out data                                   # your own text")
    return 0


def heading(text: str) -> None:
    """A line that stands out in a terminal, and in its place among what goes to standard error."""
    sys.stderr.flush()
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}{text}{plain}", flush=True)


@contextmanager
def busy(text: str) -> Iterator[None]:
    """In a terminal, a sign that something is being done."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def prepare_corpus(config: Config, path: Path, documents: int) -> Dataset:
    """The dataset of the built-in corpus, made unless it is there."""
    from smidgen.cli.prepare_progress import prepare_progress
    from smidgen.data import prepare

    with prepare_progress() as progress:
        prepared = prepare(["storyworld"], path, config.tokenizer, documents=documents, progress=progress)
    dataset = prepared.dataset
    state = " (already there)" if prepared.already_prepared else ""
    print(
        f"{dataset.train.num_documents:,} documents, {dataset.train.num_tokens:,} tokens, "
        f"vocabulary of {dataset.vocab_size:,}: {path}{state}"
    )
    return dataset


def show_scores(config: Config, dataset: Dataset, tokenizer: Tokenizer, run_path: Path, questions: int) -> None:
    """The table of held-out scores: untrained, 5-gram, trained."""
    from smidgen.cli.tables import print_table
    from smidgen.evaluation.answers import ngram_answers
    from smidgen.evaluation.ngram import NGramModel
    from smidgen.evaluation.storyworld import evaluate_storyworld, score_table
    from smidgen.folders import load
    from smidgen.model import Decoder

    def of(answer: Answer, count: int = questions) -> StoryworldScore:
        return evaluate_storyworld(answer, questions_per_kind=count)

    train = dataset.train
    assert train.document_offsets is not None
    assert dataset.vocab_size is not None
    offsets = train.document_offsets[train.document_offsets <= NGRAM_TOKENS]
    scores = {}
    with busy("asking the untrained model …"):
        fresh = Decoder(config.model).initialize(config.training.seed)
        scores["untrained"] = of(answers_of(fresh, tokenizer), min(questions, UNTRAINED_QUESTIONS))
    with busy("counting and asking the 5-gram model …"):
        ngram = NGramModel.fit(train.tokens[: int(offsets[-1])], offsets, vocab_size=dataset.vocab_size)
        scores["5-gram"] = of(ngram_answers(ngram, tokenizer))
    with busy("asking the trained model …"):
        scores["trained"] = of(answers_of(load(run_path), tokenizer))
    header, *rows = score_table(scores)
    print_table(header, rows)


def answers_of(model: Decoder, tokenizer: Tokenizer) -> Answer:
    """The model as one who answers, many questions at once."""
    from smidgen.evaluation.answers import engine_answers
    from smidgen.inference import TorchEngine

    end_ids = () if tokenizer.eos_id is None else (tokenizer.eos_id,)
    return engine_answers(TorchEngine(model, end_ids, max_batch_size=64), tokenizer)


def show_sample(run_path: Path, tokenizer: Tokenizer) -> None:
    """A story and an answered question."""
    from smidgen.folders import load
    from smidgen.inference import generate

    model = load(run_path)
    facts = "Mia Frost has red kites. Tom Lake mends paper boats.\nWhat does Tom Lake mend?"
    for prompt, temperature, length in (("One day", 0.7, 100), (facts, 0.0, 10)):
        text = generate(model, tokenizer, prompt, max_new_tokens=length, temperature=temperature, seed=3)
        # An answer is one line; what would follow is the next question.
        print(prompt + text.split("\n")[0], end="\n\n")
