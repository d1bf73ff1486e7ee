"""Whatever ends the work, the same call goes on from there and gives the bytes of an undisturbed run."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from smidgen.config import TokenizerConfig
from smidgen.data import prepare
from smidgen.data.pipeline import journal, worker
from smidgen.data.pipeline.files import GrowingFile
from smidgen.runtime.errors import DataError

pytestmark = pytest.mark.usefixtures("small_chunks")

Contents = Callable[[Path], dict[str, bytes]]

DRIVER = """
import sys
from pathlib import Path
from smidgen.config import TokenizerConfig
from smidgen.config.cleaning import CleaningConfig, DuplicatesConfig
from smidgen.data import prepare
from smidgen.data.pipeline import journal
from smidgen.data.sources import files

def main():
    source, out, workers, weighted, trained = sys.argv[1:]
    files.CHUNK_BYTES = 2_000
    journal.CHECKPOINT_SECONDS = 0.0
    prepare(
        [source],
        out,
        TokenizerConfig(vocab_size=300) if trained == "1" else TokenizerConfig(path=trained),
        workers=int(workers),
        shard_tokens=3_000,
        weights={source: 1.0} if weighted == "1" else {},
        cleaning=CleaningConfig(duplicates=DuplicatesConfig(documents=True)) if trained == "1" else None,
    )

if __name__ == "__main__":
    main()
