"""From preset names, YAML files and dotted overrides to a validated configuration, and its errors in one line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticUndefined

from smidgen.config.model import ModelConfig
from smidgen.config.parts import Part
from smidgen.config.run import Config
from smidgen.runtime.errors import ConfigError

Section = TypeVar("Section", bound=Part)
Tree = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """YAML 1.2's numbers and booleans (`6e-4` is a number, `no` is a string), and no repeated keys."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, regex) for tag, regex in resolvers if tag.rsplit(":", 1)[1] not in {"bool", "float", "int"}]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9][0-9_]*$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:\.[0-9]+|[0-9][0-9_]*(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.inf$|^\.nan$"),
    list("-+.0123456789"),
)


def parse_yaml(text: str, where: str) -> Any:
    """The value of a YAML text. `where` names it in errors."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}{line}: not valid YAML: {problem}") from None


@cache
def preset_names() -> tuple[str, ...]:
    """Names of the built-in presets, sorted."""
    folder = resources.files("smidgen.config") / "presets"
    return tuple(sorted(p.name[: -len(".yaml")] for p in folder.iterdir() if p.name.endswith(".yaml")))


def load_config(source: str | Path, overrides: Mapping[str, Any] | Sequence[str] = ()) -> Config:
    """A preset's name or a YAML file, with dotted overrides, as a validated configuration.

    `overrides` is a mapping `{"model.num_layers": 4}` or command-line tokens `["--model.num_layers", "4"]`.
    Raises ConfigError naming the field, its value and the remedy.
    """
    tree = merge(read_tree(source), override_tree(overrides))
    return validate(Config, tree)


def load_model_config(path: Path) -> ModelConfig:
    """The model section that a model folder keeps in `smidgen.yaml`."""
    return validate(ModelConfig, _read_mapping(path), where=f"{path}: ")


def dump_config(section: Part) -> str:
    """A section as YAML, every field written out; `validate` of it gives an equal section."""
    return yaml.safe_dump(section.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_tree(source: str | Path, seen: tuple[str, ...] = ()) -> Tree:
    """The unvalidated tree of a preset or YAML file, its `base:` chain merged in."""
    path = _find(source)
    if str(path) in seen:
        raise ConfigError(f"{path}: base: the chain of bases returns to this file; remove one of them")
    tree = _read_mapping(path)
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise ConfigError(f"{path}: base = {base!r}: use the name of a preset or the path of a YAML file")
    beside = path.parent / base
    return merge(read_tree(beside if beside.is_file() else base, (*seen, str(path))), tree)


def merge(base: Tree, over: Mapping[str, Any]) -> Tree:
    """`base` with the leaves of `over` in place. A section whose `kind` changes replaces the old one whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        if isinstance(old, dict) and isinstance(value, Mapping):
            changed = "kind" in value and value["kind"] != old.get("kind", value["kind"])
            merged[key] = dict(value) if changed else merge(old, value)
        else:
            merged[key] = value
    return merged


def override_tree(overrides: Mapping[str, Any] | Sequence[str]) -> Tree:
    """Dotted overrides as a tree. Tokens come as `--a.b value` or `--a.b=value`; values are YAML."""
    pairs = overrides.items() if isinstance(overrides, Mapping) else _parse_tokens(overrides)
    tree: Tree = {}
    for path, value in pairs:
        branch: Tree = {}
        leaf = branch
        *parents, name = path.split(".")
        for parent in parents:
            leaf[parent] = leaf = {}
        leaf[name] = value
        tree = merge(tree, branch)
    return tree


def validate(section: type[Section], tree: Mapping[str, Any], where: str = "") -> Section:
    """`tree` as a `section`; raises ConfigError with the first problem in one line."""
    try:
        return section.model_validate(dict(tree))
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # An unknown key often causes the others (a misspelt required field is also missing): it comes first.
        problems.sort(key=lambda problem: problem["type"] != "extra_forbidden")
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise ConfigError(where + _describe(section, problems[0]) + more) from None


