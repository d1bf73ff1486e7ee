"""Small trained models of every family, other programs in environments of their own, and the table of results.

`make test-interop` builds the environments and names their Pythons in SMIDGEN_LLAMA_CPP, SMIDGEN_TRANSFORMERS_4 and
SMIDGEN_GENAI, and the folder of transformers.js in SMIDGEN_TRANSFORMERS_JS.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import smidgen
from smidgen.config import load_config
from smidgen.data.storyworld import generate
from smidgen.model import Decoder
from smidgen.tokenization import BaseTokenizer, train_tokenizer

sys.path.insert(0, str(Path(__file__).parent))
from results import Cell, write_table

HERE = Path(__file__).parent
SENTENCES = [
    "Once upon a time a small cat sat on a warm stone and slept.",
    "The dog ran over the green hill; it found 12 red balls!",
    "Numbers: 1, 2, 3, 4, 5 and so on. It's what we'll count.",
]
FAMILIES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "elite": ("elite-tiny", "byte_bpe", {"model.num_layers": 2}),
    "rscalm": ("rscalm-tiny", "sentencepiece", {"model.num_layers": 2}),
    "gemma3": ("gemma3-tiny", "byte_bpe", {"model.attention.sliding_window": 16}),
    "tilda": ("tilda-tiny", "byte_bpe", {"model.num_layers": 2}),
    "tinylm-gqa": (
        "tinylm-gqa-tiny",
        "sentencepiece",
        {
            "model.num_layers": 2,
            "model.hidden_size": 256,
            "model.attention.head_dim": 64,
            "model.feed_forward.intermediate_size": 512,
        },
    ),
    "tinylm": ("tinylm-tiny", "byte_bpe", {"model.num_layers": 2}),
}


class Table:
    """Where a test puts what it found, for `benchmarks/results/formats.*`; that of a test that fails is left out."""

    def __init__(self, item: pytest.Item) -> None:
        self._item = item

    def add(
        self,
        family: str,
        format: str,
        program: str,
        logits_difference: float | None,
        token_agreement: float | None,
        continuations: str,
    ) -> None:
        """logits_difference: relative Frobenius norm, against the model in float32, None where the program shows none;
        token_agreement: share of strings with the same ids, None where the program takes ids; continuations: greedy
        ones that are the same, end included, of how many."""
        cell = Cell(family, format, program, None, logits_difference, token_agreement, continuations)
        self._item.user_properties.append(("cell", asdict(cell)))

    def refused(self, family: str, format: str, program: str, reason: object) -> None:
        """A format that this family is not written in."""
        self._item.user_properties.append(("cell", asdict(Cell(family, format, program, str(reason)))))


@pytest.fixture
def table(request: pytest.FixtureRequest) -> Table:
    return Table(request.node)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With --dist loadgroup the tests of a family share a process, and so its model is trained once."""
    for item in items:
        family = item.callspec.params.get("family") if hasattr(item, "callspec") else None
        if family is not None:
            item.add_marker(pytest.mark.xdist_group(family))


_cells: list[Cell] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and report.passed:
        _cells.extend(Cell(**value) for name, value in report.user_properties if name == "cell")


def pytest_sessionfinish(session: pytest.Session) -> None:
    folder = os.environ.get("SMIDGEN_INTEROP_RESULTS")
    if _cells and folder and not hasattr(session.config, "workerinput"):
        write_table(_cells, Path(folder))


@dataclass
class Model:
    """A trained model, in its folder and in memory."""

    family: str
    folder: Path
    decoder: Decoder
    tokenizer: BaseTokenizer

    @property
    def probe(self) -> list[int]:
        """Ids that reach beyond a sliding window."""
        draw = random.Random(0)
        return [draw.randrange(self.tokenizer.vocab_size) for _ in range(64)]

    @property
    def prompts(self) -> list[list[int]]:
        return [self.tokenizer.encode(sentence[:12]) for sentence in SENTENCES]

    @torch.no_grad()
    def logits(self) -> torch.Tensor:
        return self.decoder(torch.tensor([self.probe]))[0]

    @torch.no_grad()
    def continuation(self, ids: list[int], longest: int) -> list[int]:
        """Greedy, the end token included."""
        found: list[int] = []
        while len(found) < longest and self.tokenizer.eos_id not in found:
            found.append(int(self.decoder(torch.tensor([ids + found]))[0, -1].argmax()))
        return found


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    """`models(family)`: a model that has learned three sentences, trained once a session."""
    made: dict[str, Model] = {}

    def model(family: str) -> Model:
        if family not in made:
            made[family] = _trained(family, tmp_path_factory.mktemp("models") / family)
        return made[family]

    return model


