"""compressed-tensors' part of `quantization_config`: groups of modules, each with a scheme, and modules left alone.

What we write needs no order of precedence: no module is in two groups. What others wrote is read as compressed-tensors
0.20 does: a module's own name comes before patterns (`re:`), these in alphabetical order, before classes (`Linear`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from smidgen.config import ModelConfig, Quantization, Storage
from smidgen.folders.architectures.base import Tree
from smidgen.folders.architectures.patterns import matcher
from smidgen.runtime.fields import Fields

PROJECTIONS = r"re:.*layers\..*_proj(_with_mqa)?$"
"""Every projection of attention and feed-forward, and nothing else."""
EMBEDDING, HEAD = r"re:.*embed_tokens$", r"re:.*lm_head$"

UNKNOWN = "Smidgen reads compressed-tensors (int8 rows, int4 groups, FP8 tensors), fp8 in 128×128 blocks, and bitnet"
OTHER = "Smidgen does not read this variant; take the unquantised model"
Value = TypeVar("Value")

MOST_LAYERS = 1000
"""Layers of a model whose modules are named one by one."""

_MOST_WORK = 10_000_000
"""Characters of targets times projections."""
_FORMATS = {"int8": "int-quantized", "int4": "pack-quantized", "fp8_tensor": "float-quantized"}
_MODULE_OF_CLASS = {"Linear": ("_proj", "_with_mqa", "lm_head"), "Embedding": ("embed_tokens",)}


def write_compressed_tensors(config: ModelConfig, rounds_inputs: bool) -> Tree:
    """The fields for a quantised configuration. `rounds_inputs`: the class of the model rounds inputs itself."""
    quantization = config.quantization
    assert quantization is not None
    groups: list[Tree] = []
    ignored = [] if quantization.head != "bf16" and not config.tie_word_embeddings else ["lm_head"]
    for storage, targets in _projections_by_storage(config, quantization).items():
        if storage.scheme == "bf16":
            ignored += targets
        else:
            activations = None if rounds_inputs else _activations(config, quantization, storage)
            groups.append(_group(targets, storage, quantization, activations))
    for target, scheme in ((EMBEDDING, quantization.embedding), (HEAD, quantization.head)):
        if scheme != "bf16" and not (target == HEAD and config.tie_word_embeddings):
            groups.append(_group([target], quantization.vocabulary_storage(scheme), quantization, None))
    used = {group["format"] for group in groups}
    return {
        "quant_method": "compressed-tensors",
        "format": used.pop() if len(used) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": {f"group_{number}": group for number, group in enumerate(groups)},
        "ignore": ignored,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def projection_names(config: ModelConfig) -> Iterator[str]:
    """Names of all projections, layer by layer."""
    for index in range(config.num_layers):
        yield from (f"model.layers.{index}.{projection}" for projection in config.projections)


def _projections_by_storage(config: ModelConfig, quantization: Quantization) -> dict[Storage, list[str]]:
    """Targets of the projections that are stored alike."""
    if not quantization.overrides:
        return {quantization.storage(""): [PROJECTIONS]}
    found: dict[Storage, list[str]] = {}
    for projection in config.projections:
        layers: dict[Storage, list[int]] = {}
        for index in range(config.num_layers):
            layers.setdefault(quantization.storage(f"model.layers.{index}.{projection}"), []).append(index)
        for storage, indices in layers.items():
            which = r"\d+" if len(indices) == config.num_layers else f"({'|'.join(map(str, indices))})"
            found.setdefault(storage, []).append(rf"re:.*layers\.{which}\.{re.escape(projection)}$")
    return found


def _group(targets: list[str], storage: Storage, quantization: Quantization, activations: Tree | None) -> Tree:
    weights: Tree = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    if storage.scheme == "int4":
        weights |= {
            "num_bits": 4,
            "strategy": "group",
            "group_size": storage.group_size,
            "symmetric": quantization.symmetric,
        }
    elif storage.scheme == "fp8_tensor":
        weights |= {"type": "float", "strategy": "tensor"}
    return {
        "targets": targets,
        "weights": weights,
        "input_activations": activations,
        "output_activations": None,
        "format": _FORMATS[storage.scheme],
    }


def _activations(config: ModelConfig, quantization: Quantization, storage: Storage) -> Tree | None:
    if quantization.activation_bits == 16:
        return None
    kind = "float" if storage.scheme == "fp8_tensor" and config.linear.kind != "ternary" else "int"
    return {"num_bits": 8, "type": kind, "symmetric": True, "strategy": "token", "dynamic": True}


@dataclass(frozen=True, slots=True)
class _Group:
    """What a group of `config_groups` says of its modules."""

    storage: Storage
    symmetric: bool
    activation_bits: int


def read_compressed_tensors(stored: Fields, config: ModelConfig) -> Tree:
    """The unvalidated `quantization` section; `config` is of the same model with float weights.

    Raises ModelFolderError for layouts that we do not read.
    """
    stored.must_be("quantization_status", ("compressed",), OTHER)
    stored.must_be("kv_cache_scheme", (), OTHER)
    sections = stored.section("config_groups")
    if sections is None or not sections.values:
        stored.refuse("config_groups", "at least one group is needed; take the unquantised model")
    if config.num_layers > MOST_LAYERS:
        stored.refuse("config_groups", f"Smidgen reads groups of models of at most {MOST_LAYERS} layers")
    targets: dict[str, _Group] = {}
    for name in sections.values:
        section = sections.section(name)
        if section is None:
            sections.refuse(name, "a group with weights is needed")
        group = _read_group(stored, section)
        for target in _texts(section, "targets"):
            targets.setdefault(target, group)
    find, is_ignored = _finder(targets, stored), _finder(dict.fromkeys(_texts(stored, "ignore"), True), stored)

    written = sum(map(len, (*targets, *_texts(stored, "ignore"))))
    if written * config.num_layers * len(config.projections) > _MOST_WORK:
        stored.refuse("config_groups", "more targets than Smidgen compares with so many projections; use patterns")

    def group_of(name: str) -> _Group | None:
        return None if is_ignored(name) else find(name)

    projections = {name: group_of(name) for name in projection_names(config)}
    used = [group for group in projections.values() if group is not None]
    if not used:
        stored.refuse("config_groups", "their targets match no projection; take the unquantised model")
    head = None if config.tie_word_embeddings else group_of("lm_head")
    embedding = group_of("model.embed_tokens")
    if len({group.activation_bits for group in used}) > 1:
        stored.refuse("config_groups", "groups that round their inputs differently are not read")
    int4 = [group for group in (*used, head, embedding) if group is not None and group.storage.scheme == "int4"]
    if len({group.symmetric for group in int4}) > 1:
        stored.refuse("config_groups", "int4 with zero points in one group and without in another is not read")

    base = Counter(group.storage for group in used).most_common(1)[0][0]
    # Of several sizes: that of most projections, else of the head, which has none of its own.
    size = base.group_size or (int4[-1].storage.group_size if int4 else None)
    tree: Tree = {"scheme": base.scheme, "activation_bits": used[0].activation_bits}
    if int4:
        tree |= {"group_size": size, "symmetric": int4[0].symmetric}
    for part, whole in (("head", head), ("embedding", embedding)):
        if whole is not None:
            tree[part] = _vocabulary_scheme(stored, whole.storage, size)
    if config.tie_word_embeddings and embedding is not None:
        tree["head"] = tree["embedding"]
    stores = {name: Storage("bf16") if group is None else group.storage for name, group in projections.items()}
    overrides = overrides_of(config, stores, base, size)
    return tree | ({"overrides": overrides} if overrides else {})


def overrides_of(
    config: ModelConfig, stores: Mapping[str, Storage], base: Storage, group_size: int | None = None
) -> dict[str, str]:
    """The overrides that make all projections but those stored as `base` what `stores` says, by as few patterns as
    kinds of projections, where all layers agree."""
    result: dict[str, str] = {}
    for projection in config.projections:
        found = {index: stores[f"model.layers.{index}.{projection}"] for index in range(config.num_layers)}
        if len(set(found.values())) == 1:
            patterns = {projection: found[0]}
        else:
            patterns = {f"layers.{index}.{projection}": storage for index, storage in found.items()}
        for pattern, storage in patterns.items():
            if storage != base:
                result[pattern] = storage.scheme if storage.group_size == group_size else storage.label
    return result


def _read_group(stored: Fields, group: Fields) -> _Group:
    weights = group.section("weights")
    if weights is None:
        stored.refuse("config_groups", "a group with weights is needed")
    weights.must_be("actorder", ("weight", "static"), OTHER)
    weights.must_be("dynamic", (False,), OTHER)
    kind = (weights.text("type"), weights.integer("num_bits"), weights.text("strategy", "tensor"))
    symmetric = weights.flag("symmetric", True)
    formats: tuple[str, ...]
    if kind == ("int", 8, "channel") and symmetric:
        storage, formats = Storage("int8"), ("int-quantized", "naive-quantized")
    elif kind == ("int", 4, "group"):
        storage, formats = Storage("int4", weights.integer("group_size")), ("pack-quantized",)
    elif kind == ("float", 8, "tensor") and symmetric:
        storage, formats = Storage("fp8_tensor"), ("float-quantized", "naive-quantized")
    else:
        weights.refuse("num_bits", UNKNOWN)
    named = group if "format" in group else stored
    named.must_be("format", formats, OTHER)
    return _Group(storage, symmetric, _read_activations(group))


def _read_activations(group: Fields) -> int:
    activations = group.section("input_activations")
    if activations is None:
        return 16
    for name, allowed in (("num_bits", (8,)), ("strategy", ("token",)), ("dynamic", (True,)), ("symmetric", (True,))):
        activations.must_be(name, allowed, OTHER)
    return 8


def _vocabulary_scheme(stored: Fields, storage: Storage, group_size: int | None) -> str:
    if storage.scheme == "fp8_tensor":
        stored.refuse("ignore", "Smidgen keeps the head in bf16 or integers; lm_head must be ignored")
    if storage.scheme == "int4" and storage.group_size != group_size:
        stored.refuse("config_groups", "int4 of the head or embedding must have the group_size of the projections")
    return storage.scheme


def _texts(fields: Fields, name: str) -> list[str]:
    values: Any = fields.values.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        fields.refuse(name, "a list of names is needed")
    return values


def _finder(targets: Mapping[str, Value], stored: Fields) -> Callable[[str], Value | None]:
    """Finds what the target of a module's name stands for."""
    patterns = [
        (_matcher(target.removeprefix("re:"), stored), value)
        for target, value in sorted(targets.items(), key=lambda pair: pair[0])
        if target.startswith("re:")
    ]
    classes = [(_MODULE_OF_CLASS[name], value) for name, value in targets.items() if name in _MODULE_OF_CLASS]

    def find(name: str) -> Value | None:
        if name in targets:
            return targets[name]
        by_pattern = (value for is_match, value in patterns if is_match(name))
        by_class = (value for endings, value in classes if name.endswith(endings))
        return next(by_pattern, None) or next(by_class, None)

    return find


def _matcher(pattern: str, stored: Fields) -> Callable[[str], bool]:
    try:
        return matcher(pattern)
    except ValueError as error:
        stored.refuse("config_groups", f"the pattern '{pattern[:40]}' {error}")
