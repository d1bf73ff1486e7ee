"""Valid files to damage, and the judge of what a reader does with damaged ones."""

from __future__ import annotations

import random
import resource
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import smidgen
from smidgen.interchange.gguf.export import export_gguf
from smidgen.runtime.errors import SmidgenError
from smidgen.tokenization import train_tokenizer

sys.path.insert(0, str(Path(__file__).parent))
import mutations

TEXTS = ["Once upon a time there was a cat.", "The cat sat; the dog ran 123 times!", "naïve café über ☃"] * 4
TINY = {
    "model.vocab_size": 330,
    "model.num_layers": 1,
    "model.hidden_size": 16,
    "model.attention.head_dim": 8,
    "model.attention.num_heads": 2,
    "model.attention.num_kv_heads": 1,
    "model.feed_forward.intermediate_size": 16,
}
SECOND = 1.0
CONSTANT = 8 << 20
"""Memory that a reader takes for any file: imported modules, compiled patterns."""


@pytest.fixture(scope="session")
def valid(randomized_decoder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one valid file of every kind, in folders as readers find them."""
    root = tmp_path_factory.mktemp("valid")
    decoder = randomized_decoder("elite-tiny", TINY)
    byte_bpe, pieces = train_tokenizer("byte_bpe", TEXTS, 290), train_tokenizer("sentencepiece", TEXTS, 330)
    smidgen.save(decoder, root / "model", byte_bpe)
    (root / "model" / "smidgen.yaml").unlink()
    pieces.save(root / "pieces")
    export_gguf(decoder, root / "byte_bpe.gguf", byte_bpe, "f32")
    export_gguf(decoder, root / "pieces.gguf", pieces, "f16")
    return root


class Judge:
    """Reads damaged files and keeps count."""

    def __init__(self) -> None:
        self.past_header = self.total = 0
        self.slowest = 0.0

    def read(self, reader: Callable[[], Any], size: int, where: str) -> None:
        """A reader may succeed, or raise a SmidgenError of one line; within a second and twice the file's memory."""
        tracemalloc.start()
        start = time.process_time()
        try:
            reader()
        except SmidgenError as error:
            if "\n" in str(error):
                raise AssertionError(f"{where}: {error}") from error
        except Exception as error:
            raise AssertionError(f"{where}: {type(error).__name__}: {error}") from error
        finally:
            seconds = time.process_time() - start
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        self.slowest = max(self.slowest, seconds)
        assert seconds < SECOND, f"{where}: {seconds:.2f} s"
        assert peak < 2 * size + CONSTANT, f"{where}: {peak} bytes for a file of {size}"


@pytest.fixture
def judge() -> Judge:
    return Judge()


@pytest.fixture
def small_address_space() -> Any:
    """Allocations that a hostile size would ask for fail at once instead of filling the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 << 30, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture
def draw() -> Callable[[int], random.Random]:
    return random.Random


@pytest.fixture(scope="session")
def damage() -> Any:
    return mutations
