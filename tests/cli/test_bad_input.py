"""Bad input to every command that reads a model or a file: one line that names it, exit status 1, nothing written."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import smidgen
from smidgen.cli.main import main
from smidgen.config import Quantization
from smidgen.interchange.gguf.export import export_gguf
from smidgen.quantization import quantize
from smidgen.tokenization import train_tokenizer

Edit = Callable[[Path], object]

FLAGS = ["--training.device=cpu", "--training.precision=fp32", "--training.max_steps=1", "--training.seq_len=32"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, save_one_layer: Callable[..., Path]) -> Path:
    """Good inputs: a model folder, the same quantised, GGUF, conversations, pairs, prepared text."""
    root = tmp_path_factory.mktemp("inputs")
    records = [{"prompt": f"How many cats, {n}?", "completion": f"{n} cats."} for n in range(30)]
    (root / "chats.jsonl").write_text("\n".join(map(json.dumps, records)))
    pairs = [{"prompt": f"Cats, {n}?", "chosen": f"{n} cats.", "rejected": "None."} for n in range(30)]
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (root / "text.txt").write_text("".join(f"How many cats are there? {n} cats.\n" for n in range(400)))
    tokenizer = train_tokenizer("byte_bpe", ["How many cats are there? Three cats."] * 5, 280)
    model = smidgen.load(save_one_layer(root / "model", tokenizer))
    smidgen.save(quantize(model, Quantization(scheme="int8")), root / "int8", tokenizer)
    export_gguf(model, root / "model.gguf", tokenizer, "f16")
    prepare = ["prepare", str(root / "text.txt"), "--split-documents", "line", "--out", str(root / "data")]
    assert main([*prepare, "--tokenizer.path", str(root / "model")]) == 0
    return root


def json_field(name: str, **fields: object) -> Edit:
    """Fields of a JSON file set, or removed where None."""

    def edit(folder: Path) -> None:
        content = {**json.loads((folder / name).read_text()), **fields}
        (folder / name).write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return edit


def without(*names: str) -> Edit:
    return lambda folder: [(folder / name).unlink() for name in names]


def cut(name: str, share: float = 0.5) -> Edit:
    return lambda folder: _write(folder / name, (data := (folder / name).read_bytes())[: int(len(data) * share)])


def begins(name: str, data: bytes) -> Edit:
    """The first bytes of a file replaced."""
    return lambda folder: _write(folder / name, data + (folder / name).read_bytes()[len(data) :])


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


WEIGHTS = "model.safetensors"
NO_TOKENIZER = without("tokenizer.json", "tokenizer_config.json")
DAMAGED: dict[str, tuple[Edit, str]] = {
    "an architecture of others": (json_field("config.json", model_type="bert"), 'model_type = "bert"'),
    "no architecture": (json_field("config.json", model_type=None), "model_type = null: this field is required"),
    "a size of another kind": (json_field("config.json", hidden_size="wide"), 'hidden_size = "wide": a whole number'),
    "a size that is not the weights'": (
        json_field("config.json", intermediate_size=96),
        r"intermediate_size|shape|holds \[",
    ),
    "a size beyond memory": (json_field("config.json", hidden_size=1 << 40, intermediate_size=1 << 40), "hidden_size"),
    "a cut configuration": (cut("config.json"), "config.json: cannot be read as JSON"),
    "cut weights": (cut(WEIGHTS), WEIGHTS),
    "an oversized header": (begins(WEIGHTS, struct.pack("<Q", 1 << 40)), WEIGHTS),
    "a header of nothing": (begins(WEIGHTS, struct.pack("<Q", 0)), WEIGHTS),
    "no weights": (without(WEIGHTS), "model.safetensors"),
    "empty weights": (cut(WEIGHTS, 0), WEIGHTS),
}
"""Model folders that no command can use: what is done to a good one, and what the line must say."""

MODEL_COMMANDS: dict[str, list[str]] = {
    "generate": ["generate", "MODEL", "cats"],
    "generate on the edge engine": ["generate", "--engine", "edge", "MODEL", "cats"],
    "chat": ["chat", "MODEL"],
    "serve": ["serve", "MODEL", "--port", "0"],
    "bench": ["bench", "MODEL"],
    "evaluate": ["evaluate", "MODEL", "--text", "ROOT/text.txt"],
    "quantize": ["quantize", "MODEL", "--scheme", "int8", "--out", "OUT"],
    "merge": ["merge", "MODEL", "ROOT/model", "--out", "OUT"],
    "import": ["import", "MODEL", "--out", "OUT"],
    "export hf": ["export", "MODEL", "--format", "hf", "--out", "OUT"],
    "export gguf": ["export", "MODEL", "--format", "gguf", "--out", "OUT/x.gguf"],
    "export onnx": ["export", "MODEL", "--format", "onnx", "--out", "OUT"],
    "sft": ["sft", "MODEL", "--data", "ROOT/chats.jsonl", "--run", "OUT", *FLAGS],
    "sft with LoRA": ["sft", "MODEL", "--data", "ROOT/chats.jsonl", "--run", "OUT", "--tuning.lora.rank=2", *FLAGS],
    "dpo": ["dpo", "MODEL", "--data", "ROOT/pairs.jsonl", "--run", "OUT", *FLAGS],
    "pretrain": ["pretrain", "MODEL", "--data.path", "ROOT/data", "--run", "OUT", *FLAGS],
    "distill": ["distill", "ROOT/model", "--teacher", "MODEL", "--data.path", "ROOT/data", "--run", "OUT", *FLAGS],
}


def refused(words: list[str], model: Path, root: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a command that fails, and leaves nothing at `out` or beside it (of a run: no model)."""
    places = {"MODEL": str(model), "ROOT": str(root), "OUT": str(out)}
    for name, place in places.items():
        words = [word.replace(name, place) for word in words]
    out.parent.mkdir(exist_ok=True)
    capsys.readouterr()
    assert main(words) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("smidgen: ")
    assert "internal error" not in lines[0]
    left = list(out.parent.rglob("*"))
    if "--run" in words:
        # A run keeps its prepared data and its configuration, and goes on with them; it has no checkpoint and no model.
        left = [path for path in left if path.name == "model" or path.parent.name == "checkpoints"]
    assert not left
    return lines[0]


