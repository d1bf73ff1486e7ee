"""GSM8K itself, from its file: form and answer judged apart."""

from __future__ import annotations

import json
from pathlib import Path

from smidgen.evaluation.suite.gsm8k_scorers import result_of
from smidgen.evaluation.suite.items import Category, EvaluationError, Item

_REQUEST = "\nWrite each calculation as <<3+4=7>> and end with a line that gives the result: #### number."


def gsm8k_categories(path: str | Path, limit: int | None = None, max_new_tokens: int = 320) -> tuple[Category, ...]:
    """Two categories over the questions of a JSONL file (`question`, `answer`): the form of a solution, and its answer.

    Questions are put as in training on the corpus: `Question: …`, then `Answer:` to go on from; chats add the request
    for the form. In the form, numbers need not be the question's: GSM8K spells many as words. `limit`: the first so
    many. Raises EvaluationError naming the line that is not of GSM8K's kind.
    """
    path = Path(path)
    if not path.is_file():
        raise EvaluationError(f"--gsm8k {path}: no such file; give GSM8K's test.jsonl")
    forms: list[Item] = []
    answers: list[Item] = []
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            if limit is not None and len(forms) == limit:
                break
            if line.strip():
                question, solution, result = _record(path, number, line)
                prompt = f"Question: {question}\nAnswer:"
                messages = ({"role": "user", "content": question + _REQUEST},)
                for name, items, expect in (
                    ("gsm8k_file_form", forms, {}),
                    ("gsm8k_file_answer", answers, {"value": result}),
                ):
                    items.append(Item(f"{name}-{number}", prompt, messages, solution, solution, expect))
    if not forms:
        raise EvaluationError(f"--gsm8k {path}: holds no question; give GSM8K's test.jsonl")
    stop = ("\n\n", "\nQuestion:")
    return (
        Category("gsm8k_file_form", "gsm8k file", "GSM8K, form", "gsm8k_form", tuple(forms), stop, max_new_tokens),
        Category(
            "gsm8k_file_answer", "gsm8k file", "GSM8K, answer", "gsm8k_answer", tuple(answers), stop, max_new_tokens
        ),
    )


def _record(path: Path, number: int, line: str) -> tuple[str, str, str]:
    try:
        record = json.loads(line)
        question, solution = str(record["question"]), str(record["answer"])
    except (ValueError, KeyError, TypeError):
        raise EvaluationError(f"{path}:{number}: needs an object with question and answer, a line each") from None
    result = result_of(solution)
    if result is None:
        raise EvaluationError(f"{path}:{number}: its answer has no line '#### number'")
    return question, solution, result
