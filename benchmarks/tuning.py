"""What teaching a model to chat comes to: SFT and DPO on a base trained here, three seeds, held-out data.

A base of 0.69M parameters learns the built-in corpus without its chats, and GSM8K's training problems as plain text.
SFT teaches it GSM8K's questions and storyworld's chats as conversations; DPO then prefers right answers to the same
with a wrong part, and solutions with annotated calculations to those without. The format score is the share of greedy
answers that have the taught form and end by themselves: for GSM8K an annotated calculation and a last line #### with a
number, for chats one sentence or a list. GSM8K's test problems and storyworld's held-out members are measured.

    python benchmarks/tuning.py --gsm8k FOLDER --work /tmp/tuning --json benchmarks/results/tuning.json
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import report

import smidgen
from smidgen.config import TokenizerConfig, load_config
from smidgen.data import prepare
from smidgen.data.conversations.folder import prepare_conversations
from smidgen.data.storyworld import generate
from smidgen.data.storyworld.corpus import DEFAULT_WEIGHTS
from smidgen.folders.run import is_run_folder
from smidgen.inference import TorchEngine
from smidgen.runtime.generation import encode_chat, end_of_turn_ids, generate_texts
from smidgen.runtime.sampling import SamplingParams
from smidgen.training.base import load_training_config
from smidgen.training.pretraining import pretrain
from smidgen.tuning.defaults import TUNING_DEFAULTS
from smidgen.tuning.run import base_tokenizer, tune

SEEDS = (1, 2, 3)
BASE = {
    "data.packing": "split",
    "model.max_seq_len": 512,
    "model.hidden_size": 128,
    "model.feed_forward.intermediate_size": 384,
    "training.max_steps": 1200,
    "training.seq_len": 256,
    "training.batch_size": 8,
    "training.precision": "fp32",
    "training.eval_every": 400,
    "training.checkpoint_every": 400,
    "training.eval_tokens": 40_000,
}
COMMON = {
    "training.precision": "fp32",
    "training.batch_size": 8,
    "training.eval_tokens": 16_000,
    "training.log_every": 10,
    "training.checkpoint_every": 10_000,
    "training.eval_every": 10_000,
}
_SOLUTION = re.compile(r"(?s).*<<[^<>]+=[^<>]+>>.*\n#### -?[\d,.]+\s*")
_REPLY = re.compile(r"[A-Z][^\n]*\.|(- [^\n]+\n?)+")
_PLACE = re.compile(r"\b(in|on|under|behind|beside|near|by|at|next to|above|inside)\b [^.]*")


class Bench:
    """The folders of all runs; what is there is not made again."""

    def __init__(self, work: Path, gsm8k: Path, steps: int, questions: int) -> None:
        self.work, self.gsm8k, self.steps, self.questions = work, gsm8k, steps, questions
        work.mkdir(parents=True, exist_ok=True)

    def base(self) -> Path:
        """The pretrained model; no chat is in its text."""
        run, data = self.work / "base", self.work / "data"
        if not is_run_folder(run):
            kinds = {kind: weight for kind, weight in DEFAULT_WEIGHTS.items() if kind != "chats"}
            stories = [{"text": document.text} for document in islice(generate(0, "train", kinds), 40_000)]
            problems = [{"text": f"{r['question']}\n{r['answer']}"} for r in self.problems("train")]
            sources = [write(self.work / "storyworld.jsonl", stories), write(self.work / "gsm8k.jsonl", problems)]
            prepare(sources, data, TokenizerConfig(vocab_size=2048))
            pretrain(load_config("quickstart", {**BASE, "data.path": str(data)}), run)
        return run

    def problems(self, split: str) -> list[dict[str, str]]:
        """GSM8K's problems."""
        lines = (self.gsm8k / f"gsm8k-{split}.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def tune(
        self, name: str, kind: str, base: Path, sources: Sequence[Path], held_out: Sequence[Path], **fields: Any
    ) -> Path:
        """A finished run of SFT or DPO."""
        run = self.work / name
        overrides = {**COMMON, **{key.replace("__", "."): value for key, value in fields.items()}}
        config = load_training_config(base, overrides, TUNING_DEFAULTS[kind], as_base=True)
        data = self.work / f"{kind}-data"
        prepare_conversations(
            sources,
            data,
            base_tokenizer(config),
            kind="preferences" if kind == "dpo" else "conversations",
            val_sources=held_out,
        )
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": str(data)})})
        tune(config, run)
        return run

    def format_score(self, model: Path) -> float:
        """Share of held-out questions answered in the taught form, half of them GSM8K's, half storyworld's."""
        problems = self.problems("test")[: self.questions]
        chats = list(islice(generate(0, "val", ["chats"]), self.questions))
        prompts = [[{"role": "user", "content": problem["question"]}] for problem in problems]
        prompts += [list(chat.messages or ())[:-1] for chat in chats]
        decoder, tokenizer = smidgen.load(model), smidgen.load_tokenizer(model)
        ids = [encode_chat(tokenizer, prompt) for prompt in prompts]
        engine = TorchEngine(decoder, end_of_turn_ids(tokenizer), max_batch_size=32)
        room = decoder.config.max_seq_len
        params = [SamplingParams(max_new_tokens=min(192, room - len(prompt)), temperature=0.0) for prompt in ids]
        answers = generate_texts(engine, tokenizer, ids, params)
        forms = [_SOLUTION] * len(problems) + [_REPLY] * len(chats)
        good = [
            answer.finish_reason == "stop" and form.fullmatch(answer.text.strip()) is not None
            for answer, form in zip(answers, forms, strict=True)
        ]
        return statistics.mean(good)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gsm8k", type=Path, required=True, metavar="DIR", help="folder of gsm8k-{train,test}.jsonl")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="folder of data and runs; kept")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--steps", type=int, default=200, help="of SFT; DPO takes half as many (default: 200)")
    parser.add_argument("--questions", type=int, default=60, help="of each kind (default: 60)")
    args = parser.parse_args()
    bench = Bench(args.work, args.gsm8k, args.steps, args.questions)
    results = supervised(bench) + preferences(bench)
    for line in results:
        shown = "" if line["peer"] is None else f"  beside {line['peer']:.4f} ({line['peer_name']})"
        print(f"{line['case']:<22} {line['metric']:<30} {line['ours']:.4f}{shown}")
    if args.json:
        args.json.write_text(json.dumps({"machine": report.machine(), "results": results}, indent=1) + "\n")


