"""How fast `smidgen prepare` is beside the bare tokenizers and `datasets.map`, and how much memory it takes.

Text is made of a corpus by repeating its documents with a word of each replaced. All sides encode the same documents on
the same number of cores: tiktoken's `encode_ordinary_batch` and SentencePiece's `encode` on text that is in memory
already, which is as fast as tokens can come; `datasets.map` from the same JSON Lines to its own Arrow files; and ours
from JSON Lines to the dataset folder. Start-up is counted on our side and on that of `datasets`.

Memory is that of all processes together (proportional set size where the system tells it), sampled while it runs.

Example: python benchmarks/prepare.py --corpus tinystories.jsonl --gpt2 gpt2 --sentencepiece llama2 --json out.json
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import report

_OURS = """
if __name__ == "__main__":
    import sys
    from smidgen.config import TokenizerConfig
    from smidgen.data import prepare

    source, out, tokenizer, workers = sys.argv[1:]
    prepare([source], out, TokenizerConfig(path=tokenizer), workers=int(workers))
"""

_DATASETS = """
import sys
import datasets

datasets.disable_progress_bars()

def start(path):
    from smidgen.tokenization import load_tokenizer
    return load_tokenizer(path)

class Encode:
    def __init__(self, path):
        self.path = path
        self.tokenizer = None

    def __getstate__(self):
        return {"path": self.path, "tokenizer": None}

    def __call__(self, batch):
        if self.tokenizer is None:
            self.tokenizer = start(self.path)
        return {"ids": [self.tokenizer.encode(text) for text in batch["text"]]}

if __name__ == "__main__":
    source, out, tokenizer, workers = sys.argv[1:]
    data = datasets.load_dataset("json", data_files=source, split="train", cache_dir=out)
    data = data.map(Encode(tokenizer), batched=True, num_proc=int(workers), remove_columns=data.column_names)
    data.save_to_disk(out + "/saved")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", required=True, help="JSON Lines with a field 'text', or a text file")
    parser.add_argument("--gpt2", help="folder of a byte-level BPE tokenizer; trained on the corpus if left out")
    parser.add_argument("--sentencepiece", help="folder or file of a SentencePiece tokenizer; trained if left out")
    parser.add_argument("--megabytes", type=float, default=100, help="text for the rates (default: 100)")
    parser.add_argument("--sentencepiece-megabytes", type=float, default=20, help="it is several times slower")
    parser.add_argument(
        "--memory", type=float, nargs="*", default=[10, 100, 1000], help="megabytes to measure memory at"
    )
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", help="file for the results")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="smidgen-prepare-") as name:
        results = measure(args, Path(name))
    for entry in results:
        peer = (
            "" if entry["peer"] is None else f"   {entry['peer_name']} {entry['peer']:.4g}, ratio {entry['ratio']:.3f}"
        )
        print(f"{entry['case']:<44} {entry['metric']:<12} {entry['ours']:>10.4g} {entry['unit']}{peer}")
    if args.json:
        report.write(args.json, results)


