"""The adapter for lm-evaluation-harness against its own `hf` model, on one folder and a local task."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from smidgen.data.storyworld import generate
from smidgen.folders import save
from smidgen.tokenization import train_tokenizer

lm_eval = pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: label
doc_to_choice: choices
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
GENERATED = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs: {{until: ["\\n\\n", "."], max_gen_toks: 12}}
metric_list: [{{metric: exact_match}}]
"""
ROLLING = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, randomized_decoder: Any) -> Path:
    """A small Llama with random weights, its tokenizer and a chat template."""
    texts = [document.text for document in islice(generate(0), 200)]
    tokenizer = train_tokenizer("byte_bpe", texts, 400)
    model = randomized_decoder("elite-tiny", {"model.vocab_size": tokenizer.vocab_size, "model.max_seq_len": 64})
    path = tmp_path_factory.mktemp("model")
    save(model, path, tokenizer)
    return path


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tasks")
    stories = [document.text for document in islice(generate(1, kinds=["stories"]), 6)]
    records = [
        {
            "question": story[:60].rsplit(" ", 1)[0],
            "choices": [" found the kite", " was sad", " in the old house", "!"],
            "label": number % 4,
            "answer": "x",
            "text": story,
        }
        for number, story in enumerate(stories)
    ]
    file = path / "test.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    for name, task in (("local_choice", CHOICE), ("local_text", GENERATED), ("local_rolling", ROLLING)):
        (path / f"{name}.yaml").write_text(task.format(name=name, file=file), encoding="utf-8")
    return path


def evaluate(model: str, arguments: str, tasks: Path, **options: Any) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    import smidgen.evaluation.harness  # noqa: F401 (registers the model)

    result: dict[str, Any] = lm_eval.simple_evaluate(
        model=model,
        model_args=arguments,
        tasks=["local_choice", "local_text", "local_rolling"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        batch_size=4,
        device="cpu",
        bootstrap_iters=0,
        log_samples=True,
        **options,
    )
    return result


@pytest.mark.parametrize("chat", [False, True], ids=["texts", "chats"])
def test_results_equal_those_of_hf(folder: Path, tasks: Path, chat: bool) -> None:
    """Every log-likelihood and every generated text, not only the scores."""
    options = {"apply_chat_template": True} if chat else {}
    ours = evaluate("smidgen", f"pretrained={folder}", tasks, **options)
    theirs = evaluate("hf", f"pretrained={folder},dtype=float32", tasks, **options)
    assert ours["results"].keys() == theirs["results"].keys() == {"local_choice", "local_text", "local_rolling"}
    for task, samples in theirs["samples"].items():
        for own, other in zip(ours["samples"][task], samples, strict=True):
            assert own["arguments"] == other["arguments"]
            if task == "local_text":
                assert own["resps"] == other["resps"]
            elif task == "local_rolling":
                assert own["resps"][0][0] == pytest.approx(other["resps"][0][0], rel=1e-5)
            else:
                for (value, greedy), (reference, same) in zip(
                    (r[0] for r in own["resps"]), (r[0] for r in other["resps"]), strict=True
                ):
                    assert float(value) == pytest.approx(float(reference), abs=1e-3)
                    assert str(greedy) == str(same)
        for metric, value in theirs["results"][task].items():
            if isinstance(value, float):
                assert ours["results"][task][metric] == pytest.approx(value, rel=1e-5), metric


@pytest.mark.parametrize("engine", ["torch", "edge"])
def test_its_client_of_servers_reads_the_same_from_ours(folder: Path, engine: str) -> None:
    """What lm_eval's `local-completions` asks of a server and reads from the answer, beside its `hf` model."""
    httpx, completions = pytest.importorskip("httpx"), pytest.importorskip("lm_eval.models.openai_completions")
    from lm_eval.models.huggingface import HFLM

    from smidgen.cli.engines import open_engine
    from smidgen.serving import ServerSettings, running

    opened, tokenizer = open_engine(str(folder), engine, max_batch_size=2)
    stories = [document.text[:120] for document in islice(generate(2, kinds=["stories"]), 4)]
    pairs = [(tokenizer.encode(text)[:12], tokenizer.encode(text)[12:30]) for text in stories]
    pairs += [(context, [*ids[:3], 7]) for context, ids in pairs]
    hf = HFLM(pretrained=str(folder), dtype="float32", device="cpu")
    expected = hf._loglikelihood_tokens([(None, *pair) for pair in pairs], disable_tqdm=True)
    with running(opened, tokenizer, "model", ServerSettings(port=0)) as url:
        body = {"model": "model", "prompt": [[*context, *ids] for context, ids in pairs], "temperature": 0}
        body |= {"max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
        answer = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()
    parse = completions.LocalCompletionsAPI.parse_logprobs
    found = parse(answer, tokens=body["prompt"], ctxlens=[len(context) for context, _ in pairs])
    tolerance = 1e-3 if engine == "torch" else 0.3  # the edge engine rounds weights to bfloat16
    for (value, greedy), (reference, same) in zip(found, expected, strict=True):
        assert value == pytest.approx(reference, abs=tolerance)
        assert engine == "edge" or greedy == same


def test_the_entry_point_names_the_model(repository: Path) -> None:
    declared = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    entry = declared["project"]["entry-points"]["lm_eval.models"]["smidgen"]
    module, _, name = entry.partition(":")
    from importlib import import_module

    from lm_eval.api.registry import get_model

    assert getattr(import_module(module), name) is get_model("smidgen")


def test_what_a_task_asks_and_we_lack_is_refused(folder: Path) -> None:
    from lm_eval.api.instance import Instance

    from smidgen.evaluation.harness import SmidgenLM
    from smidgen.runtime.errors import SmidgenError

    model = SmidgenLM(str(folder))
    for arguments, words in (({"num_beams": 4}, "num_beams"), ({"max_gen_toks": 64}, "leaves no room")):
        request = Instance("generate_until", {}, ("One day", arguments), 0)
        with pytest.raises(SmidgenError, match=words):
            model.generate_until([request])
    with pytest.raises(SmidgenError, match="max_length = 65"):
        SmidgenLM(str(folder), max_length=65)


def test_its_command_line_knows_the_model(folder: Path, tasks: Path) -> None:
    """In a process of its own, as a user starts it."""
    command = [sys.executable, "-m", "smidgen.evaluation.harness", "--model", "smidgen", "--device", "cpu"]
    command += ["--model_args", f"pretrained={folder}", "--include_path", str(tasks), "--tasks", "local_choice"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "acc_norm" in result.stdout