def sft(bench: Bench, seed: int, lr: float = 1e-3, steps: int | None = None, name: str = "sft") -> Path:
    """The base taught to chat."""
    sources = {}
    for split, count in (("train", 6000), ("val", 300)):
        chats = [{"messages": document.messages} for document in islice(generate(0, split, ["chats"]), count)]
        sources[split] = write(bench.work / f"chats-{split}.jsonl", chats)
    held_out = write(bench.work / "gsm8k-test.jsonl", bench.problems("test")[:300])
    return bench.tune(
        f"{name}-{seed}",
        "sft",
        bench.base(),
        [bench.gsm8k / "gsm8k-train.jsonl", sources["train"]],
        [held_out, sources["val"]],
        training__max_steps=bench.steps if steps is None else steps,
        training__lr=lr,
        training__seq_len=256,
        training__seed=seed,
    )


def supervised(bench: Bench) -> list[dict[str, Any]]:
    """Format score and held-out loss of the assistant's words, before and after SFT."""
    before = bench.format_score(bench.base())
    untaught = validation(sft(bench, 0, lr=1e-30, steps=1, name="untaught"))["loss"]
    runs = [sft(bench, seed) for seed in SEEDS]
    scores = [bench.format_score(run) for run in runs]
    losses = [validation(run)["loss"] for run in runs]
    print(f"sft: format {before:.3f} to {scores}; loss {untaught:.4f} to {losses}", flush=True)
    return [
        report.result("SFT", "format score", "share", statistics.mean(scores), before, "base"),
        report.result("SFT, worst seed", "format score", "share", min(scores), before, "base"),
        report.result("SFT", "held-out loss", "nats/token", statistics.mean(losses), untaught, "base"),
        report.result("SFT, worst seed", "held-out loss", "nats/token", max(losses), untaught, "base"),
    ]


