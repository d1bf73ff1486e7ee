"""Merging of MODELs: the checks, the weights of each tensor, layers from several models, adapters into their base."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from smidgen.config import ModelConfig, validate
from smidgen.folders import load, load_tokenizer
from smidgen.model import Decoder
from smidgen.model.linear import Quantizer
from smidgen.model.lora import adapters, fold, rounds
from smidgen.model.quantized import StoredMatrix
from smidgen.runtime.errors import ModelFolderError, TokenizerError
from smidgen.runtime.protocols import Tokenizer
from smidgen.tuning.merging import Merging, MergingError, merge_tensors

Progress = Callable[[int, int], None]
"""Called with the tensors that are done and their number."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Layers `first` to `last - 1` of a MODEL."""

    model: str
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> Slice:
        """From `MODEL:FIRST-LAST`, the last layer excluded."""
        found = re.fullmatch(r"(.+):(\d+)-(\d+)", text)
        if found is None or int(found[2]) >= int(found[3]):
            raise MergingError(f"--slices {text}: write MODEL:FIRST-LAST, layers from FIRST up to but without LAST")
        return cls(found[1], int(found[2]), int(found[3]))


def merge_models(
    names: Sequence[str], base: str | None, settings: Merging, progress: Progress = lambda done, total: None
) -> tuple[Decoder, Tokenizer | None]:
    """The merged model, with the tokenizer that all of them have.

    Raises MergingError where the models differ in architecture or tokenizer, or are quantised.
    """
    settings.check(len(names), has_base=base is not None)
    everyone = [*names, *([] if base is None else [base])]
    models = [plain(load(name), name) for name in everyone]
    for name, model in zip(everyone[1:], models[1:], strict=True):
        check_alike(models[0].config, model.config, everyone[0], name)
    tokenizer = common_tokenizer(everyone)
    parameters = [dict(model.named_parameters()) for model in models]
    generator = torch.Generator().manual_seed(settings.seed)
    result = models[0]
    with torch.no_grad():
        for done, (name, target) in enumerate(sorted(result.named_parameters())):
            tensors = [of[name].detach() for of in parameters]
            own, start = (tensors, None) if base is None else (tensors[:-1], tensors[-1])
            target.copy_(merge_tensors(settings, start, own, generator))
            progress(done + 1, len(parameters[0]))
    return result, tokenizer


def stack_layers(slices: Sequence[Slice]) -> tuple[Decoder, Tokenizer | None]:
    """Passthrough: a model of the layers of all slices, one after the other; embedding, final norm and head are the
    first slice's. Layers keep their kind of attention where the pattern of the new depth gives them the same.

    Raises MergingError where a slice has layers that its model lacks, or the models differ in more than depth.
    """
    names = list(dict.fromkeys(part.model for part in slices))
    models = {name: plain(load(name), name) for name in names}
    first = models[names[0]].config
    for name in names[1:]:
        check_alike(first, models[name].config.model_copy(update={"num_layers": first.num_layers}), names[0], name)
    for part in slices:
        if part.last > models[part.model].config.num_layers:
            count = models[part.model].config.num_layers
            raise MergingError(f"--slices {part.model}:{part.first}-{part.last}: the model has {count} layers")
    chosen = [(models[part.model], index) for part in slices for index in range(part.first, part.last)]
    kinds = tuple(model.config.layer_types[index] for model, index in chosen)
    config = validate(ModelConfig, first.model_dump() | {"num_layers": len(chosen), "layer_pattern": kinds})
    if all(kind == kinds[0] for kind in kinds):
        config = config.model_copy(update={"layer_pattern": kinds[:1]})
    result = Decoder(config).eval()
    source = models[names[0]].state_dict()
    state = {name: tensor for name, tensor in source.items() if not name.startswith("model.layers.")}
    for number, (model, index) in enumerate(chosen):
        state |= {f"model.layers.{number}.{name}": tensor for name, tensor in model.layers[index].state_dict().items()}
    result.load_state_dict(state)
    return result, common_tokenizer(names)


