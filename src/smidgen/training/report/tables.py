"""The page's tables: overview, differences, data, configuration, environment, events."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from smidgen.training.report import formats
from smidgen.training.report.charts import key
from smidgen.training.report.formats import escape, or_unknown
from smidgen.training.report.run_data import Record, RunData, differences, number

_MOST_EVENTS = 100


def overview(runs: Sequence[RunData]) -> str:
    """The figures that matter: tiles for one run, a table for several."""
    if len(runs) == 1:
        tiles = "".join(
            f'<div class="tile"><b>{escape(value)}</b><span>{escape(name)}</span></div>'
            for name, value in _figures(runs[0])
        )
        return f'<div class="tiles">{tiles}</div>'
    columns = [name for name, _ in _figures(runs[0])]
    rows = [
        f"<tr><th>{key(index)}{escape(run.name)}</th>"
        + "".join(f"<td>{escape(value)}</td>" for _, value in _figures(run))
        + "</tr>"
        for index, run in enumerate(runs)
    ]
    head = "".join(f"<th>{escape(name)}</th>" for name in ["run", *columns])
    return (
        f'<div class="card scroll"><table class="runs"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}'
        "</tbody></table></div>"
    )


def difference_section(runs: Sequence[RunData]) -> str:
    """The fields of the configuration in which runs differ."""
    if len(runs) == 1:
        return ""
    differing = differences(list(runs))
    if not differing:
        return '<h2>Differences</h2><p class="dim">The configurations are equal.</p>'
    head = "".join(f"<th>{key(index)}{escape(run.name)}</th>" for index, run in enumerate(runs))
    rows = "".join(
        f"<tr><th>{escape(name)}</th>"
        + "".join("<td>–</td>" if value is None else f"<td>{escape(value)}</td>" for value in values)
        + "</tr>"
        for name, values in differing
    )
    return (
        '<h2>Differences</h2><div class="card scroll"><table><thead><tr><th>field</th>'
        f"{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def data_section(runs: Sequence[RunData]) -> str:
    """What the runs trained on."""
    return _per_run("Data", runs, lambda run: _pairs(_data_rows(run)))


def config_section(runs: Sequence[RunData]) -> str:
    """The whole configuration of each run."""
    return _folded(
        "Configuration",
        "every field",
        runs,
        lambda run: _pairs((name, escape(value)) for name, value in run.config.items()),
    )


def environment_section(runs: Sequence[RunData]) -> str:
    """What the runs ran on: the newest process of each, and in what earlier ones differed."""
    return _per_run("Environment", runs, lambda run: _pairs(_environment_rows(run)))


def event_section(runs: Sequence[RunData]) -> str:
    """What happened, newest first."""
    return _folded("Events", "what happened, newest first", runs, _event_table)


def _figures(run: RunData) -> list[tuple[str, str]]:
    best = run.best_validation
    steps = f"{run.last_step:,}" if run.total_steps is None else f"{run.last_step:,} / {run.total_steps:,}"
    return [
        ("best validation loss", "–" if best is None else f"{best['loss']:.4f}"),
        (
            "bits per byte",
            or_unknown(None if best is None else number(best.get("bits_per_byte")), lambda v: f"{v:.4f}"),
        ),
        ("parameters", or_unknown(number(run.plan.get("parameters")), formats.count)),
        ("steps", steps),
        ("tokens", or_unknown(run.last("tokens"), formats.count)),
        ("time", or_unknown(run.last("seconds"), formats.duration)),
        ("tokens a second, median", or_unknown(run.typical("tokens_per_second"), formats.count)),
        ("MFU, median", or_unknown(run.typical("mfu"), formats.percent)),
    ]


def _data_rows(run: RunData) -> Iterable[tuple[str, str]]:
    data = run.environments[-1].get("data") if run.environments else None
    for name in ("path", "mixture", "packing", "sampling", "document_masks"):
        for field, value in run.config.items():
            if (field == f"data.{name}" or field.startswith(f"data.{name}.")) and value != "null":
                yield field.removeprefix("data.").replace("_", " "), escape(value)
    per_step = number(run.plan.get("tokens_per_step"))
    if per_step is not None:
        yield "tokens a step", f"{per_step:,.0f}"
    per_epoch = number(run.plan.get("sequences_per_epoch"))
    if per_epoch is not None:
        yield "sequences an epoch", f"{per_epoch:,.0f}"
    if not isinstance(data, dict):
        return
    for split, counts in (data.get("splits") or {}).items():
        known = [(what, number(counts.get(what))) for what in ("tokens", "documents", "bytes")]
        shown = [formats.size(n) if what == "bytes" else f"{n:,.0f} {what}" for what, n in known if n is not None]
        yield f"split {split}".strip(), escape(", ".join(shown))
    vocabulary = or_unknown(number(data.get("vocab_size")), lambda size: f"{size:,.0f} ids")
    yield "vocabulary", escape(f"{vocabulary}, {data.get('tokenizer_kind')}")
    yield "tokenizer fingerprint", f"<code>{escape(data.get('tokenizer_fingerprint'))}</code>"
    sources = data.get("sources") or []
    yield (
        "sources",
        escape(", ".join(map(str, sources[:8])) + (f", and {len(sources) - 8} more" if len(sources) > 8 else "")),
    )


def _environment_rows(run: RunData) -> Iterable[tuple[str, str]]:
    if not run.environments:
        return
    newest = run.environments[-1]
    yield from _describe(newest, run.plan)
    for number_, earlier in enumerate(run.environments[:-1], 1):
        differing = [
            name for name in newest if name not in ("step", "time", "data") and earlier.get(name) != newest[name]
        ]
        word = "; ".join(f"{name} {_shown(name, earlier.get(name))}" for name in differing) or "the same"
        yield f"process {number_}, from step {earlier.get('step')}", escape(word)


def _describe(environment: Record, plan: Record) -> Iterable[tuple[str, str]]:
    git = environment.get("git")
    if plan.get("device"):
        peak = number(plan.get("peak_flops"))
        known = "peak unknown" if peak is None else f"peak {peak / 1e12:.3g} TFLOP/s"
        yield "device", escape(f"{plan['device']}; {known}")
    yield "processor", escape(f"{environment.get('processor')}, {environment.get('cores')} cores")
    memory = number(environment.get("memory_bytes"))
    if memory is not None:
        yield "memory", formats.size(memory)
    for name in ("accelerators", "cuda", "hip"):
        if environment.get(name):
            yield name, escape(_short(environment[name]))
    yield "system", escape(environment.get("system"))
    packages = {"smidgen": environment.get("smidgen"), "python": environment.get("python")}
    packages |= environment.get("packages") or {}
    yield "versions", escape(", ".join(f"{name} {value}" for name, value in packages.items()))
    if isinstance(git, dict):
        changed = ", with changes that are not committed" if git.get("changed") else ""
        yield "commit", f"<code>{escape(git.get('commit'))}</code>{changed}"
    command = environment.get("command")
    if isinstance(command, list):
        yield "command", f"<code>{escape(_shown('command', command))}</code>"
    if environment.get("variables"):
        yield "variables", escape(" ".join(f"{k}={v}" for k, v in environment["variables"].items()))
    yield "started", escape(environment.get("time"))


def _event_table(run: RunData) -> str:
    if not run.events:
        return ""
    rows = "".join(map(_event_row, run.events[: -_MOST_EVENTS - 1 : -1]))
    earlier = len(run.events) - _MOST_EVENTS
    more = f'<p class="inside dim">{earlier:,} earlier ones are in events.jsonl.</p>' if earlier > 0 else ""
    return (
        '<div class="scroll"><table><thead><tr><th>step</th><th>event</th><th></th><th>time, UTC</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div>{more}"
    )


def _event_row(event: Record) -> str:
    kind = event["kind"].replace("_", " ")
    time = str(event.get("time", "")).replace("T", " ").removesuffix("+00:00")
    cells = "".join(f"<td>{escape(text)}</td>" for text in (f"{event['step']:,}", kind, _told(event)))
    return f'<tr>{cells}<td class="dim">{escape(time)}</td></tr>'


def _told(event: Record) -> str:
    if event.get("message"):
        return str(event["message"])
    if event["kind"] == "end":
        return str(event.get("error") or event.get("signal") or "")
    changes = event.get("changes")
    if isinstance(changes, dict) and changes:
        return ", ".join(f"{name}: {_short(pair)}" for name, pair in changes.items())
    return str(event.get("checkpoint", ""))


def _per_run(title: str, runs: Sequence[RunData], make: Callable[[RunData], str]) -> str:
    """A section with a table for each run; for several they are folded."""
    if len(runs) > 1:
        return _folded(title, "", runs, make)
    table = make(runs[0])
    return f'<h2>{escape(title)}</h2><div class="card">{table}</div>' if table else ""


def _folded(title: str, what: str, runs: Sequence[RunData], make: Callable[[RunData], str]) -> str:
    """A section whose tables open on a click."""
    parts = [(run.name if len(runs) > 1 else what, make(run)) for run in runs]
    folds = "".join(f"<details><summary>{escape(name)}</summary>{table}</details>" for name, table in parts if table)
    return f"<h2>{escape(title)}</h2>{folds}" if folds else ""


def _pairs(rows: Iterable[tuple[str, str]]) -> str:
    """A table of names and values; the values are HTML."""
    cells = "".join(f"<tr><th>{escape(name)}</th><td>{value}</td></tr>" for name, value in rows)
    return f'<div class="scroll"><table><tbody>{cells}</tbody></table></div>' if cells else ""


def _shown(name: str, value: Any) -> str:
    """A field of an environment; a command as it would be typed."""
    if name == "command" and isinstance(value, list):
        return shlex.join(map(str, value))
    return _short(value)


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " → ".join(map(_short, value)) if len(value) == 2 else ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
