"""Smaller variants of an ONNX graph, by onnxruntime's own quantisers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from smidgen.interchange.onnx.quiet import quiet
from smidgen.runtime.errors import MissingDependencyError

Precision = Literal["fp32", "fp16", "int8", "int4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
FILES: dict[Precision, str] = {
    "fp32": "model.onnx",
    "fp16": "model_fp16.onnx",
    "int8": "model_quantized.onnx",
    "int4": "model_q4.onnx",
}
"""Names under which transformers.js looks for them (dtype fp32, fp16, q8, q4)."""
GROUP = 32
"""Weights of a column that share an int4 scale."""


@dataclass(frozen=True, slots=True)
class _Tools:
    onnx: Any
    quantize_dynamic: Callable[..., None]
    MatMulNBitsQuantizer: Any


def _tools() -> _Tools:
    try:
        import onnx
        from onnxruntime.quantization import quantize_dynamic
        from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    except ImportError:
        raise MissingDependencyError("onnxruntime", "export", "writing ONNX graphs") from None
    return _Tools(onnx, quantize_dynamic, MatMulNBitsQuantizer)


def name_lengths(path: Path) -> None:
    """Call the attention mask's length by its name in the graph `path`, where the exporter made one up."""
    onnx = _tools().onnx
    model = onnx.load(str(path), load_external_data=False)
    mask = next(value for value in model.graph.input if value.name == "attention_mask")
    mask.type.tensor_type.shape.dim[1].dim_param = "total_sequence_length"
    onnx.save(model, str(path))


def quantize_int8(source: Path, target: Path) -> None:
    """Weights of products and of the embedding in 8 bits, activations in 8 bits as they come (onnxruntime's dynamic
    quantisation, `MatMulInteger`)."""
    tools = _tools()
    prepared = _with_constant_factors(tools.onnx, source)
    with quiet(""):  # they log through the root logger
        tools.quantize_dynamic(
            prepared,
            str(target),
            per_channel=True,
            op_types_to_quantize=["MatMul", "Gather"],
            extra_options={"MatMulConstBOnly": True},
        )


def quantize_int4(source: Path, target: Path) -> None:
    """Weights of products and of the embedding in 4 bits, symmetric, one scale for 32 of them (`MatMulNBits`)."""
    tools = _tools()
    prepared = _with_constant_factors(tools.onnx, source)
    with quiet(""):  # they log through the root logger
        quantizer = tools.MatMulNBitsQuantizer(
            prepared,
            block_size=GROUP,
            is_symmetric=True,
            accuracy_level=4,
            op_types_to_quantize=("MatMul", "Gather"),
            quant_axes=(("MatMul", 0), ("Gather", 1)),
        )
        quantizer.process()
        quantizer.model.save_model_to_file(str(target), False)


def _with_constant_factors(onnx: Any, path: Path) -> Any:
    """The graph with a transposed copy of a tied embedding as the head, which quantisers pass over otherwise."""
    model = onnx.load(str(path))
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in list(model.graph.node):
        if node.op_type != "Transpose" or node.input[0] not in constants:
            continue
        order = next((list(attribute.ints) for attribute in node.attribute if attribute.name == "perm"), [1, 0])
        values = onnx.numpy_helper.to_array(constants[node.input[0]])
        transposed = np.ascontiguousarray(values.transpose(order))
        model.graph.initializer.append(onnx.numpy_helper.from_array(transposed, node.output[0]))
        model.graph.node.remove(node)
    return model
