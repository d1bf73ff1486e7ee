"""Projections, embedding and head whose weights are stored quantised (`model.quantization`): they run and do not train.

Gradients pass to their input, so adapters can be trained on top of them; the weights are buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from smidgen.config import BlockFP8Linear, ModelConfig, Storage, TernaryLinear, VocabularyScheme
from smidgen.kernels.fp8_fake import fake_fp8_activation, fake_fp8_tokens
from smidgen.kernels.layouts import FP8Blocks, FP8Tensor, Int4Groups, Int8Rows, Layout, TernaryPacked
from smidgen.kernels.ternary import fake_int8
from smidgen.kernels.ternary_dispatch import ternary_backend, ternary_linear
from smidgen.model.linear import Linear, Quantizer, make_quantizer
from smidgen.model.vocabulary import VocabularyMatrix
from smidgen.runtime.errors import ConfigError


def layout_of(model: ModelConfig, storage: Storage) -> Layout | None:
    """The layout of a matrix of a quantised model; None for floats."""
    quantization = model.quantization
    assert quantization is not None
    match storage.scheme:
        case "int8":
            return Int8Rows()
        case "int4":
            assert storage.group_size is not None
            return Int4Groups(storage.group_size, quantization.symmetric)
        case "ternary":
            return TernaryPacked()
        case "fp8_block":
            return FP8Blocks(isinstance(model.linear, BlockFP8Linear) and model.linear.power_of_two_scales)
        case "fp8_tensor":
            return FP8Tensor()
        case "bf16":
            return None


def projection_layout(model: ModelConfig, name: str) -> Layout | None:
    """The layout of the projection of a name, such as `model.layers.0.mlp.up_proj`; None for floats."""
    assert model.quantization is not None
    return layout_of(model, model.quantization.storage(name))


class RoundedInput(Quantizer):
    """Rounds the input of a projection; the weight is stored rounded."""

    def __init__(self, rounding: Callable[[Tensor], Tensor], is_int8: bool = False) -> None:
        self.rounding = rounding
        self.is_int8 = is_int8
        """Whether it rounds to integers with a scale a token, as kernels of integer products do."""

    def input(self, x: Tensor) -> Tensor:
        return self.rounding(x)


def input_quantizer(model: ModelConfig, scheme: str) -> Quantizer:
    """How a quantised model rounds inputs of projections of a scheme: as it was trained to, else as `activation_bits`
    says. Projections that stay floats get them as they are."""
    quantization = model.quantization
    assert quantization is not None
    if model.rounds_activations:
        trained = make_quantizer(model.linear)
        return RoundedInput(trained.input, is_int8=isinstance(model.linear, TernaryLinear))
    if quantization.activation_bits == 16 or scheme == "bf16":
        return Quantizer()
    roundings = {"fp8_block": fake_fp8_activation, "fp8_tensor": fake_fp8_tokens}
    rounding = roundings.get(scheme, fake_int8)
    return RoundedInput(rounding, is_int8=rounding is fake_int8)


_SCALES = (torch.float32, torch.bfloat16)


class StoredMatrix(nn.Module):
    """What quantised matrices have in common: the tensors of their layout, as buffers under the names of the files."""

    layout: Layout
    size: tuple[int, int]
    """Rows and columns of the matrix."""
    names: tuple[str, ...]
    """Of the layout's tensors."""

    def allocate(self, rows: int, columns: int, layout: Layout) -> None:
        """Uninitialised tensors of the layout; they are filled by a file or by `fill`.

        Raises ConfigError where the layout has no form for a matrix of this size.
        """
        misfit = layout.misfit(rows, columns)
        if misfit is not None:
            raise ConfigError(
                f"model.quantization: a matrix of {rows}×{columns}: {misfit}; choose another scheme or group_size"
            )
        self.layout, self.size = layout, (rows, columns)
        self.names = tuple(layout.specs(rows, columns))
        for name, (shape, dtype) in layout.specs(rows, columns).items():
            self.register_buffer(name, torch.empty(shape, dtype=dtype))

    @property
    def device(self) -> torch.device:
        """Where the matrix lies."""
        return self.get_buffer(self.names[0]).device

    @property
    def stored(self) -> dict[str, Tensor]:
        """The tensors of the layout by name."""
        return {name: self.get_buffer(name) for name in self.names}

    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over all the tensors of the layout."""
        assert tensors.keys() == set(self.names), f"{sorted(tensors)} are not {sorted(self.names)}"
        for name, tensor in tensors.items():
            self.take(name, tensor)

    def take(self, name: str, tensor: Tensor) -> None:
        """Take over one tensor of the layout; scales keep the float type that they come in."""
        buffer = self.get_buffer(name)
        assert buffer.numel() == tensor.numel(), f"{name}: {list(tensor.shape)} is not {list(buffer.shape)}"
        if buffer.dtype in _SCALES:
            setattr(self, name, tensor.detach().reshape(buffer.shape).to(buffer.device))
        else:
            buffer.copy_(tensor)


class QuantizedLinear(StoredMatrix, Linear):
    """`y = rounded(x) · Wᵀ` for a stored W [out_features, in_features]; the product runs in the dtype of `x`."""

    def __init__(self, in_features: int, out_features: int, quantizer: Quantizer, layout: Layout) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.quantizer = in_features, out_features, quantizer
        self.allocate(out_features, in_features, layout)

    @property
    def multiplies_packed(self) -> bool:
        """Whether products run on the packed weight: ternary with 8-bit inputs, on GPUs that have the kernels."""
        is_int8 = isinstance(self.quantizer, RoundedInput) and self.quantizer.is_int8
        return is_int8 and isinstance(self.layout, TernaryPacked) and ternary_backend(self.device) == "triton"

    def forward(self, x: Tensor) -> Tensor:
        if self.multiplies_packed and not (x.requires_grad and torch.is_grad_enabled()):
            return ternary_linear(x, self.get_buffer("weight"), self.get_buffer("weight_scale"))
        return self.quantizer.product(x, self.effective_weight(x.dtype))

    def effective_weight(self, dtype: torch.dtype) -> Tensor:
        return self.layout.dequantize(self.stored).to(dtype)

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.layout}"


class QuantizedVocabulary(StoredMatrix, VocabularyMatrix):
    """A stored embedding or head [V, D]; it has no padded rows."""

    def __init__(self, model: ModelConfig, layout: Layout) -> None:
        nn.Module.__init__(self)
        self.allocate(model.vocab_size, model.hidden_size, layout)

    def rows(self, ids: Tensor) -> Tensor:
        return self.layout.dequantize_rows(self.stored, ids)

    def effective_weight(self) -> Tensor:
        return self.layout.dequantize(self.stored)

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32


def linear_maker(model: ModelConfig, parent: str) -> Callable[[str, int, int], Linear]:
    """Makes the projections below the module of the name `parent` from their own name, `in_features` and
    `out_features`."""
    quantization = model.quantization
    if quantization is None:
        trained = make_quantizer(model.linear)
        return lambda name, in_features, out_features: Linear(in_features, out_features, trained)

    quantizers: dict[str, Quantizer] = {}

    def make(name: str, in_features: int, out_features: int) -> Linear:
        storage = quantization.storage(f"{parent}.{name}")
        if storage.scheme not in quantizers:
            quantizers[storage.scheme] = input_quantizer(model, storage.scheme)
        layout, quantizer = layout_of(model, storage), quantizers[storage.scheme]
        if layout is None:
            return Linear(in_features, out_features, quantizer)
        return QuantizedLinear(in_features, out_features, quantizer, layout)

    return make


def make_embedding(model: ModelConfig) -> VocabularyMatrix:
    """The embedding that the configuration describes."""
    return _vocabulary(model, None if model.quantization is None else model.quantization.embedding)


def make_head(model: ModelConfig) -> VocabularyMatrix:
    """The untied head that the configuration describes."""
    return _vocabulary(model, None if model.quantization is None else model.quantization.head)


def _vocabulary(model: ModelConfig, scheme: VocabularyScheme | None) -> VocabularyMatrix:
    layout = None
    if model.quantization is not None and scheme is not None:
        layout = layout_of(model, model.quantization.vocabulary_storage(scheme))
    return VocabularyMatrix(model) if layout is None else QuantizedVocabulary(model, layout)


def refuse_training(model: ModelConfig, name: str) -> None:
    """Raise ConfigError where the model of `name` is quantised: its integers have no gradients."""
    if model.quantization is not None:
        raise ConfigError(
            f"{name}: model.quantization.scheme = {model.quantization.scheme}: its integers are not trained; 'smidgen "
            "quantize' makes them of a trained model, and an adapter (--tuning.lora.rank 16) is trained beside them"
        )
