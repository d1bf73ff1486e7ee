"""Sequence-level distillation (Kim & Rush, 2016): a teacher of any tokenizer writes, and a student learns that."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from smidgen.config import Config, TokenizerConfig
from smidgen.data import Dataset, prepare
from smidgen.data.manifest import MANIFEST_NAME
from smidgen.folders.resolve import resolve
from smidgen.runtime.errors import ConfigError, DataError
from smidgen.runtime.files import write_text
from smidgen.runtime.generation import encode_prompt, generate_texts
from smidgen.runtime.protocols import Engine, Tokenizer
from smidgen.runtime.sampling import SamplingParams

TEXTS, DATA, REQUEST = "teacher/texts.jsonl", "teacher/data", "teacher/request.json"
"""In a run folder: the teacher's texts, the dataset made of them, and who wrote them, how."""

Progress = Callable[[int, int], None]
OpenTeacher = Callable[[], tuple[Engine, Tokenizer]]


def texts_as_data(
    config: Config,
    run_path: Path,
    teacher: str,
    open_teacher: OpenTeacher,
    prompts: Sequence[str],
    params: SamplingParams,
    progress: Progress = lambda done, total: None,
) -> Config:
    """Let a teacher continue every prompt, make a dataset of prompts and answers, both in the run folder, and return
    the configuration that trains on it.

    The dataset's tokenizer is that of `tuning.base`, or what the section `tokenizer` asks for. What is there already
    is not made again, so a stopped command goes on; the teacher is opened only where an answer is missing. Raises
    DataError where the run folder holds the texts of another teacher, of other prompts or of another sampling.
    """
    (run_path / TEXTS).parent.mkdir(parents=True, exist_ok=True)
    _check_request(run_path, teacher, prompts, params)
    texts, folder = run_path / TEXTS, run_path / DATA
    if not (folder / MANIFEST_NAME).is_file():
        if _written(texts, prompts) < len(prompts):
            engine, tokenizer = open_teacher()
            write_texts(engine, tokenizer, prompts, texts, params, progress)
        prepare([texts], folder, _student_tokenizer(config))
    Dataset.open(folder)
    data = config.data.model_copy(update={"path": str(folder), "mixture": None})
    return config.model_copy(update={"data": data})


def _student_tokenizer(config: Config) -> TokenizerConfig:
    if config.tuning.base is None:
        return config.tokenizer
    folder = resolve(config.tuning.base).folder
    if folder is None:
        raise ConfigError(f"tuning.base = {config.tuning.base}: a preset has no tokenizer; name a trained model")
    return TokenizerConfig(kind="pretrained", path=str(folder))


def _check_request(run_path: Path, teacher: str, prompts: Sequence[str], params: SamplingParams) -> None:
    """Record who writes, from what and how, or compare with what is recorded."""
    digest = hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()
    request = json.loads(json.dumps({"teacher": teacher, "prompts": digest, "sampling": asdict(params)}))
    path = run_path / REQUEST
    if not path.exists():
        write_text(path, json.dumps(request, indent=1) + "\n")
        return
    before = json.loads(path.read_text(encoding="utf-8"))
    if before != request:
        changed = next(name for name in request if request[name] != before.get(name))
        flag = {"teacher": f"--teacher {teacher}", "prompts": "--prompts", "sampling": "sampling"}[changed]
        raise DataError(f"{flag}: {run_path} holds texts that were written with another; name another --run")


def write_texts(
    engine: Engine,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    out: Path,
    params: SamplingParams,
    progress: Progress = lambda done, total: None,
) -> int:
    """Let a teacher continue every prompt, and write JSON lines to `out`: `text`, `prompt`, `completion`, and
    `finish_reason`, which is `length` where the answer was cut off.

    `smidgen prepare` and `pretrain` take the texts, `sft` the pairs. Prompts that `out` has already, in the same
    order, are not written again: a stopped command goes on. Returns the number of new lines. Raises DataError where
    `out` belongs to other prompts.
    """
    done = _written(out, prompts)
    batch = max(1, engine.info.max_batch_size)
    with out.open("a", encoding="utf-8") as file:
        for start in range(done, len(prompts), batch):
            some = prompts[start : start + batch]
            ids = [encode_prompt(tokenizer, prompt) for prompt in some]
            # Every prompt draws its own, and the same whether or not the command was stopped before it.
            numbers = range(start, start + len(some))
            seeded = [params if params.seed is None else replace(params, seed=params.seed + n) for n in numbers]
            for prompt, answer in zip(some, generate_texts(engine, tokenizer, ids, seeded), strict=True):
                line = {"text": prompt + answer.text, "prompt": prompt, "completion": answer.text}
                file.write(json.dumps({**line, "finish_reason": answer.finish_reason}, ensure_ascii=False) + "\n")
            file.flush()
            os.fsync(file.fileno())
            progress(min(start + batch, len(prompts)), len(prompts))
    return len(prompts) - done


def cut_off(run_path: Path) -> tuple[int, int]:
    """How many of a run's answers were cut off by their length, and how many there are."""
    lines = (run_path / TEXTS).read_text(encoding="utf-8").splitlines()
    return sum(json.loads(line)["finish_reason"] == "length" for line in lines), len(lines)


def _written(out: Path, prompts: Sequence[str]) -> int:
    """How many prompts `out` has; an unfinished last line is cut off."""
    if not out.exists():
        return 0
    whole = out.read_bytes().rpartition(b"\n")[0]
    lines = whole.split(b"\n") if whole else []
    found = [json.loads(line).get("prompt") for line in lines]
    if found != list(prompts[: len(found)]):
        raise DataError(f"{out}: holds answers to other prompts; name another file")
    with out.open("r+b") as file:
        file.truncate(len(whole) + bool(whole))
    return len(found)


def read_prompts(path: Path) -> list[str]:
    """Prompts from a file of one a line, or of JSON lines with a field `prompt` (`.jsonl`). Raises DataError."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    if path.suffix == ".jsonl":
        prompts = []
        for number, line in enumerate(lines, 1):
            try:
                prompts.append(json.loads(line)["prompt"])
            except (ValueError, KeyError, TypeError):
                raise DataError(f"{path}, line {number}: no object with a field 'prompt'; write one a line") from None
        lines = prompts
    if not lines or not all(isinstance(line, str) and line for line in lines):
        raise DataError(f"{path}: holds no prompts; write one a line")
    return lines
