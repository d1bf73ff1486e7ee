"""Tables of the report. Everything that comes from data is escaped here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from smidgen.data.manifest import Manifest, SourceRecord
from smidgen.runtime.protocols import Tokenizer

MOST_SOURCES = 40
MOST_TOKENS = 48
_NAME_CHARACTERS = 80


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """An HTML table of ready cells; the first column is text, the others are numbers, right-aligned."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def meter(share: float, kind: str = "kept") -> str:
    """A share of 0 to 1 as a bar and in percent."""
    width = 100 * min(max(share, 0.0), 1.0)
    bar = f'<span class="meter {kind}"><i style="width:{width:.2f}%"></i></span>'
    return f'{bar}<span class="percent">{percent(share)}</span>'


def percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.001 or share == 0 else "&lt; 0.1%"


def size(count: int) -> str:
    """Bytes in decimal units."""
    for limit, unit in ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= limit:
            return f"{count / limit:,.1f} {unit}"
    return f"{count:,} B"


def ratio(numerator: float, denominator: float) -> str:
    return f"{numerator / denominator:.2f}" if denominator else "–"


def splits_table(manifest: Manifest) -> str:
    """Training and validation."""
    rows = []
    for name, heading in (("train", "training"), ("val", "validation")):
        records = manifest.splits[name]  # type: ignore[index]
        tokens, documents, text = (
            sum(r.tokens for r in records),
            sum(r.documents for r in records),
            sum(r.bytes for r in records),
        )
        rows.append([heading, f"{documents:,}", f"{tokens:,}", size(text), ratio(text, tokens), str(len(records))])
    return table(["split", "documents", "tokens", "text", "bytes a token", "files"], rows)


def sources_table(sources: Sequence[SourceRecord]) -> str:
    """The sources with the most tokens."""
    ranked = sorted(sources, key=lambda source: -source.tokens)
    total = sum(source.tokens for source in sources)
    rows = [
        [
            _name(source.name),
            f"{source.documents:,}",
            f"{source.tokens:,}",
            meter(source.tokens / total if total else 0.0),
            size(source.text_bytes),
            ratio(source.text_bytes, source.tokens),
        ]
        for source in ranked[:MOST_SOURCES]
    ]
    if rest := ranked[MOST_SOURCES:]:
        tokens, text = sum(source.tokens for source in rest), sum(source.text_bytes for source in rest)
        documents = f"{sum(source.documents for source in rest):,}"
        share = meter(tokens / total if total else 0.0)
        rows.append([f"{len(rest):,} others", documents, f"{tokens:,}", share, size(text), ratio(text, tokens)])
    return table(["source", "documents", "tokens", "share of tokens", "text", "bytes a token"], rows)


def mixture_table(mixture: Sequence[Mapping[str, Any]]) -> str:
    """How often weighted sources were taken."""
    total = sum(share["taken"] for share in mixture)
    rows = [
        [
            _name(share["source"]),
            f"{share['weight']:g}",
            f"{share['tokens']:,}",
            f"{share['times']:.3g} ×",
            f"{share['taken']:,}",
            meter(share["taken"] / total if total else 0.0),
        ]
        for share in mixture
    ]
    return table(["source", "weight", "tokens it has", "taken", "tokens taken", "share of training tokens"], rows)


def drops_list(drops: Mapping[str, Mapping[str, Any]], documents: int) -> str:
    """A rule a row, most frequent first, that opens to its samples. `documents`: how many were read."""
    rows = []
    for number, (rule, entry) in enumerate(sorted(drops.items(), key=lambda item: (-item[1]["documents"], item[0]))):
        samples = "".join(
            f"<figure><figcaption>{_name(sample['source'])}</figcaption><pre>{escape(sample['text'])}</pre></figure>"
            for sample in entry["samples"]
        )
        rows.append(
            f"<details{' open' if number == 0 else ''}><summary><span><code>{escape(rule)}</code></span>"
            f"<span class='number'>{entry['documents']:,}</span><span class='number'>{size(entry['bytes'])}</span>"
            f"<span>{meter(entry['documents'] / max(documents, 1), 'lost')}</span></summary>{samples}</details>"
        )
    heading = (
        "<div class='summary head'><span>rule</span><span class='number'>documents</span>"
        "<span class='number'>text</span><span>of those read</span></div>"
    )
    return f'<div class="drops">{heading}{"".join(rows)}</div>'


def edits_table(edits: Mapping[str, int]) -> str:
    """Edits by name, most frequent first."""
    rows = [
        [f"<code>{escape(name)}</code>", f"{count:,}"]
        for name, count in sorted(edits.items(), key=lambda item: (-item[1], item[0]))
    ]
    return table(["edit", "times"], rows)


def bad_input_table(kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """Records that could not be read, with the place of the first ones."""
    rows = []
    for kind, entry in sorted(kinds.items(), key=lambda item: (-item[1]["count"], item[0])):
        examples = "<br>".join(_place(example) for example in entry["examples"])
        rows.append([f"{escape(kind)}<div class='examples'>{examples}</div>", f"{entry['count']:,}"])
    return table(["what was wrong, and the first places", "records"], rows)


def tokens_list(counts: NDArray[np.int64], tokenizer: Tokenizer | None) -> str:
    """The most frequent tokens with their shares. counts: shape [vocab_size]."""
    total = int(counts.sum())
    order = np.argsort(-counts, kind="stable")[:MOST_TOKENS]
    specials = {} if tokenizer is None else {number: name for name, number in tokenizer.special_tokens.items()}
    items = []
    for number in order.tolist():
        if counts[number] == 0:
            break
        if number in specials:
            shown = f"<em>{escape(specials[number])}</em>"
        else:
            shown = f"<code>{_visible(tokenizer.decode([number]))}</code>" if tokenizer else ""
        share = counts[number] / total
        items.append(
            f"<li><span class='id'>{number}</span><span class='token'>{shown}</span>"
            f"<span class='number' title='{counts[number]:,} times'>{percent(share)}</span></li>"
        )
    return f"<ol class='tokens'>{''.join(items)}</ol>"


def _visible(token: str) -> str:
    """A token with what has no shape made visible."""
    token = token if len(token) <= 24 else token[:23] + "…"
    marks = {" ": "<s>·</s>", "\n": "<s>\\n</s>", "\t": "<s>\\t</s>", "\r": "<s>\\r</s>"}
    return "".join(marks.get(c) or (escape(c) if c.isprintable() else f"<s>U+{ord(c):04X}</s>") for c in token)


def _name(name: str) -> str:
    """A source's name; of a long one the end tells more."""
    shown = name if len(name) <= _NAME_CHARACTERS else "…" + name[1 - _NAME_CHARACTERS :]
    return f"<span class='source' title='{escape(name)}'>{escape(shown)}</span>"


def _place(example: Mapping[str, Any]) -> str:
    place = "" if example["position"] is None else f", {example['unit']} {example['position']:,}"
    return escape(f"{example['source']}{place}: {example['message']}")