@pytest.mark.parametrize("command", MODEL_COMMANDS)
@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_models(
    damage: str, command: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, expected = DAMAGED[damage]
    shutil.copytree(root / "model", tmp_path / "damaged")
    edit(tmp_path / "damaged")
    line = refused(MODEL_COMMANDS[command], tmp_path / "damaged", root, tmp_path / "out" / "made", capsys)
    assert re.search(expected, line), line


NEEDS_A_TOKENIZER = ["generate", "chat", "serve", "evaluate", "export gguf", "export onnx", "sft", "dpo"]


@pytest.mark.parametrize("command", NEEDS_A_TOKENIZER)
def test_a_missing_tokenizer(command: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(root / "model", tmp_path / "bare")
    NO_TOKENIZER(tmp_path / "bare")
    assert "tokenizer" in refused(MODEL_COMMANDS[command], tmp_path / "bare", root, tmp_path / "out" / "made", capsys)


@pytest.mark.parametrize("command", NEEDS_A_TOKENIZER)
def test_a_cut_tokenizer(command: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(root / "model", tmp_path / "cut")
    cut("tokenizer.json")(tmp_path / "cut")
    line = refused(MODEL_COMMANDS[command], tmp_path / "cut", root, tmp_path / "out" / "made", capsys)
    assert "tokenizer.json" in line


@pytest.mark.parametrize("command", ["sft", "dpo", "pretrain"])
def test_a_quantised_model_is_not_trained(
    command: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refused(MODEL_COMMANDS[command], root / "int8", root, tmp_path / "out" / "made", capsys)
    assert "model.quantization.scheme = int8: its integers are not trained" in line


def _hostile(offset: int, value: int) -> Edit:
    return lambda path: _write(
        path, (data := path.read_bytes())[:offset] + struct.pack("<Q", value) + data[offset + 8 :]
    )


GGUF: dict[str, tuple[Edit, str]] = {
    "text": (lambda path: path.write_text("once upon a time, a long time ago"), "is no GGUF file"),
    "empty": (lambda path: _write(path, b""), "is no GGUF file"),
    "cut in its header": (lambda path: _write(path, path.read_bytes()[:400]), "copy the file again|more than"),
    "cut in its tensors": (lambda path: _write(path, path.read_bytes()[:-500]), "cut short; copy the file again"),
    "too many tensors": (_hostile(8, 1 << 62), "declares 4611686018427387904 tensors"),
    "too many keys": (_hostile(16, 1 << 62), "declares 4611686018427387904 keys"),
    "a key longer than the file": (_hostile(24, 1 << 62), "a key is 4611686018427387904 bytes long"),
    "another architecture": (
        lambda path: _write(path, path.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0mamba", 1)),
        "general.architecture = 'mamba': Smidgen reads",
    ),
}


@pytest.mark.parametrize("damage", GGUF)
def test_hostile_gguf(damage: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit, expected = GGUF[damage]
    path = tmp_path / "x.gguf"
    shutil.copyfile(root / "model.gguf", path)
    edit(path)
    line = refused(["import", "MODEL", "--out", "OUT"], path, root, tmp_path / "out" / "made", capsys)
    assert re.search(expected, line), line


@pytest.mark.parametrize("command", ["generate", "chat", "export gguf", "quantize"])
def test_what_is_no_model(command: str, root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, out = MODEL_COMMANDS[command], tmp_path / "out" / "made"
    assert "name a model" in refused(words, root / "data", root, out, capsys)
    assert "is a file" in refused(words, root / "model.gguf", root, out, capsys)
    assert "neither a preset nor a folder" in refused(words, tmp_path / "nowhere", root, out, capsys)


def test_a_prompt_beyond_the_context(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refused(["generate", "MODEL", "cats " * 200], root / "model", root, tmp_path / "out" / "made", capsys)
    assert "context" in line
