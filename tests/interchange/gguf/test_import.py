"""GGUF in: what was written comes back, and damaged or hostile files are refused in one line."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

import smidgen
from smidgen.cli.main import main
from smidgen.interchange.gguf.export import export_gguf
from smidgen.interchange.gguf.importing import import_gguf, read_config
from smidgen.interchange.gguf.reader import _BLOCKS, open_gguf
from smidgen.interchange.gguf.vocabulary_import import tokenizer_of
from smidgen.interchange.importing import import_model
from smidgen.model import Decoder
from smidgen.runtime.errors import InterchangeError, SmidgenError
from smidgen.tokenization import BaseTokenizer, load_tokenizer, train_tokenizer

TEXTS = ["Once upon a time there was a cat.", "The cat sat; the dog ran 123 times!", "naïve café über ☃"] * 4
PROBES = [*TEXTS[:3], "", " two  spaces", "\n\ttabs\n\n", "日本 ☃ \U0001f600", "It's we'll", "<|im_start|>", "a" * 50]


def test_a_model_comes_back(decoder: Decoder, tmp_path: Path) -> None:
    export_gguf(decoder, tmp_path / "model.gguf", None, "f32")
    again = import_gguf(tmp_path / "model.gguf").model
    ids = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(0))
    if decoder.config.linear.kind == "ternary":
        # Activations rounded to 8 bits turn a difference of 1e-7 into one of a code: compared in float64.
        decoder, again = decoder.double(), again.double()
    with torch.no_grad():
        torch.testing.assert_close(again(ids), decoder(ids), rtol=1e-4, atol=1e-4)


def test_the_configuration_comes_back(decoder: Decoder, tmp_path: Path) -> None:
    export_gguf(decoder, tmp_path / "model.gguf", None, "f32")
    ours, again = decoder.config, import_gguf(tmp_path / "model.gguf").model.config
    for name in ("attention", "layer_types", "norm", "linear", "tie_word_embeddings", "max_seq_len", "hidden_size"):
        before, after = getattr(ours, name), getattr(again, name)
        if name == "norm":
            assert after.eps == pytest.approx(before.eps)
            before, after = (before.kind, before.placement), (after.kind, after.placement)
        elif name == "attention":
            ignored = {"yarn", "query_pre_attn_scalar", "cache"}
            before, after = before.model_dump(exclude=ignored), after.model_dump(exclude=ignored)
        assert after == before, name


def test_yarn_comes_back(randomized_decoder: Callable[..., Decoder], tmp_path: Path) -> None:
    yarn = {"original_max_seq_len": 64, "factor": 4.0, "mscale": 0.7}
    decoder = randomized_decoder(
        "tilda-tiny",
        {"model.vocab_size": 64, "model.num_layers": 1, **{f"model.attention.yarn.{k}": v for k, v in yarn.items()}},
    )
    export_gguf(decoder, tmp_path / "model.gguf", None, "f32")
    again = import_gguf(tmp_path / "model.gguf").model.config.attention
    assert again.yarn.model_dump() == pytest.approx(decoder.config.attention.yarn.model_dump())


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece"])
def test_a_tokenizer_comes_back(
    kind: str, randomized_decoder: Callable[..., Decoder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tokenizer = train_tokenizer(kind, TEXTS, 350)
    decoder = randomized_decoder("elite-tiny", {"model.vocab_size": 360, "model.num_layers": 1})
    smidgen.save(decoder, tmp_path / "model", tokenizer)
    arguments = ["export", str(tmp_path / "model"), "--format", "gguf", "--type", "f32", "--out"]
    assert main([*arguments, str(tmp_path / "model.gguf")]) == 0
    assert "llama" in capsys.readouterr().out
    assert main(["import", str(tmp_path / "model.gguf"), "--out", str(tmp_path / "again")]) == 0
    again = smidgen.load_tokenizer(tmp_path / "again")
    assert isinstance(again, BaseTokenizer)
    assert again.kind == kind
    for text in PROBES:
        for special in (False, True):
            assert again.encode(text, special=special) == tokenizer.encode(text, special=special)
        assert again.decode(again.encode(text)) == text
    names = ("bos_id", "eos_id", "pad_id", "chat_template", "adds_bos")
    assert [getattr(again, name) for name in names] == [getattr(tokenizer, name) for name in names]
    assert smidgen.load(tmp_path / "again").config.max_seq_len == decoder.config.max_seq_len


def test_real_tokenizers_come_back(corpora: Path, randomized_decoder: Callable[..., Decoder], tmp_path: Path) -> None:
    text = (corpora / "tinyshakespeare.txt").read_text()[:20_000]
    for name in ("gpt2", "llama2"):
        tokenizer = load_tokenizer(corpora / name)
        decoder = randomized_decoder(
            "elite-tiny",
            {
                "model.vocab_size": tokenizer.vocab_size,
                "model.num_layers": 1,
                "model.hidden_size": 32,
                "model.attention.head_dim": 8,
                "model.feed_forward.intermediate_size": 32,
            },
        )
        export_gguf(decoder, tmp_path / f"{name}.gguf", tokenizer, "f16")
        again = import_gguf(tmp_path / f"{name}.gguf").tokenizer
        assert again is not None
        for sample in (text, *PROBES):
            assert again.encode(sample) == tokenizer.encode(sample)


@pytest.mark.parametrize("kind", _BLOCKS)
def test_every_type_is_read_as_the_package_reads_it(kind: str, tmp_path: Path) -> None:
    number, weights, size = _BLOCKS[kind]
    own = gguf.GGMLQuantizationType[kind]
    assert (own.value, gguf.GGML_QUANT_SIZES[own]) == (number, (weights, size))
    raw = np.random.default_rng(0).integers(0, 60, (4, 2 * size if weights > 1 else 8 * size), np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama")
    writer.add_tensor("x", raw, raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensor = gguf.GGUFReader(tmp_path / "model.gguf").tensors[0]
    with open_gguf(tmp_path / "model.gguf") as file:
        np.testing.assert_array_equal(file.read("x"), gguf.dequantize(tensor.data, own))


@pytest.fixture
def small(randomized_decoder: Callable[..., Decoder], tmp_path: Path) -> Path:
    tokenizer = train_tokenizer("byte_bpe", TEXTS, 280)
    decoder = randomized_decoder(
        "elite-tiny",
        {
            "model.vocab_size": 280,
            "model.num_layers": 1,
            "model.hidden_size": 32,
            "model.attention.head_dim": 8,
            "model.feed_forward.intermediate_size": 32,
        },
    )
    export_gguf(decoder, tmp_path / "small.gguf", tokenizer, "f32")
    return tmp_path / "small.gguf"


def _replaced(data: bytes, key: str, old: bytes, new: bytes) -> bytes:
    start = data.index(key.encode()) + len(key)
    place = data.index(old, start)
    assert place < start + 64
    return data[:place] + new + data[place + len(old) :]


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "no magic": (lambda d: b"GGML" + d[4:], "is no GGUF file"),
    "empty": (lambda d: b"", "is no GGUF file"),
    "old version": (lambda d: d[:4] + struct.pack("<I", 1) + d[8:], "version 1"),
    "other byte order": (lambda d: d[:4] + struct.pack(">I", 3) + d[8:], "bytes are in another order"),
    "many tensors": (lambda d: d[:8] + struct.pack("<Q", 1 << 60) + d[16:], "more than the file can hold"),
    "many keys": (lambda d: d[:16] + struct.pack("<Q", 1 << 40) + d[24:], "more than the file can hold"),
    "cut in the header": (lambda d: d[:200], "."),
    "cut in the tensors": (lambda d: d[:-100], "cut short"),
    "long key": (lambda d: d[:24] + struct.pack("<Q", 1 << 62) + d[32:], "bytes long"),
    "long array": (
        lambda d: _replaced(d, "tokenizer.ggml.tokens", struct.pack("<Q", 280), struct.pack("<Q", 1 << 50)),
        "more than the file can hold",
    ),
    "no layers": (
        lambda d: _replaced(d, "llama.block_count", struct.pack("<I", 1), struct.pack("<I", 1 << 31)),
        "block_count",
    ),
    "no heads": (
        lambda d: _replaced(d, "llama.attention.head_count", struct.pack("<II", 4, 4), struct.pack("<II", 4, 0)),
        "head_count",
    ),
    "another architecture": (lambda d: d.replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0falco"), "'falco'"),
    "huge tensor": (
        lambda d: _replaced(d, "blk.0.attn_norm.weight", struct.pack("<Q", 32), struct.pack("<Q", 1 << 61)),
        "more than the file can hold",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_damaged_files_are_refused_in_one_line(name: str, small: Path) -> None:
    damage, message = HOSTILE[name]
    small.write_bytes(damage(small.read_bytes()))
    with pytest.raises(SmidgenError, match=message) as caught:
        import_gguf(small)
    assert "\n" not in str(caught.value)
    assert str(small) in str(caught.value)


def test_overlapping_tensors_are_refused(small: Path) -> None:
    data = small.read_bytes()
    reader = gguf.GGUFReader(small)
    second = sorted(reader.tensors, key=lambda tensor: tensor.data_offset)[1]
    end = second.field.parts[-1]
    offset = struct.pack("<Q", int(end[0]))
    place = data.index(second.name.encode())
    place = data.index(offset, place)
    small.write_bytes(data[:place] + struct.pack("<Q", 0) + data[place + 8 :])
    with pytest.raises(InterchangeError, match="overlap"):
        import_gguf(small)


def test_a_model_larger_than_memory_is_refused_with_the_sum(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smidgen.folders.memory.available_memory", lambda: 1000)
    with pytest.raises(SmidgenError, match=r"weights of 4 bytes take .* GiB"):
        import_gguf(small)


def test_what_is_no_source_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InterchangeError, match="no such file"):
        import_model(tmp_path / "nothing.gguf", tmp_path / "out")


def test_import_over_a_foreign_folder_is_refused(small: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("mine")
    with pytest.raises(SmidgenError, match="choose another folder"):
        import_model(small, tmp_path / "out")


def test_any_error_of_the_command_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + bytes(100))
    arguments: list[Any] = ["import", str(path), "--out", str(tmp_path / "out")]
    assert main(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1


def _vocabulary_file(path: Path, **changes: Any) -> Path:
    """A file of a tokenizer alone; `changes`: what to write in the place of a right value."""
    right = {
        "model": "llama",
        "tokens": ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "a", "▁"],
        "token_type": [2, 3, 3, *[6] * 256, 1, 1],
        "scores": [0.0] * 261,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
        **changes,
    }
    writer = gguf.GGUFWriter(path, "llama")
    adders = {int: writer.add_uint32, str: writer.add_string, list: writer.add_array, float: writer.add_float32}
    for name, value in right.items():
        adders[type(value)](f"tokenizer.ggml.{name}", value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unknown_token_id": 261}, "unknown_token_id = 261"),
        ({"unknown_token_id": "zero"}, "unknown_token_id = zero"),
        ({"tokens": [1] * 261}, "tokenizer.ggml.tokens: texts are needed"),
        ({"scores": ["0"] * 261}, "tokenizer.ggml.scores: numbers are needed"),
        ({"token_type": [1.5] * 261}, "token_type"),
        ({"model": "gpt2", "pre": "gpt-2", "merges": [1, 2]}, "tokenizer.ggml.merges: texts are needed"),
    ],
)
def test_a_hostile_vocabulary_is_refused_in_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with open_gguf(_vocabulary_file(tmp_path / "right.gguf")) as file:
        right = tokenizer_of(file)
    assert right is not None
    assert right.decode(right.encode("a")) == "a"
    path = _vocabulary_file(tmp_path / "wrong.gguf", **changes)
    with open_gguf(path) as file, pytest.raises(InterchangeError, match=message) as caught:
        tokenizer_of(file)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_layers_that_the_file_cannot_hold_are_refused_before_they_are_counted_out(tmp_path: Path) -> None:
    path = tmp_path / "deep.gguf"
    writer = gguf.GGUFWriter(path, "gemma3")
    numbers = {"block_count": 1 << 31, "embedding_length": 8, "attention.head_count": 1, "context_length": 8}
    numbers |= {"feed_forward_length": 8, "attention.sliding_window": 4, "attention.sliding_window_pattern": 6}
    for name, value in numbers.items():
        writer.add_uint32(f"gemma3.{name}", value)
    writer.add_float32("gemma3.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_tensor("token_embd.weight", np.zeros((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open_gguf(path) as file, pytest.raises(InterchangeError, match="block_count = 2147483648: the file has 1 "):
        read_config(file)
