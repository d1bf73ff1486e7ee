"""Losses and gradients on a GPU against the CPU's, and attention that never holds T² scores or masks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smidgen.config import load_config
from smidgen.kernels import cross_entropy
from smidgen.model import Decoder, flex
from smidgen.model import cross_entropy as chunked_loss
from smidgen.model.attend import Visibility, attend
from smidgen.training.compiling import compile_training

FAMILIES = ["tilda-tiny", "tinylm-tiny", "tinylm-gqa-tiny", "elite-tiny", "gemma3-tiny", "rscalm-tiny"]


def loss_and_gradients(model: Decoder, ids: Tensor, document_ids: Tensor | None) -> dict[str, Tensor]:
    hidden = model.hidden(ids[:, :-1], document_ids=document_ids)
    total, count = chunked_loss(hidden.flatten(0, 1), model.head_weight, ids[:, 1:].flatten())
    (total / count).backward()
    results = {name: p.grad.cpu() for name, p in model.named_parameters() if p.grad is not None}
    return results | {"loss": (total / count).detach().cpu()}


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("has_documents", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_computes_what_the_cpu_computes(
    family: str, has_documents: bool, compiled: bool, cuda: torch.device
) -> None:
    # 8-bit activations turn a difference of 1e-7 into one of a step.
    overrides = {"model.linear.activation_bits": None} if family.startswith("tinylm") else {}
    config = load_config(family, overrides)
    length = min(200, config.model.max_seq_len)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, config.model.vocab_size, (2, length + 1), generator=generator)
    document_ids = (torch.arange(length) // 60).expand(2, -1).contiguous() if has_documents else None
    expected = loss_and_gradients(Decoder(config.model).initialize(0).train(), ids, document_ids)
    model = Decoder(config.model).initialize(0).to(cuda).train()
    if compiled:
        compile_training(model)
    found = loss_and_gradients(model, ids.to(cuda), None if document_ids is None else document_ids.to(cuda))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = value.abs().max().item()
        # FlexAttention's products are TF32 or float32 by the GPU; the rest is float32.
        torch.testing.assert_close(
            found[name], value, rtol=0, atol=3e-3 * scale + 1e-7, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "value_size"),
    [(12, 3, 64, 64), (4, 1, 256, 256), (8, 8, 96, 64), (16, 16, 96, 64), (4, 2, 8, 8)],
)
@pytest.mark.parametrize("window", [None, 100])
def test_flex_attention_and_its_gradients_in_bf16(
    heads: int, kv_heads: int, size: int, value_size: int, window: int | None, cuda: torch.device
) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, heads, 300, size), (2, kv_heads, 300, size), (2, kv_heads, 300, value_size)]
    tensors = [torch.randn(shape, generator=generator) for shape in shapes]
    document_ids = torch.stack([torch.zeros(300), torch.arange(300) // 37]).long()
    index = torch.arange(300)[None]
    gradient = torch.randn(2, heads, 300, value_size, generator=generator)

    def run(device: torch.device, dtype: torch.dtype, visibility: Visibility) -> list[Tensor]:
        leaves = [t.to(device, dtype).requires_grad_() for t in tensors]
        out = attend(leaves[0], leaves[1], leaves[2], visibility, scale=size**-0.5, window=window)
        grads = torch.autograd.grad(out, leaves, gradient.to(device, dtype))
        return [t.detach().float().cpu() for t in (out, *grads)]

    expected = run(torch.device("cpu"), torch.float32, Visibility(index, index, document_ids))
    blocks = flex.block_mask(300, window, document_ids.to(cuda), cuda)
    for ours, theirs in zip(run(cuda, torch.bfloat16, Visibility(blocks=blocks)), expected, strict=True):
        assert ((ours - theirs).norm() / theirs.norm()).item() < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_loss_and_gradient_in_place_equal_the_reference(dtype: torch.dtype, cuda: torch.device) -> None:
    generator = torch.Generator(cuda).manual_seed(0)
    logits = (6 * torch.randn(300, 50_257, generator=generator, device=cuda)).to(dtype)
    labels = torch.randint(0, 50_257, (300,), generator=generator, device=cuda)
    labels[::7] = cross_entropy.IGNORED
    expected, gradient = cross_entropy.reference(logits.clone(), labels)
    total, found = cross_entropy.loss_and_gradient(logits, labels)
    assert found.data_ptr() == logits.data_ptr()
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0)
    torch.testing.assert_close(found, gradient, rtol=1e-4 if dtype == torch.float32 else 8e-3, atol=1e-6)


def test_long_contexts_of_sliding_layers_need_no_more_than_their_length(cuda: torch.device) -> None:
    """32,768 tokens of the hybrid family: memory of a training step grows with the length, not its square."""
    peaks = {}
    for length in (8192, 32_768):
        overrides = {"model.num_layers": 6, "model.max_seq_len": length, "model.vocab_size": 1024}
        config = load_config("gemma3-tinystories", overrides)
        model = Decoder(config.model).initialize(0).to(cuda).train()
        model.compute_dtype = torch.bfloat16
        ids = torch.randint(0, 1024, (1, length + 1), device=cuda)
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        hidden = model.hidden(ids[:, :-1])
        total, _ = chunked_loss(hidden.flatten(0, 1), model.head_weight, ids[:, 1:].flatten())
        total.backward()
        peaks[length] = torch.cuda.max_memory_allocated() - before
    assert peaks[32_768] < 4.5 * peaks[8192]
