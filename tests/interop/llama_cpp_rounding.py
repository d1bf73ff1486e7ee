"""What llama.cpp computes on a processor, in plain PyTorch: its products round the activations too.

The other factor of a product decides the type (ggml-cpu/ggml-cpu.c, `vec_dot_type`): f16 and bf16 weights meet
activations of their own type; q8_0 and q4_0 meet Q8_0, blocks of 32 with one half-precision scale; tq1_0 and tq2_0 meet
Q8_K, blocks of 256 with one float32 scale (`quantize_row_q8_0_ref`, `quantize_row_q8_K_ref`, ggml-quants.c). GELU is
looked up in a table of half-precision numbers (ggml-cpu/vec.h).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from smidgen.config import LatentAttention
from smidgen.interchange.gguf.importing import read_config
from smidgen.interchange.gguf.reader import GgufFile
from smidgen.model import Decoder

Rounding = Callable[[Tensor], Tensor]


def q8_0(x: Tensor) -> Tensor:
    """`x` [..., n] as blocks of 32 codes of 8 bits and the half-precision scale max|x| / 127."""
    blocks = x.unflatten(-1, (-1, 32))
    largest = blocks.abs().amax(-1, keepdim=True)
    codes = (blocks * torch.where(largest > 0, 127 / largest, 0)).round()
    return (codes * (largest / 127).half().float()).flatten(-2)


def q8_k(x: Tensor) -> Tensor:
    """`x` [..., n] as blocks of 256 codes of 8 bits; the value of largest magnitude, with its sign, becomes -127."""
    blocks = x.unflatten(-1, (-1, 256))
    largest = blocks.gather(-1, blocks.abs().argmax(-1, keepdim=True))
    inverse = torch.where(largest != 0, -127 / largest, 0)
    codes = (blocks * inverse).round().clamp(max=127)
    return torch.where(inverse != 0, codes / inverse, 0).flatten(-2)


ROUNDINGS: dict[str, Rounding] = {
    "F32": lambda x: x,
    "F16": lambda x: x.half().float(),
    "BF16": lambda x: x.bfloat16().float(),
    "Q8_0": q8_0,
    "Q4_0": q8_0,
    "TQ1_0": q8_k,
    "TQ2_0": q8_k,
}


def as_llama_cpp(decoder: Decoder, file: GgufFile) -> Decoder:
    """`decoder`, read from `file`, changed in place so that it rounds what llama.cpp rounds.

    Latent attention is left out: llama.cpp multiplies there in another order, with other activations to round.
    """
    architecture, config = read_config(file)
    assert not isinstance(config.attention, LatentAttention)
    kinds = {entry.ours: file.tensors[entry.theirs[0]].kind for entry in architecture.entries(config)}
    head = ROUNDINGS[kinds.get("lm_head.weight", kinds["model.embed_tokens.weight"])]
    decoder.model.norm.register_forward_hook(lambda module, inputs, output: head(output))
    for name, kind in kinds.items():
        if name.endswith("_proj.weight"):
            rounding = ROUNDINGS[kind]
            decoder.get_submodule(name.removesuffix(".weight")).register_forward_pre_hook(
                lambda module, inputs, rounding=rounding: rounding(inputs[0])
            )
    if config.feed_forward.activation == "gelu_tanh":
        for layer in decoder.model.layers:
            layer.mlp.activation = gelu_of_halves
    return decoder


def gelu_of_halves(x: Tensor) -> Tensor:
    exact = torch.nn.functional.gelu(x.half().float(), approximate="tanh").half().float()
    return torch.where(x <= -10, 0, torch.where(x >= 10, x, exact))
