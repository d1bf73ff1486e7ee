"""`export --format hf`: what transformers then loads, what the card says, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import smidgen
from smidgen.cli.main import main
from smidgen.config import Quantization
from smidgen.folders.run import Retention, RunFolder
from smidgen.interchange.hugging_face import export_hugging_face, push_to_hub
from smidgen.quantization import quantize
from smidgen.runtime.errors import InterchangeError
from smidgen.tokenization import train_tokenizer

SMALL = {"model.vocab_size": 300, "model.num_layers": 2}
TEXTS = ["Once upon a time there was a cat. The cat sat."] * 8


@pytest.fixture
def run(randomized_decoder: Callable[..., Any], tmp_path: Path) -> Path:
    """A run of one checkpoint with one validation."""
    tokenizer = train_tokenizer("byte_bpe", TEXTS, 290)
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.config_path.write_text("model: {}\n")
        records = [
            {"kind": "validation", "step": 5, "loss": 2.5, "perplexity": 12.18, "bits_per_byte": 1.25, "tokens": 1234},
            {"kind": "validation", "step": 6, "loss": 9.9},
        ]
        folder.metrics_path.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"kind')
        model = randomized_decoder("elite-tiny", SMALL)
        folder.write_checkpoint(5, lambda path: smidgen.save(model, path / "model", tokenizer), 2.5, Retention())
    return tmp_path / "run"


@pytest.mark.parametrize(
    ("dtype", "expected"), [("bf16", torch.bfloat16), ("fp32", torch.float32), ("fp16", torch.float16)]
)
def test_transformers_loads_the_type_of_choice(dtype: str, expected: torch.dtype, run: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export_hugging_face(run, tmp_path / "out", dtype)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").eval()
    assert loaded.dtype == expected
    ids = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            loaded.float()(ids).logits, smidgen.load(tmp_path / "out")(ids), rtol=1e-4, atol=1e-4
        )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("Once upon").input_ids == smidgen.load_tokenizer(run).encode("Once upon")
    assert tokenizer.chat_template == smidgen.load_tokenizer(run).chat_template
    assert loaded.generation_config.eos_token_id == smidgen.load_tokenizer(run).eos_id


def test_the_card_states_what_was_measured(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--format", "hf", "--out", str(tmp_path / "out"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    card = (tmp_path / "out" / "README.md").read_text()
    parameters = sum(parameter.numel() for parameter in smidgen.load(run).parameters())
    assert report["parameters"] == parameters
    for text in (f"{parameters:,}", "2.5000 nats", "12.18", "1.2500", "5 steps", "1,234 tokens", "LlamaForCausalLM"):
        assert text in card
    assert card.startswith("---\nlibrary_name: transformers\n")


def test_a_model_without_a_run_has_no_numbers(randomized_decoder: Callable[..., Any], tmp_path: Path) -> None:
    smidgen.save(randomized_decoder("elite-tiny", SMALL), tmp_path / "model")
    export_hugging_face(tmp_path / "model", tmp_path / "out")
    assert "No validation was recorded" in (tmp_path / "out" / "README.md").read_text()


def test_the_card_of_a_quantised_model_states_what_was_lost(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "story.txt").write_text(TEXTS[0] * 8)
    options = ["--scheme", "int4", "--asymmetric", "--out", str(tmp_path / "int4")]
    assert main(["quantize", str(run), *options, "--text", str(tmp_path / "story.txt"), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    export_hugging_face(tmp_path / "int4", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    for name in ("perplexity_before", "perplexity"):
        assert f"{figures[name]:.3f}" in card
    for text in (
        f"{figures['bits_per_byte']:.4f}",
        f"{figures['greedy_agreement']:.2%}",
        "`story.txt`",
        "quantized: int4 in groups of 32, with zero points; embedding bf16, head bf16",
        "CompressedTensorsConfig(dequantize=True)",
    ):
        assert text in card, card
    # Quantised anew without a measurement, the old figures are gone.
    assert main(["quantize", str(run), *options]) == 0
    export_hugging_face(tmp_path / "int4", tmp_path / "out")
    assert "No validation was recorded" in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(
    ("scheme", "vocabulary", "tied", "loads"),
    [
        ("int8", "bf16", True, True),
        ("int8", "int8", True, False),
        ("int8", "int8", False, True),
        ("int8", "int4", False, False),
        ("fp8_block", "bf16", True, True),
        ("fp8_block", "int4", True, False),
    ],
)
def test_the_card_names_transformers_where_it_computes_the_same(
    scheme: str, vocabulary: str, tied: bool, loads: bool, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    model = smidgen.build("elite-tiny", SMALL | {"model.tie_word_embeddings": tied})
    quantization = {"scheme": scheme, "head": vocabulary, "embedding": vocabulary}
    smidgen.save(quantize(model, Quantization.model_validate(quantization)), tmp_path / "model")
    export_hugging_face(tmp_path / "model", tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert ("library_name: transformers" in card) == loads
    assert ("smidgen generate out" in card) != loads
    ids = torch.arange(20)[None]
    expected = smidgen.load(tmp_path / "out")(ids)
    try:
        peer = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
        with torch.no_grad():
            found = torch.nn.Module.float(peer)(ids).logits
        is_right = bool((found - expected).norm() < 1e-3 * expected.norm())
    except (RuntimeError, AttributeError):
        is_right = False
    assert is_right == loads


def test_tinylm_carries_its_modelling_files(tmp_path: Path) -> None:
    export_hugging_face("tinylm-tiny", tmp_path / "out")
    assert (tmp_path / "out" / "modeling_smidgen.py").is_file()
    assert "trust_remote_code=True" in (tmp_path / "out" / "README.md").read_text()


def test_end_tokens_of_the_source_are_kept(run: Path, tmp_path: Path) -> None:
    model = run / "checkpoints" / "step-00000005" / "model"
    smidgen.save(smidgen.load(model), tmp_path / "model", smidgen.load_tokenizer(model))
    generation = {"eos_token_id": [0, 2], "temperature": 0.7, "do_sample": True}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(generation))
    export_hugging_face(tmp_path / "model", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text()) == {**generation, "bos_token_id": 0}


def test_float16_is_refused_where_it_overflows(tmp_path: Path) -> None:
    with pytest.raises(InterchangeError, match="use bf16 or fp32"):
        export_hugging_face("gemma3-tiny", tmp_path / "out", "fp16")
    assert not any(tmp_path.iterdir())


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    with pytest.raises(InterchangeError, match="choose another folder"):
        export_hugging_face("elite-tiny", tmp_path / "out")
    assert (tmp_path / "out" / "letter.txt").read_text() == "mine"


def test_a_model_is_not_exported_over_itself(run: Path, tmp_path: Path) -> None:
    model = run / "checkpoints" / "step-00000005" / "model"
    before = (model / "model.safetensors").read_bytes()
    for name in (run, model):
        with pytest.raises(InterchangeError, match="is the model itself"):
            export_hugging_face(name, run / "best" / "model")
    assert (model / "model.safetensors").read_bytes() == before


def test_flags_of_another_format_are_wrong_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["export", "elite-tiny", "--format", "hf", "--type", "q8_0", "--out", str(tmp_path / "out")])
    assert caught.value.code == 2
    assert "--type belongs to --format gguf" in capsys.readouterr().err


def test_pushing_uploads_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    calls: list[tuple[str, dict[str, Any]]] = []

    class Unreachable(Exception):
        """What httpx raises without a connection is no OSError."""

    class Api:
        def create_repo(self, repository: str, **options: Any) -> str:
            calls.append(("create", {"repository": repository, **options}))
            return f"hub/{repository}"

        def upload_folder(self, **options: Any) -> None:
            if options["repo_id"] == "me/full":
                raise OSError("no space")
            if options["repo_id"] == "me/far":
                raise Unreachable("Name or service\nnot known")
            calls.append(("upload", options))

    monkeypatch.setattr(hub, "HfApi", Api)
    assert push_to_hub(tmp_path, "me/model", private=True) == "hub/me/model"
    assert calls[0] == ("create", {"repository": "me/model", "private": True, "exist_ok": True})
    assert calls[1][1]["folder_path"] == str(tmp_path)
    with pytest.raises(InterchangeError, match="no space"):
        push_to_hub(tmp_path, "me/full")
    with pytest.raises(InterchangeError, match=r"me/far: Name or service not known; .* is complete"):
        push_to_hub(tmp_path, "me/far")
    with pytest.raises(InterchangeError, match="owner/name"):
        push_to_hub(tmp_path, "model")
    assert main(["export", "elite-tiny", "--format", "hf", "--push", "model", "--out", str(tmp_path / "out")]) == 1
    assert not (tmp_path / "out").exists()