def measure(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All results."""
    documents = read_corpus(Path(args.corpus))
    results = []
    tokenizers = {"byte_bpe": args.gpt2, "sentencepiece": args.sentencepiece}
    for kind, given in tokenizers.items():
        tokenizer = Path(given) if given else trained(kind, documents, folder)
        megabytes = args.megabytes if kind == "byte_bpe" else args.sentencepiece_megabytes
        source = folder / f"{kind}.jsonl"
        size = write_text(source, documents, int(megabytes * 1e6))
        case = f"{kind}, {megabytes:g} MB, {args.cores} cores"
        ours, raw, mapped = rates(args, kind, tokenizer, source, size, folder)
        name = "tiktoken" if kind == "byte_bpe" else "sentencepiece"
        results.append(report.result(case, "rate", "MB/s", ours, raw, f"{name}, text in memory"))
        if mapped is not None:
            results.append(report.result(case, "rate", "MB/s", ours, mapped, "datasets.map"))
        source.unlink()
    tokenizer = Path(args.gpt2) if args.gpt2 else folder / "byte_bpe"
    smallest: float | None = None
    for megabytes in sorted(args.memory):
        source = folder / "memory.jsonl"
        write_text(source, documents, int(megabytes * 1e6))
        out = folder / "memory"
        peak = peak_memory(command(_OURS, folder, source, out, tokenizer, args.cores)) / 1e6
        smallest = smallest or peak
        results.append(
            report.result(
                f"byte_bpe, {megabytes:g} MB, {args.cores} cores",
                "peak memory",
                "MB",
                peak,
                smallest,
                f"ours at {min(args.memory):g} MB",
            )
        )
        shutil.rmtree(out)
    return results


def rates(
    args: argparse.Namespace, kind: str, tokenizer: Path, source: Path, size: int, folder: Path
) -> tuple[float, float, float | None]:
    """MB of text a second: ours, the bare tokenizer's, and that of `datasets.map` if it is installed. Medians."""
    texts = [json.loads(line)["text"] for line in source.read_text(encoding="utf-8").splitlines()]
    bare = bare_encoder(kind, tokenizer, args.cores)
    bare(texts[:100])
    seconds: dict[str, list[float]] = {"ours": [], "bare": [], "map": []}
    has_datasets = subprocess.run([sys.executable, "-c", "import datasets"], capture_output=True).returncode == 0
    for _ in range(args.repeats):
        began = time.perf_counter()
        bare(texts)
        seconds["bare"].append(time.perf_counter() - began)
        scripts = {"ours": _OURS, "map": _DATASETS} if has_datasets else {"ours": _OURS}
        for name, script in scripts.items():
            out = folder / name
            began = time.perf_counter()
            subprocess.run(command(script, folder, source, out, tokenizer, args.cores), check=True)
            seconds[name].append(time.perf_counter() - began)
            shutil.rmtree(out)
    rate = {name: size / 1e6 / statistics.median(values) for name, values in seconds.items() if values}
    return rate["ours"], rate["bare"], rate.get("map")


def bare_encoder(kind: str, path: Path, cores: int) -> Callable[[Sequence[str]], object]:
    """The library's own way to encode many texts on all cores."""
    from smidgen.tokenization import load_tokenizer

    tokenizer: Any = load_tokenizer(path)
    tokenizer.encode("ready")
    if kind == "byte_bpe":
        engine = tokenizer._engine
        return lambda texts: engine.encode_ordinary_batch(list(texts), num_threads=cores)
    processor = tokenizer._processor
    return lambda texts: processor.encode(list(texts), num_threads=cores)


def read_corpus(path: Path) -> list[str]:
    """The documents of JSON Lines, or the paragraphs of a text."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        return [json.loads(line)["text"] for line in text.splitlines()]
    return [part for part in text.split("\n\n") if part.strip()]


def perturbed(documents: Sequence[str]) -> Iterator[str]:
    """Documents without end, one word of each replaced by another of the corpus: no two need be the same."""
    chance = random.Random(0)
    while True:
        words = chance.choice(documents).split(" ")
        words[chance.randrange(len(words))] = chance.choice(chance.choice(documents).split(" "))
        yield " ".join(words)


def write_text(path: Path, documents: Sequence[str], size: int) -> int:
    """Write at least `size` bytes of text as JSON Lines; returns how many there are."""
    written = 0
    with path.open("w", encoding="utf-8") as file:
        for text in perturbed(documents):
            file.write(json.dumps({"text": text}) + "\n")
            written += len(text.encode())
            if written >= size:
                return written
    raise AssertionError("the stream has no end")


def trained(kind: str, documents: Sequence[str], folder: Path) -> Path:
    """A tokenizer of the corpus."""
    from smidgen.tokenization import train_tokenizer

    train_tokenizer(kind, documents, 8192).save(folder / kind)
    return folder / kind


def command(script: str, folder: Path, source: Path, out: Path, tokenizer: Path, cores: int) -> list[str]:
    """The command that runs one side in a process of its own."""
    path = folder / f"script-{abs(hash(script))}.py"
    path.write_text(script)
    return [sys.executable, str(path), str(source), str(out), str(tokenizer), str(cores)]


def peak_memory(arguments: list[str]) -> int:
    """Most bytes that a command and its children held together."""
    process = subprocess.Popen(arguments)
    peak = 0
    while process.poll() is None:
        peak = max(peak, sum(memory_of(number) for number in family_of(process.pid)))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{arguments}: failed")
    return peak


def family_of(root: int) -> list[int]:
    """A process and its descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    family = [root]
    for number in family:
        family += parents.get(number, [])
    return family


def memory_of(process: int) -> int:
    """Bytes a process holds, pages shared with others by their share; 0 when it is gone."""
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


if __name__ == "__main__":
    main()