def field_paths(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every dotted path that may be overridden, with pydantic's field information.

    The `kind` that chooses between sections comes once, with all its values.
    """
    for name, field in section.model_fields.items():
        parts = [t for t in _types(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        if not parts:
            yield prefix + name, field
        inner = [pair for part in parts for pair in field_paths(part, f"{prefix}{name}.")]
        fields = dict(reversed(inner))  # where two kinds share a name, the first describes it
        if len(parts) > 1:
            kind = copy(fields[f"{prefix}{name}.kind"])
            kind.annotation = cast(Any, Literal[tuple(map(_kind, parts))])
            kind.default = PydanticUndefined
            kind.description = field.description
            fields[f"{prefix}{name}.kind"] = kind
        yield from ((path, fields[path]) for path in dict(inner))


def _find(source: str | Path) -> Path:
    name = str(source)
    if name in preset_names():
        return Path(str(resources.files("smidgen.config") / "presets" / f"{name}.yaml"))
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir() and (path / "config.yaml").is_file():
        return path / "config.yaml"
    close = difflib.get_close_matches(name, preset_names(), n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else "'smidgen presets' lists the presets."
    raise ConfigError(f"'{name}' is neither a preset nor a YAML file; {hint}")


def _read_mapping(path: Path) -> Tree:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    tree = parse_yaml(text, str(path))
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: holds no mapping of sections; write e.g. 'base: elite-tiny'")
    return tree


def _parse_tokens(tokens: Sequence[str]) -> Iterator[tuple[str, Any]]:
    remaining = list(tokens)
    while remaining:
        token = remaining.pop(0)
        if not token.startswith("--") or len(token) == 2:
            raise ConfigError(f"'{token}': expected an override such as --training.lr 3e-4")
        path, has_value, value = token[2:].partition("=")
        path = path.replace("-", "_")
        if not has_value:
            if not remaining:
                raise ConfigError(f"--{path}: the value is missing; write e.g. --{path} VALUE")
            value = remaining.pop(0)
        yield path, parse_yaml(value, f"--{path}")


def _describe(section: type[BaseModel], problem: ErrorDetails) -> str:
    owner: Any = section
    path: list[str] = []
    kinds: list[type[BaseModel]] = []
    for step in problem["loc"]:
        # pydantic puts the discriminator's value between a union's field and the field within: no key of ours.
        members = [t for t in _types(owner) if isinstance(t, type) and issubclass(t, BaseModel)]
        tagged = [m for m in members if "kind" in m.model_fields and _kind(m) == step]
        if len(members) > 1 and tagged:
            owner, kinds = tagged[0], members
            continue
        path.append(str(step))
        fields = members[0].model_fields if len(members) == 1 else {}
        owner = fields[str(step)].annotation if str(step) in fields else owner
    context = problem.get("ctx", {})
    if problem["type"] == "impossible":
        path.extend(context["field"].split("."))
        return f"{'.'.join(path)} = {_shown(context['value'])}: {context['remedy']}"
    where = ".".join(path)
    if problem["type"] == "extra_forbidden":
        others = [_kind(other) for other in kinds if owner in kinds and path[-1] in other.model_fields]
        if others:
            kind = f"{'.'.join(path[:-1])}.kind"
            return f"{where}: belongs to {kind} {' or '.join(others)}, and this is {_kind(owner)}; remove it"
        return f"{where}: no such field{_suggestion(owner, path, section)}"
    if problem["type"] == "missing":
        return f"{where}: this field is required; add it"
    if problem["type"] == "union_tag_invalid":
        return f"{where}.kind = {context['tag']}: use one of {context['expected_tags']}"
    if problem["type"] == "union_tag_not_found":
        return f"{where}.kind: this field is required; it says which kind of {path[-1]} the section describes"
    message = problem["msg"]
    return f"{where} = {_shown(problem['input'])}: {message[0].lower()}{message[1:]}"


def _suggestion(owner: Any, path: list[str], section: type[BaseModel]) -> str:
    members = [t for t in _types(owner) if isinstance(t, type) and issubclass(t, BaseModel)]
    siblings = [name for member in members for name in member.model_fields]
    everywhere = [name for name, _ in field_paths(section)]
    elsewhere = [name for name in everywhere if name.rsplit(".", 1)[-1] == path[-1]]
    beside = [".".join([*path[:-1], name]) for name in difflib.get_close_matches(path[-1], siblings, n=1)]
    near = elsewhere or beside or difflib.get_close_matches(".".join(path), everywhere, n=1)
    return f"; did you mean '{near[0]}'?" if near else f"; use one of {', '.join(siblings)}"


def _kind(section: type[BaseModel]) -> str:
    """The value of `kind` that chooses a section."""
    return str(section.model_fields["kind"].default)


def _types(annotation: Any) -> list[Any]:
    """The members of a union, through Annotated; or the one type itself."""
    arguments = [a for a in get_args(annotation) if isinstance(a, type) or get_args(a)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [t for argument in arguments for t in _types(argument)] or [annotation]


def _shown(value: Any) -> str:
    text = "null" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