"""


def run(driver: Path, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen([sys.executable, driver, *arguments], env=environment, start_new_session=True)


def kill_often(
    tmp_path: Path, corpus: Path, contents: Contents, kills: int, workers: str, weighted: str, tokenizer: str
) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    began = time.monotonic()
    rest = (workers, weighted, tokenizer)
    assert run(driver, str(corpus), str(tmp_path / "expected"), *rest).wait() == 0
    duration = time.monotonic() - began
    expected = contents(tmp_path / "expected")
    out = tmp_path / "data"
    chance = random.Random(int(workers) + kills)
    for _ in range(kills):
        process = run(driver, str(corpus), str(out), *rest)
        try:
            process.wait(chance.uniform(0.3, 1.1) * duration)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if out.exists():
            assert contents(out) == expected
            shutil.rmtree(out)
    assert run(driver, str(corpus), str(out), *rest).wait() == 0
    assert contents(out) == expected
    assert not (tmp_path / ".data.partial").exists()


def test_kills_at_random_instants(
    tmp_path: Path, corpus: Path, contents: Contents, tokenizer_config: TokenizerConfig
) -> None:
    kill_often(tmp_path, corpus, contents, 3, "1", "0", str(tokenizer_config.path))


@pytest.mark.torture
@pytest.mark.parametrize(("workers", "weighted", "trained"), [("1", "0", "1"), ("2", "0", "0"), ("2", "1", "0")])
def test_fifty_kills_at_random_instants(
    tmp_path: Path,
    corpus: Path,
    contents: Contents,
    tokenizer_config: TokenizerConfig,
    workers: str,
    weighted: str,
    trained: str,
) -> None:
    corpus.write_text(corpus.read_text() * 4)
    tokenizer = trained if trained == "1" else str(tokenizer_config.path)
    kill_often(tmp_path, corpus, contents, 50, workers, weighted, tokenizer)


def test_workers_end_with_the_process_that_started_them(
    tmp_path: Path, corpus: Path, tokenizer_config: TokenizerConfig
) -> None:
    driver = tmp_path / "driver.py"
    driver.write_text(DRIVER)
    corpus.write_text(corpus.read_text() * 50)
    process = run(driver, str(corpus), str(tmp_path / "data"), "2", "0", str(tokenizer_config.path))
    group = os.getpgid(process.pid)
    deadline = time.monotonic() + 60
    while not (tmp_path / ".data.partial/train-00001.bin").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    while True:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def interrupted_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, BaseException], list[int]]:
    """Let the encoding of the n-th chunk of a run raise; gives the numbers of chunks encoded so far, a run each."""
    original = worker.Worker.encode

    def arrange(number: int, error: BaseException) -> list[int]:
        count = [0]
        monkeypatch.setattr(journal, "CHECKPOINT_SECONDS", 0.0 if number >= 0 else 60.0)

        def encode(self: worker.Worker, task: Any) -> Any:
            if count[0] == number:
                count[0] += 1
                raise error
            count[0] += 1
            return original(self, task)

        monkeypatch.setattr(worker.Worker, "encode", encode)
        return count

    return arrange


@pytest.mark.parametrize("weighted", [False, True])
def test_after_ctrl_c_the_work_goes_on_where_it_was(
    corpus: Path,
    tokenizer_config: TokenizerConfig,
    tmp_path: Path,
    contents: Contents,
    interrupted_at: Callable[[int, BaseException], list[int]],
    weighted: bool,
) -> None:
    options: dict[str, Any] = {"weights": {str(corpus): 1}} if weighted else {}
    expected = contents(prepare([corpus], tmp_path / "expected", tokenizer_config, **options).dataset.path)
    interrupted_at(12, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        prepare([corpus], tmp_path / "data", tokenizer_config, **options)
    assert not (tmp_path / "data").exists()
    total = interrupted_at(-1, KeyboardInterrupt())
    assert contents(prepare([corpus], tmp_path / "data", tokenizer_config, **options).dataset.path) == expected
    assert total[0] < corpus.stat().st_size // 1_000 + 1 - 8, "what was done before is not done again"
    assert not (tmp_path / ".data.partial").exists()


def test_what_was_left_of_another_job_is_not_used(
    corpus: Path,
    tokenizer_config: TokenizerConfig,
    tmp_path: Path,
    contents: Contents,
    interrupted_at: Callable[[int, BaseException], list[int]],
) -> None:
    interrupted_at(5, KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        prepare([corpus], tmp_path / "data", tokenizer_config)
    interrupted_at(-1, KeyboardInterrupt())
    corpus.write_text(corpus.read_text().replace("fox", "cat"))
    made = contents(prepare([corpus], tmp_path / "data", tokenizer_config).dataset.path)
    assert made == contents(prepare([corpus], tmp_path / "expected", tokenizer_config).dataset.path)


def test_a_full_disk_is_one_clear_message(
    corpus: Path,
    tokenizer_config: TokenizerConfig,
    tmp_path: Path,
    contents: Contents,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = contents(prepare([corpus], tmp_path / "expected", tokenizer_config).dataset.path)
    append = GrowingFile.append
    written = 0

    def full(self: GrowingFile, data: Any) -> None:
        nonlocal written
        written += len(data)
        if written > 5_000:
            append(self, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, "No space left on device")
        append(self, data)

    monkeypatch.setattr(GrowingFile, "append", full)
    with pytest.raises(DataError, match=r"the disk is full .*; free space and run the same command again"):
        prepare([corpus], tmp_path / "data", tokenizer_config)
    assert not (tmp_path / "data").exists()
    monkeypatch.setattr(GrowingFile, "append", append)
    assert contents(prepare([corpus], tmp_path / "data", tokenizer_config).dataset.path) == expected


def test_a_worker_that_dies_is_told(tmp_path: Path, tokenizer_config: TokenizerConfig) -> None:
    from smidgen.data.pipeline.pool import Pool
    from smidgen.data.pipeline.worker import Job, Task
    from smidgen.data.sources import Chunk

    job = Job((Suicide(),), None, 0, routing=None)  # type: ignore[arg-type]
    with Pool(job, 2) as pool, pytest.raises(DataError, match="a worker process died"):
        list(pool.map("survey", [Task(Chunk(0))] * 3))


class Suicide:
    """A source whose reading kills the process."""

    name = argument = "suicide"

    def read(self, chunk: Any) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_source_that_changes_meanwhile_is_told(
    corpus: Path, tokenizer_config: TokenizerConfig, tmp_path: Path
) -> None:
    def grow(stage: str, done: int, total: int) -> None:
        if done < 3_000:
            with corpus.open("a") as file:
                file.write('{"text": "more"}\n')

    with pytest.raises(DataError, match=r"corpus\.jsonl: changed while it was read; run again when nothing writes"):
        prepare([corpus], tmp_path / "data", tokenizer_config, progress=grow)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus.jsonl"]
