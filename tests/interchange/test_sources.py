"""Quantised folders, adapters and chat models through every format: the result computes, and ends, as its source."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.cli.main import main
from smidgen.config import Lora, Quantization
from smidgen.folders.adapter import name_base
from smidgen.folders.end_tokens import end_tokens, name_end_tokens
from smidgen.folders.run import Retention, RunFolder
from smidgen.interchange.importing import import_model
from smidgen.model.lora import adapter_tensors, add_lora
from smidgen.quantization import quantize
from smidgen.tokenization import train_tokenizer

SMALL = {"model.vocab_size": 300, "model.num_layers": 1, "model.max_seq_len": 64}
TEXTS = ["Once upon a time there was a cat. The cat sat."] * 8
IDS = torch.arange(20)[None]
SCHEMES = {
    "int8": ("elite-tiny", {"scheme": "int8", "head": "int8", "embedding": "int8"}),
    "int4": ("elite-tiny", {"scheme": "int4", "symmetric": False}),
    "fp8": ("elite-tiny", {"scheme": "fp8_tensor"}),
    "ternary": ("tinylm-gqa-tiny", {"scheme": "ternary"}),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return train_tokenizer("byte_bpe", TEXTS, 290)


@pytest.fixture(scope="module")
def folders(
    tokenizer: Any, randomized_decoder: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Path]:
    """`folders(name)`: a quantised folder of SCHEMES, or an adapter on "elite", "int8" or "ternary": `lora-elite`."""
    root = tmp_path_factory.mktemp("sources")

    def make(name: str) -> Path:
        folder = root / name
        if folder.exists():
            return folder
        if name.startswith("lora-"):
            base = make(name.removeprefix("lora-"))
            model = name_base(add_lora(smidgen.load(base), Lora(rank=4, alpha=8.0), seed=1), base)
            with torch.no_grad():
                for tensor in adapter_tensors(model).values():
                    tensor.copy_(torch.randn(tensor.shape, generator=torch.Generator().manual_seed(2)) * 0.1)
            smidgen.save(model, folder, tokenizer)
        elif name in SCHEMES:
            preset, scheme = SCHEMES[name]
            model = randomized_decoder(preset, SMALL)
            bits = 8 if model.config.rounds_activations else 16
            smidgen.save(quantize(model, Quantization(**scheme, activation_bits=bits)), folder, tokenizer)
        else:
            smidgen.save(randomized_decoder(f"{name}-tiny", SMALL), folder, tokenizer)
        return folder

    return make


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(IDS)[0]


def export(model: Path, format: str, out: Path, *more: str) -> None:
    assert main(["export", str(model), "--format", format, "--out", str(out), *more]) == 0


@pytest.mark.parametrize("name", ["int8", "int4", "fp8", "ternary", "lora-elite", "lora-int8"])
def test_gguf(name: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    source = folders(name)
    export(source, "gguf", tmp_path / "x.gguf", "--type", "f32")
    found = import_model(tmp_path / "x.gguf", tmp_path / "back")
    expected = logits(smidgen.load(source))
    assert (logits(found.model) - expected).norm() < 2e-5 * expected.norm()


@pytest.mark.parametrize("name", ["int8", "ternary"])
def test_a_quantised_folder_stays_as_it_is(name: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    export(folders(name), "hf", tmp_path / "out")
    for path in folders(name).iterdir():
        if path.name != "generation_config.json":
            assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    assert "quantized" in (tmp_path / "out" / "README.md").read_text()


def test_a_quantised_folder_takes_no_type(
    folders: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--format", "hf", "--dtype", "fp32", "--out", str(tmp_path / "out")]
    assert main(["export", str(folders("int8")), *options]) == 1
    assert "dtype fp32: a quantised model keeps its tensors" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_file_of_something_else_is_left_alone(
    folders: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    options = ["--format", "gguf", "--out", str(tmp_path / "letter.txt")]
    assert main(["export", str(folders("int8")), *options]) == 1
    assert "holds something else than a GGUF model" in capsys.readouterr().err
    assert (tmp_path / "letter.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["lora-elite", "lora-int8"])
def test_an_adapter_becomes_a_model_for_transformers(name: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export(folders(name), "hf", tmp_path / "out", "--dtype", "fp32")
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").eval()
    expected = logits(smidgen.load(folders(name)))
    with torch.no_grad():
        assert (loaded(IDS).logits[0] - expected).norm() < 2e-5 * expected.norm()


@pytest.mark.parametrize("name", ["lora-elite", "lora-int8"])
def test_an_adapter_is_quantised_with_its_base(name: str, folders: Callable[[str], Path], tmp_path: Path) -> None:
    assert main(["quantize", str(folders(name)), "--scheme", "int8", "--out", str(tmp_path / "out")]) == 0
    expected, found = logits(smidgen.load(folders(name))), logits(smidgen.load(tmp_path / "out"))
    assert (found - expected).norm() < 0.03 * expected.norm()
    assert smidgen.load_tokenizer(tmp_path / "out").chat_template == smidgen.load_tokenizer(folders(name)).chat_template


@pytest.mark.torture
@pytest.mark.parametrize("name", ["int4", "ternary", "lora-elite"])
def test_onnx(name: str, folders: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    export(folders(name), "onnx", tmp_path / "out", "--json")
    (graph,) = json.loads(capsys.readouterr().out)["graphs"]
    # 8-bit inputs: a difference of 1e-7 now and then becomes one of a code.
    assert graph["logits_difference"] < (2e-2 if name == "ternary" else 1e-4)
    assert "quantization_config" not in json.loads((tmp_path / "out" / "config.json").read_text())


def test_a_source_is_not_imported_over_itself(
    folders: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (folders("int8") / "model.safetensors").read_bytes()
    assert main(["import", str(folders("int8")), "--out", str(folders("int8"))]) == 1
    assert "is the source itself" in capsys.readouterr().err
    assert (folders("int8") / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("format", ["hf", "gguf", "onnx"])
def test_an_adapter_on_rounded_weights_is_refused(
    format: str, folders: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out" / "made"
    assert main(["export", str(folders("lora-tinylm-gqa")), "--format", format, "--out", str(out)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "is an adapter on a base that rounds" in line
    assert "smidgen merge --lora" in line
    assert not list(tmp_path.rglob("*"))


def test_the_run_of_an_adapter(folders: Callable[[str], Path], tokenizer: Any, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    model = smidgen.load(folders("lora-elite"))
    with run.locked():
        run.config_path.write_text("model: {}\n")
        run.write_checkpoint(5, lambda path: smidgen.save(model, path / "model", tokenizer), 2.5, Retention())
    export(tmp_path / "run", "hf", tmp_path / "out", "--dtype", "fp32")
    expected = logits(model)
    assert (logits(smidgen.load(tmp_path / "out")) - expected).norm() < 2e-5 * expected.norm()


@pytest.fixture
def chat(tokenizer: Any, randomized_decoder: Callable[..., Any], tmp_path: Path) -> Path:
    """A model whose answers end at <|im_end|> too, as tuning leaves it."""
    smidgen.save(randomized_decoder("elite-tiny", SMALL), tmp_path / "chat", tokenizer)
    name_end_tokens(tmp_path / "chat", tokenizer)
    ends = end_tokens(tmp_path / "chat", tokenizer)
    assert len(ends) == 2
    return tmp_path / "chat"


def test_ends_of_a_chat_model_there_and_back(chat: Path, tokenizer: Any, tmp_path: Path) -> None:
    ends = end_tokens(chat, tokenizer)
    for format, name in (("hf", "folder"), ("gguf", "file.gguf")):
        export(chat, format, tmp_path / name)
        import_model(tmp_path / name, tmp_path / f"{format}-back")
        back = smidgen.load_tokenizer(tmp_path / f"{format}-back")
        assert back.chat_template == tokenizer.chat_template
        assert end_tokens(tmp_path / f"{format}-back", back) == ends
    generation = json.loads((tmp_path / "folder" / "generation_config.json").read_text())
    assert generation["eos_token_id"] == list(ends)


def test_ends_of_a_chat_model_stay_in_what_is_made_of_it(
    chat: Path, tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = end_tokens(chat, tokenizer)
    made = {
        "quantized": ["quantize", str(chat), "--scheme", "int8"],
        "merged": ["merge", str(chat), str(chat)],
        "stacked": ["merge", "--method", "passthrough", "--slices", f"{chat}:0-1", f"{chat}:0-1"],
    }
    for name, command in made.items():
        assert main([*command, "--out", str(tmp_path / name)]) == 0, capsys.readouterr().err
        assert end_tokens(tmp_path / name, tokenizer) == ends


def test_a_folder_appears_with_its_settings_or_not_at_all(chat: Path, tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        assert (folder / "model.safetensors").is_file()
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space"):
        smidgen.save(smidgen.load(chat), tmp_path / "out", None, fail)
    assert [path.name for path in tmp_path.iterdir()] == ["chat"]
