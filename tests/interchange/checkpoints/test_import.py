"""Checkpoints of other trainers, against models written here from those trainers' descriptions."""

from __future__ import annotations

import math
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import smidgen
from smidgen.cli.main import main
from smidgen.folders import memory
from smidgen.interchange.checkpoints.importing import Hints, import_checkpoint
from smidgen.interchange.gguf.export import export_gguf
from smidgen.interchange.importing import read_model
from smidgen.runtime.errors import InterchangeError, ModelFolderError
from smidgen.tokenization import train_tokenizer

WIDTH, HEADS, LAYERS, VOCABULARY, CONTEXT = 32, 4, 2, 50, 24


class RSCaLM(nn.Module):
    """The model of the published description: fused qkv, `w3(silu(w1 x) * w2 x)`, tied head, RoPE by halves."""

    def __init__(self) -> None:
        super().__init__()
        self.tok_emb = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(_Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(WIDTH, 1e-6)
        self.lm_head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.lm_head.weight = self.tok_emb.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.tok_emb(ids)
        for block in self.blocks:
            x = block(x)
        return self.lm_head(self.norm(x))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(WIDTH, 1e-6), nn.RMSNorm(WIDTH, 1e-6)
        self.attn, self.mlp = nn.Module(), nn.Module()
        self.attn.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.attn.proj = nn.Linear(WIDTH, WIDTH, bias=False)
        self.mlp.w1, self.mlp.w2 = (nn.Linear(WIDTH, 2 * WIDTH, bias=False) for _ in range(2))
        self.mlp.w3 = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        heads = (part.unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in self.attn.qkv(self.norm1(x)).chunk(3, -1))
        query, key, value = heads
        mixed = F.scaled_dot_product_attention(_rotated(query), _rotated(key), value, is_causal=True)
        x = x + self.attn.proj(mixed.transpose(1, 2).flatten(2))
        y = self.norm2(x)
        return x + self.mlp.w3(F.silu(self.mlp.w1(y)) * self.mlp.w2(y))


def _rotated(x: Tensor) -> Tensor:
    size = x.shape[-1]
    angles = torch.arange(x.shape[-2])[:, None] * 10_000.0 ** (-torch.arange(0, size, 2) / size)
    turn = torch.polar(torch.ones_like(angles), angles)
    pairs = torch.complex(x[..., : size // 2], x[..., size // 2 :]) * turn
    return torch.cat([pairs.real, pairs.imag], -1)


@pytest.fixture
def rscalm() -> RSCaLM:
    torch.manual_seed(0)
    model = RSCaLM().eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.3)
    return model


SETTINGS: dict[str, Any] = {"n_head": HEADS, "n_layer": LAYERS, "seq_len": CONTEXT, "rope_base": 10_000, "ffn_mult": 2}
IDS = torch.randint(0, VOCABULARY, (2, CONTEXT), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_rscalm(rscalm: RSCaLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = {f"_orig_mod.{name}": weight for name, weight in rscalm.state_dict().items()}
    weights["_orig_mod.blocks.0.attn.rope.inv_freq"] = torch.ones(4)
    torch.save({"model": weights, "config": SETTINGS, "optim": {}, "step": 3}, tmp_path / "ckpt_best.pt")
    tokenizer = train_tokenizer("characters", ["abc"], None)
    tokenizer.save(tmp_path)
    assert main(["import", str(tmp_path / "ckpt_best.pt"), "--out", str(tmp_path / "out")]) == 0
    assert "RSCaLM" in capsys.readouterr().out
    model = smidgen.load(tmp_path / "out")
    torch.testing.assert_close(model(IDS), rscalm(IDS), rtol=1e-4, atol=1e-4)
    assert model.config.max_seq_len == CONTEXT
    assert smidgen.load_tokenizer(tmp_path / "out").encode("cab") == tokenizer.encode("cab")


@torch.no_grad()
def test_nanogpt_style(rscalm: RSCaLM, tmp_path: Path) -> None:
    names = {
        "norm1": "ln_1",
        "norm2": "ln_2",
        "attn.qkv": "attn.c_attn",
        "attn.proj": "attn.c_proj",
        "mlp.w1": "mlp.c_fc1",
        "mlp.w2": "mlp.c_fc2",
        "mlp.w3": "mlp.c_proj",
    }
    weights = {}
    for name, weight in rscalm.state_dict().items():
        for before, after in names.items():
            name = name.replace(f".{before}.", f".{after}.")
        name = name.replace("blocks.", "transformer.h.").replace("tok_emb", "transformer.wte")
        weights["transformer.ln_f.weight" if name == "norm.weight" else name] = weight
    arguments = {"n_head": HEADS, "n_layer": LAYERS, "block_size": CONTEXT, "norm_eps": 1e-6}
    torch.save({"model": weights, "model_args": arguments, "iter_num": 1, "best_val_loss": 2.0}, tmp_path / "ckpt.pt")
    model = import_checkpoint(tmp_path / "ckpt.pt").model
    torch.testing.assert_close(model(IDS), rscalm(IDS), rtol=1e-4, atol=1e-4)

    weights["transformer.wpe.weight"] = torch.zeros(CONTEXT, WIDTH)
    torch.save({"model": weights, "model_args": arguments}, tmp_path / "ckpt.pt")
    with pytest.raises(InterchangeError, match="learned positions"):
        import_checkpoint(tmp_path / "ckpt.pt")


def _transformer_engine(model: Any, fused: bool) -> dict[str, Tensor]:
    """The weights of transformers' Llama under the names of TransformerEngine's TransformerLayer."""
    state = model.state_dict()
    weights = {name: state[name] for name in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")}
    groups = model.config.num_key_value_heads
    for i in range(model.config.num_hidden_layers):
        old, new = f"model.layers.{i}.", f"model.layers.{i}."
        q, k, v = (state[f"{old}self_attn.{name}_proj.weight"] for name in "qkv")
        layer = {
            "self_attention.layernorm_qkv.layer_norm_weight": state[old + "input_layernorm.weight"],
            "self_attention.proj.weight": state[old + "self_attn.o_proj.weight"],
            "layernorm_mlp.layer_norm_weight": state[old + "post_attention_layernorm.weight"],
            "layernorm_mlp.fc1_weight": torch.cat([state[old + f"mlp.{name}_proj.weight"] for name in ("gate", "up")]),
            "layernorm_mlp.fc2_weight": state[old + "mlp.down_proj.weight"],
        }
        if fused:
            parts = [part.unflatten(0, (groups, -1)) for part in (q, k, v)]
            layer["self_attention.layernorm_qkv.weight"] = torch.cat(parts, 1).flatten(0, 1)
        else:
            for name, weight in zip(("query", "key", "value"), (q, k, v), strict=True):
                layer[f"self_attention.layernorm_qkv.{name}_weight"] = weight
        weights |= {new + name: weight for name, weight in layer.items()}
    return weights


@pytest.mark.parametrize("fused", [True, False])
@torch.no_grad()
def test_transformer_engine(fused: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=2,
        intermediate_size=48,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = transformers.LlamaForCausalLM(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.dim() == 1 else 0.0, 0.3)
    weights = _transformer_engine(model, fused)
    weights["model.layers.0.self_attention.layernorm_qkv._extra_state"] = torch.zeros(9, dtype=torch.uint8)
    torch.save({"model": weights, "step": 5}, tmp_path / "te.pt")
    with pytest.raises(InterchangeError, match="--num-heads"):
        import_checkpoint(tmp_path / "te.pt")
    again = import_checkpoint(tmp_path / "te.pt", Hints(num_heads=HEADS)).model
    torch.testing.assert_close(again(IDS), model(IDS).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_interleaved_rope_moves_rows(rscalm: RSCaLM, tmp_path: Path) -> None:
    weights = dict(rscalm.state_dict())
    for i in range(LAYERS):
        query, key, value = weights[f"blocks.{i}.attn.qkv.weight"].chunk(3)
        moved = [part.unflatten(0, (HEADS, 2, -1)).transpose(1, 2).flatten(0, 2) for part in (query, key)]
        weights[f"blocks.{i}.attn.qkv.weight"] = torch.cat([*moved, value])
    torch.save({"model": weights, "config": SETTINGS}, tmp_path / "ckpt.pt")
    model = import_checkpoint(tmp_path / "ckpt.pt", Hints(interleaved_rope=True)).model
    torch.testing.assert_close(model(IDS), rscalm(IDS), rtol=1e-4, atol=1e-4)


class _Malicious:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return math.factorial, (5,)


def _zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", bytes(1 << 20))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: torch.save({"model": _Malicious()}, path), "does not unpickle"),
        (lambda path: path.write_bytes(pickle.dumps({"model": 1})), "PyTorch 1.6"),
        (lambda path: path.write_bytes(b""), "PyTorch 1.6"),
        (_zip_bomb, "no checkpoint"),
        (lambda path: torch.save([1, 2], path), "holds a list"),
        (lambda path: torch.save({"model": {}}, path), "no weights"),
        (lambda path: torch.save({"model": {"encoder.weight": torch.ones(2)}}, path), "does not know"),
        (lambda path: torch.save({"model": {"tok_emb.weight": torch.ones(2, 2)}}, path), "does not know"),
    ],
)
def test_other_files_are_refused_in_one_line(write: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    write(tmp_path / "x.pt")
    with pytest.raises(InterchangeError, match=message) as caught:
        import_checkpoint(tmp_path / "x.pt")
    assert "\n" not in str(caught.value)


def test_a_cut_file_is_refused(rscalm: RSCaLM, tmp_path: Path) -> None:
    torch.save({"model": rscalm.state_dict(), "config": SETTINGS}, tmp_path / "ckpt.pt")
    data = (tmp_path / "ckpt.pt").read_bytes()
    for length in (100, len(data) // 2, len(data) - 10):
        (tmp_path / "ckpt.pt").write_bytes(data[:length])
        with pytest.raises(InterchangeError):
            import_checkpoint(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks.1.mlp.w3.weight": None}, "mlp.down_proj"),
        ({"blocks.1.attn.qkv.weight": torch.ones(5, WIDTH)}, "fused projection has 5 rows"),
        ({"blocks.1.mlp.w1.weight": torch.ones(3, 3)}, "shape"),
        ({"blocks.0.attn.qkv.bias": torch.ones(3)}, "does not know what it is for"),
        ({"blocks.0.attn.qkv.weight": torch.tensor(1.0)}, "qkv.weight' is no matrix of floats"),
        ({"blocks.0.mlp.w3.weight": torch.tensor(1.0)}, "w3.weight' is no matrix of floats"),
        ({"blocks.1.mlp.w3.weight": torch.ones(WIDTH, 64, dtype=torch.complex64)}, "w3.weight' is no matrix of floats"),
        ({"blocks.1.mlp.w3.weight": torch.ones(WIDTH, 64).to_sparse()}, "w3.weight' is sparse"),
        ({"blocks.1.mlp.w3.weight": torch.ones(WIDTH, 64, device="meta")}, "w3.weight' is sparse or has no values"),
        ({"blocks.1.mlp.w3.weight": torch.full((WIDTH, 64), torch.nan)}, "down_proj.weight holds values that are no"),
    ],
)
def test_a_model_that_does_not_add_up_is_refused(
    change: dict[str, Any], message: str, rscalm: RSCaLM, tmp_path: Path
) -> None:
    weights = {name: weight for name, weight in {**rscalm.state_dict(), **change}.items() if weight is not None}
    torch.save({"model": weights, "config": SETTINGS}, tmp_path / "ckpt.pt")
    with pytest.raises(InterchangeError, match=message):
        import_checkpoint(tmp_path / "ckpt.pt")


def test_what_does_not_fit_memory_is_refused_before_a_weight_is_read(
    rscalm: RSCaLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {name: weight.bfloat16() for name, weight in rscalm.state_dict().items()}
    torch.save({"model": weights, "config": SETTINGS}, tmp_path / "ckpt.pt")
    monkeypatch.setattr(memory, "available_memory", lambda: 1 << 10)
    monkeypatch.setattr(
        Tensor, "float", lambda x: x.to(torch.float32) if x.is_meta else pytest.fail("memory was taken")
    )
    with pytest.raises(ModelFolderError, match=r"weights of 4 bytes take .* GiB are free"):
        import_checkpoint(tmp_path / "ckpt.pt")


@pytest.mark.parametrize("flag", ["--num-heads", "--max-seq-len", "--rope-theta"])
def test_a_zero_is_not_taken_for_nothing(
    flag: str, rscalm: RSCaLM, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"model": rscalm.state_dict(), "config": SETTINGS}, tmp_path / "ckpt.pt")
    assert main(["import", str(tmp_path / "ckpt.pt"), flag, "0", "--out", str(tmp_path / "out")]) == 1
    assert f"{flag[2:].replace('-', '_')} = 0" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["folder", "GGUF"])
def test_what_says_it_all_takes_no_hints(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = smidgen.build("elite-tiny", {"model.num_layers": 1, "model.vocab_size": 64})
    source = tmp_path / "model"
    if kind == "GGUF":
        export_gguf(model, source := tmp_path / "x.gguf", None)
    else:
        smidgen.save(model, source)
    assert main(["import", str(source), "--rope", "interleaved", "--out", str(tmp_path / "out")]) == 1
    assert "--rope are for .pt checkpoints" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_file_of_weights_alone_is_no_model(tmp_path: Path) -> None:
    smidgen.save(smidgen.build("elite-tiny", {"model.num_layers": 1, "model.vocab_size": 64}), tmp_path / "model")
    with pytest.raises(InterchangeError, match="name its folder, where config"):
        read_model(tmp_path / "model" / "model.safetensors")