def merge_adapter(name: str, *, sign: int = 1, into: str | None = None, rounded: bool = False) -> Decoder:
    """The base of an adapter with the adapter in its weights, as a model without adapters.

    into: another MODEL of the base's shapes that gets the adapter (`sign` 1) or loses it (-1), in place of the base.
    A quantised base becomes one of floats. Where the base rounds (ternary, FP8), the sum is rounded again and answers
    differently from base and adapter apart: only with `rounded`. Raises MergingError otherwise.
    """
    model = load(name)
    if model.adapter is None:
        raise MergingError(f"{name}: holds no adapter; name an adapter folder or the run of one")
    if into is not None:
        other = plain(load(into), into)
        check_alike(model.config.unquantized, other.config.unquantized, name, into)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for key, parameter in other.named_parameters():
                wrapped = key.removesuffix("weight") + "base_layer.weight"
                target = parameters.get(key, parameters.get(wrapped))
                if target is None:
                    raise MergingError(f"{name}: its base is quantised, {into} is not; leave --into out")
                target.copy_(parameter)
    is_rounded = any(rounds(module) and type(module.quantizer) is not Quantizer for _, module in adapters(model))
    if is_rounded and not rounded:
        raise MergingError(
            f"{name}: its base rounds weights or activations, so the adapter is not part of one weight; use it "
            "beside its base as it is, or round the sum again with --round"
        )
    model = dequantized(model)
    fold(model, sign=sign)
    return model


@torch.no_grad()
def dequantized(model: Decoder) -> Decoder:
    """A quantised decoder as one of floats with the same values, its adapters kept; another as it is."""
    if model.config.quantization is None:
        return model
    from smidgen.model.lora import adapter_tensors, attach

    result = Decoder(model.config.unquantized).eval()
    if model.adapter is not None:
        attach(result, [name for name, _ in adapters(model)], model.adapter)
    modules = dict(model.named_modules())
    for name, module in result.named_modules():
        source = modules[name]
        for key, parameter in module.named_parameters(recurse=False):
            if isinstance(source, StoredMatrix):
                weight = source.layout.dequantize(source.stored)
                parameter[: len(weight)] = weight
                parameter[len(weight) :] = 0
            else:
                parameter.copy_(source.get_parameter(key))
    assert not model.adapter or adapter_tensors(result)
    return result


def plain(model: Decoder, name: str) -> Decoder:
    """`model`, which must hold its weights as floats and without adapters. Raises MergingError otherwise."""
    if model.adapter is not None:
        raise MergingError(f"{name}: is an adapter; make it a model first with 'smidgen merge --lora {name} --out DIR'")
    if model.config.quantization is not None:
        raise MergingError(f"{name}: is quantised; merge the models it was made from and quantise the result")
    return model


def check_alike(first: ModelConfig, other: ModelConfig, first_name: str, other_name: str) -> None:
    """Raise MergingError naming the first field in which two models differ in more than their beginning."""
    ours, theirs = first.model_dump(mode="json"), other.model_dump(mode="json")
    for field in ours:
        if field not in ("initialization", "max_seq_len", "vocab_padding_multiple") and ours[field] != theirs[field]:
            raise MergingError(
                f"{other_name}: model.{field} is not that of {first_name}; merge models of one architecture"
            )


def common_tokenizer(names: Sequence[str]) -> Tokenizer | None:
    """The tokenizer of all the models; None where none has one. Raises MergingError where two differ."""
    found: dict[str, Tokenizer] = {}
    for name in names:
        try:
            found[name] = load_tokenizer(name)
        except (ModelFolderError, TokenizerError) as error:
            if "no tokenizer" not in str(error):
                raise
    if not found:
        return None
    (first, tokenizer), *others = found.items()
    for name, other in others:
        if other.fingerprint != tokenizer.fingerprint:
            raise MergingError(f"{name}: its tokenizer is not that of {first}; models that are merged must share one")
    return tokenizer
