"""The table of families and formats: `formats.json`, and `formats.md` for people."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cell:
    """One family in one format in one program, as a test found it. See `Table.add`."""

    family: str
    format: str
    program: str
    refused: str | None
    """Why this family is not written in this format; None where it is, and runs."""
    logits_difference: float | None = None
    token_agreement: float | None = None
    continuations: str | None = None


FAMILIES = ("elite", "rscalm", "gemma3", "tilda", "tinylm-gqa", "tinylm")
FORMATS = ("Hugging Face", "GGUF", "ONNX")
NAMES = ("fp32", "f32", "fp16", "f16", "bf16", "int8", "q8_0", "int4", "q4_0", "tq1_0", "tq2_0")


def write_table(cells: Iterable[Cell], folder: Path) -> None:
    """Write both files; cells that an earlier session left there stay unless this one has them anew."""
    path = folder / "formats.json"
    earlier = [Cell(**cell) for cell in json.loads(path.read_text(encoding="utf-8"))] if path.is_file() else []
    merged = {(cell.family, cell.format, cell.program): cell for cell in [*earlier, *cells]}
    ordered = sorted(merged.values(), key=lambda cell: (*_order(cell), FAMILIES.index(cell.family)))
    path.write_text(json.dumps([asdict(cell) for cell in ordered], indent=1) + "\n", encoding="utf-8")
    (folder / "formats.md").write_text(_markdown(ordered), encoding="utf-8")


def _order(cell: Cell) -> tuple[int, int, str]:
    family, _, name = cell.format.rpartition(" ")
    return FORMATS.index(family), NAMES.index(name), cell.program


def _markdown(cells: list[Cell]) -> str:
    rows: dict[tuple[str, str], dict[str, Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.format, cell.program), {})[cell.family] = cell
    reasons = list(dict.fromkeys(cell.refused for cell in cells if cell.refused))
    lines = [
        "Relative difference of logits to the model in float32 · strings with the same ids · greedy answers that are",
        "the same, end included. A dash: the program shows no logits, or takes ids. A letter: refused, see below.",
        "tinylm-gqa in GGUF: logits beside the model without rounded activations; llama.cpp has its own rounding.",
        "",
        f"| format | program | {' | '.join(FAMILIES)} |",
        "|---" * (2 + len(FAMILIES)) + "|",
    ]
    for (format, program), found in rows.items():
        shown = (_shown(found[family], reasons) if family in found else "" for family in FAMILIES)
        lines.append(f"| {format} | {program} | {' | '.join(shown)} |")
    lines.append("")
    lines += [f"- {_letter(number)}: {reason}" for number, reason in enumerate(reasons)]
    return "\n".join([*lines, ""])


def _shown(cell: Cell, reasons: list[str]) -> str:
    if cell.refused:
        return _letter(reasons.index(cell.refused))
    difference = "–" if cell.logits_difference is None else f"{cell.logits_difference:.0e}".replace("0e+00", "0")
    agreement = "–" if cell.token_agreement is None else f"{100 * cell.token_agreement:.4g} %"
    return f"{difference} · {agreement} · {cell.continuations}"


def _letter(number: int) -> str:
    return chr(ord("a") + number)