def dpo(bench: Bench, seed: int) -> Path:
    """The model of SFT taught which of two answers is better."""
    return bench.tune(
        f"dpo-{seed}",
        "dpo",
        sft(bench, seed),
        [write(bench.work / "pairs-train.jsonl", pairs(bench.problems("train")[:400], "train"))],
        [write(bench.work / "pairs-val.jsonl", pairs(bench.problems("test")[:100], "val"))],
        training__max_steps=bench.steps // 2,
        training__lr=5e-5,
        training__seq_len=256,
        training__seed=seed,
        training__eval_tokens=None,
    )


def preferences(bench: Bench) -> list[dict[str, Any]]:
    """Preference accuracy on held-out pairs after DPO, and what became of the perplexity on held-out conversations."""
    runs = {sft(bench, seed): dpo(bench, seed) for seed in SEEDS}
    accuracies = [validation(run)["accuracy"] for run in runs.values()]
    ratios = [math.exp(held_out_loss(bench, run) - held_out_loss(bench, before)) for before, run in runs.items()]
    print(f"dpo: accuracy {accuracies}, perplexity times {ratios}", flush=True)
    return [
        report.result("DPO", "preference accuracy", "share", statistics.mean(accuracies), 0.75, "wanted"),
        report.result("DPO, worst seed", "preference accuracy", "share", min(accuracies), 0.75, "wanted"),
        report.result("DPO", "perplexity", "of the model before", statistics.mean(ratios), 1.05, "allowed"),
        report.result("DPO, worst seed", "perplexity", "of the model before", max(ratios), 1.05, "allowed"),
    ]


def held_out_loss(bench: Bench, model: Path) -> float:
    """Loss on the held-out conversations of SFT, nats a token of the assistant's."""
    import torch

    from smidgen.data import Dataset, PackedDocuments
    from smidgen.training.evaluate import evaluate
    from smidgen.training.objectives import LanguageModeling

    data = PackedDocuments(Dataset.open(bench.work / "sft-data").val, 256)
    found = evaluate(smidgen.load(model), LanguageModeling(), data, 8, torch.device("cpu"))
    assert found is not None
    return found.loss


def pairs(problems: Sequence[Mapping[str, str]], split: Any) -> Iterator[dict[str, Any]]:
    """Solutions with and without annotations; chats with the right answer and with the other one of the same talk."""
    for problem in problems:
        plain = re.sub(r"<<[^<>]*>>", "", problem["answer"])
        if plain != problem["answer"]:
            yield {"prompt": problem["question"], "chosen": problem["answer"], "rejected": plain}
    for document in islice(generate(1, split, ["chats"]), 2 * len(problems)):
        *turns, last = document.messages or ()
        wrong = other_answer(str(turns[0]["content"]), str(last["content"]))
        if wrong is not None:
            yield {"prompt": turns, "chosen": last["content"], "rejected": wrong}


def other_answer(told: str, answer: str) -> str | None:
    """The answer to what was not asked, of two things told; None for other talks."""
    clauses = told.removesuffix(".").split(" and ")
    if len(clauses) != 2:
        return None
    if answer.removesuffix(".") in clauses:
        return f"{next(clause for clause in clauses if clause != answer.removesuffix('.'))}."
    places = [match[0] for clause in clauses if (match := _PLACE.search(clause))]
    found = [place for place in places if place in answer]
    if told.startswith("I put the") and len(places) == 2 and len(found) == 1 and places[0] != places[1]:
        return answer.replace(found[0], next(place for place in places if place != found[0]))
    return None


def validation(run: Path) -> dict[str, float]:
    """The figures of the last evaluation of a run."""
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    found: dict[str, float] = [record for record in records if record["kind"] == "validation"][-1]
    return found


def write(path: Path, records: Any) -> Path:
    """Records as JSON Lines."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