def _trained(family: str, folder: Path) -> Model:
    preset, kind, overrides = FAMILIES[family]
    corpus = SENTENCES + [document.text for document in islice(generate(seed=0), 60)]
    tokenizer = train_tokenizer(kind, corpus, 512)
    settings = {"model.vocab_size": tokenizer.vocab_size, **overrides}
    decoder = Decoder(load_config(preset, settings).model).initialize(0)
    assert tokenizer.eos_id is not None
    rows = [[*tokenizer.encode(sentence), tokenizer.eos_id] for sentence in SENTENCES]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.eos_id] * (longest - len(row)) for row in rows])
    targets = torch.tensor([row[1:] + [-100] * (longest - len(row) + 1) for row in rows])
    optimizer = torch.optim.AdamW(decoder.parameters(), 3e-3, betas=(0.9, 0.95), weight_decay=0.0)
    decoder.train()
    for _ in range(120):
        loss = F.cross_entropy(decoder(ids).flatten(0, 1), targets.flatten(), ignore_index=-100)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3, f"{family} did not learn three sentences"
    smidgen.save(decoder.eval(), folder, tokenizer)
    return Model(family, folder, smidgen.load(folder), tokenizer)


def _ask(program: str, worker: str, request: dict[str, Any]) -> dict[str, Any]:
    result = subprocess.run(
        [program, str(HERE / worker)], input=json.dumps(request), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    answer: dict[str, Any] = json.loads(result.stdout[result.stdout.index("{") :])
    return answer


@pytest.fixture(scope="session")
def llama_cpp() -> Callable[..., dict[str, Any]]:
    """`llama_cpp(model=…, texts=…)`: an answer of llama_cpp_worker.py."""
    python = os.environ.get("SMIDGEN_LLAMA_CPP")
    if not python:
        pytest.skip("SMIDGEN_LLAMA_CPP names no Python with llama-cpp-python; make test-interop does")
    return lambda **request: _ask(python, "llama_cpp_worker.py", request)


@pytest.fixture(scope="session")
def genai() -> Callable[..., dict[str, Any]]:
    """`genai(model=…, texts=…)`: an answer of genai_worker.py."""
    python = os.environ.get("SMIDGEN_GENAI")
    if not python:
        pytest.skip("SMIDGEN_GENAI names no Python with onnxruntime-genai; make test-interop does")
    return lambda **request: _ask(python, "genai_worker.py", request)


@pytest.fixture(scope="session")
def transformers_js() -> Callable[..., dict[str, Any]]:
    """`transformers_js(model=…, precisions=…, texts=…)`: an answer of transformers_js_worker.mjs."""
    folder, node = os.environ.get("SMIDGEN_TRANSFORMERS_JS"), shutil.which("node")
    if not folder or node is None or not (Path(folder) / "node_modules").is_dir():
        pytest.skip("SMIDGEN_TRANSFORMERS_JS names no folder with transformers.js, or Node is missing")
    return lambda **request: _ask(node, "transformers_js_worker.mjs", {"package": folder, **request})


@pytest.fixture(scope="session", params=["4", "5"])
def transformers(request: pytest.FixtureRequest) -> Callable[..., dict[str, Any]]:
    """`transformers(model=…, …)`: an answer of transformers_worker.py, in an older and in the pinned version."""
    python = sys.executable if request.param == "5" else os.environ.get("SMIDGEN_TRANSFORMERS_4")
    if not python:
        pytest.skip("SMIDGEN_TRANSFORMERS_4 names no Python with transformers 4; make test-interop does")
    return lambda **question: _ask(python, "transformers_worker.py", question)


@pytest.fixture(scope="session")
def strings() -> list[str]:
    """10,000 strings: half random Unicode, half pieces of real text where SMIDGEN_CORPORA names some."""
    draw = random.Random(7)
    ranges = [
        (0x20, 0x7E),
        (0xA0, 0x24F),
        (0x370, 0x5FF),
        (0x900, 0xDFF),
        (0x2000, 0x2BFF),
        (0x3040, 0x30FF),
        (0x4E00, 0x9FFF),
        (0xAC00, 0xD7A3),
        (0x1F300, 0x1F64F),
        (0x9, 0xD),
    ]
    found = []
    while len(found) < 5_000:
        characters = []
        for _ in range(draw.randint(1, 24)):
            first, last = draw.choice(ranges) if draw.random() < 0.7 else (0x20, 0x7E)
            characters.append(chr(draw.randint(first, last)))
        found.append("".join(characters))
    text = _real_text()
    for _ in range(5_000):
        start = draw.randrange(len(text) - 200)
        found.append(text[start : start + draw.randint(1, 120)])
    return found


def _real_text() -> str:
    folder = os.environ.get("SMIDGEN_CORPORA")
    if folder:
        return (Path(folder) / "tinyshakespeare.txt").read_text(encoding="utf-8")
    return "\n".join(document.text for document in islice(generate(seed=1), 2_000))
