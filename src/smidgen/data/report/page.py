"""One self-contained HTML page about a dataset folder: no scripts, nothing loaded from elsewhere, light and dark."""

from __future__ import annotations

from html import escape
from importlib import resources
from pathlib import Path

import numpy as np

from smidgen.data.dataset import Dataset
from smidgen.data.manifest import Manifest
from smidgen.data.report.histogram import draw_histogram
from smidgen.data.report.measure import Lengths, count_tokens, measure_lengths
from smidgen.data.report.tables import (
    bad_input_table,
    drops_list,
    edits_table,
    mixture_table,
    ratio,
    size,
    sources_table,
    splits_table,
    tokens_list,
)
from smidgen.runtime.errors import DataError
from smidgen.runtime.files import write_bytes


def write_report(path: str | Path, folder: str | Path) -> None:
    """Write the page about the dataset folder that `prepare` made; the same folder gives the same bytes.

    Raises DataError when the folder is damaged or the page cannot be written; what stood at `path` is then as before.
    """
    page = render_report(Path(folder))
    target = Path(path)
    try:
        write_bytes(target, page.encode("utf-8", "replace"))
    except OSError as error:
        raise DataError(f"--report {target}: cannot be written: {error.strerror}; choose another place") from None


def render_report(folder: Path) -> str:
    """The page as text."""
    manifest, dataset = Manifest.read(folder), Dataset.open(folder)
    name = folder.resolve().name
    style = (resources.files("smidgen.data.report") / "report.css").read_text(encoding="utf-8")
    lengths = measure_lengths(dataset)
    sections = [_overview(manifest, dataset, lengths)]
    if lengths is not None:
        sections.append(_section("Length of documents", draw_histogram(lengths), _describe(lengths)))
    sections += _cleaning(manifest)
    if manifest.bad_input:
        note = "Records that gave no document."
        sections.append(_section("Bad input", bad_input_table(manifest.bad_input), note))
    sections.append(_section("Sources", sources_table(manifest.sources), "Documents that were kept."))
    if manifest.mixture:
        note = "Weighted sources are thinned or repeated until each has its share of the training tokens."
        sections.append(_section("Mixture", mixture_table(manifest.mixture), note))
    counts = count_tokens(dataset)
    used = int(np.count_nonzero(counts))
    note = f"{used:,} of {len(counts):,} ids of the vocabulary occur. Spaces show as a dot."
    sections.append(_section("Most frequent tokens", tokens_list(counts, dataset.tokenizer()), note))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(name)}: data report</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{style}</style></head><body><main><header><p>Data report</p><h1>{escape(name)}</h1></header>"
        f"{''.join(sections)}</main></body></html>\n"
    )


def _overview(manifest: Manifest, dataset: Dataset, lengths: Lengths | None) -> str:
    records = [record for split in manifest.splits.values() for record in split]
    tokens, documents = sum(r.tokens for r in records), sum(r.documents for r in records)
    text = sum(r.bytes for r in records)
    kept, read = _kept_and_read(manifest)
    tiles = [
        (f"{tokens:,}", "tokens"),
        (f"{documents:,}", "documents"),
        (size(text), "of text"),
        (ratio(text, tokens), "bytes a token"),
        (f"{manifest.vocab_size:,}", f"ids, {manifest.tokenizer_kind}"),
    ]
    if read > kept:
        tiles.append((f"{kept / read:.1%}", "of documents kept"))
    shown = "".join(f"<li><b>{value}</b><span>{escape(label)}</span></li>" for value, label in tiles)
    return f"<ul class='tiles'>{shown}</ul>{splits_table(manifest)}"


def _cleaning(manifest: Manifest) -> list[str]:
    drops, edits = manifest.cleaning.get("drops", {}), manifest.cleaning.get("edits", {})
    sections = []
    if drops:
        kept, read = _kept_and_read(manifest)
        note = f"Cleaning dropped {read - kept:,} of {read:,} documents. Open a rule to see what it dropped."
        sections.append(_section("Dropped", drops_list(drops, read), note))
    if edits:
        note = "Documents changed, or for scrubbing and C4's lines what was replaced or removed."
        sections.append(_section("Edited", edits_table(edits), note))
    return sections


def _kept_and_read(manifest: Manifest) -> tuple[int, int]:
    """Documents after cleaning and before it."""
    kept = sum(source.documents for source in manifest.sources)
    return kept, kept + sum(entry["documents"] for entry in manifest.cleaning.get("drops", {}).values())


def _describe(lengths: Lengths) -> str:
    return (
        f"Half of the documents have at most {lengths.median:,} tokens, nine in ten at most {lengths.p90:,}; "
        f"the longest has {lengths.longest:,}."
    )


def _section(title: str, body: str, note: str) -> str:
    return f"<section><h2>{escape(title)}</h2><p>{escape(note)}</p>{body}</section>"
