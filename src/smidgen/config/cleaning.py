"""What `prepare` does to a document before it becomes tokens; every step is off until asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, Strict, model_validator

from smidgen.config.parts import Part, impossible

Fraction = Annotated[float, Field(gt=0, le=1)]
Names = Annotated[tuple[str, ...], Strict(False)]

LEVELS: dict[str, dict[str, Any]] = {
    "none": {},
    "tidy": {
        "repair_encoding": True,
        "normalization": "NFC",
        "control_characters": True,
        "whitespace": True,
        "duplicates": {"documents": True},
    },
    "web": {
        "html": "main",
        "repair_encoding": True,
        "normalization": "NFC",
        "control_characters": True,
        "whitespace": True,
        "scrub": ["email", "ip", "secret"],
        "gopher_quality": True,
        "gopher_repetition": True,
        "duplicates": {"documents": True, "near": True},
    },
}
"""What a level sets; a field that is given itself wins."""


class DuplicatesConfig(Part):
    """Which repeated text is removed; of equal ones the first stays."""

    documents: bool = False
    """Drop a document whose text is equal to an earlier one's."""
    paragraphs: bool = False
    """Remove a paragraph (text between blank lines) that stood in an earlier document or above."""
    min_paragraph_words: PositiveInt = 10
    """Shorter paragraphs (headings, a "Yes.") may repeat."""
    near: bool = False
    """Drop a document whose word n-grams are nearly those of an earlier one (MinHash-LSH)."""
    near_threshold: Fraction = 0.8
    """Estimated Jaccard similarity of n-gram sets from which on documents are near duplicates."""
    near_ngram: PositiveInt = 5
    """Words in an n-gram of near duplicates."""
    permutations: Annotated[int, Field(ge=16, le=4096)] = 128
    """MinHash values a document; more make the estimate finer (standard error at most 0.5 / sqrt of it)."""


class DecontaminationConfig(Part):
    """Evaluation sets that training text may not hold."""

    files: Names = ()
    """Evaluation files (JSON Lines, or text with an item a line): a document that shares an n-gram is dropped."""
    ngram: Annotated[int, Field(ge=2)] = 13
    """Words in a row that count as overlap (GPT-3: 13)."""
    min_words: Annotated[int, Field(ge=2)] = 8
    """Items shorter than an n-gram are looked for whole, unless they have fewer words than this."""


class CleaningConfig(Part):
    """Steps in the order in which they act: edits of the text, filters, duplicates. See docs/cleaning.md."""

    level: Literal["none", "tidy", "web"] = "none"
    """tidy: repair, NFC, control characters, whitespace, equal documents; web: also HTML, Gopher, scrub, near ones."""
    html: Literal["keep", "text", "main"] = "keep"
    """Documents that start as HTML: text strips the markup, main also navigation and other boilerplate."""
    repair_encoding: bool = False
    """Undo mojibake such as "schÃ¶n" (ftfy)."""
    normalization: Literal["none", "NFC", "NFKC"] = "none"
    """Unicode normalisation form."""
    control_characters: bool = False
    """Remove control and invisible format characters, except line breaks, tabs and joiners that scripts need."""
    whitespace: bool = False
    """Fold runs of spaces inside lines, strip line ends, allow one blank line in a row; indentation stays."""
    c4: bool = False
    """C4's rules for lines and pages (Raffel et al. 2020)."""
    scrub: Annotated[tuple[Literal["email", "ip", "secret"], ...], Strict(False)] = ()
    """What is replaced by a placeholder: email and ip addresses, secret keys and tokens."""
    min_characters: PositiveInt | None = None
    """Drop shorter documents."""
    max_characters: PositiveInt | None = None
    """Drop longer documents."""
    min_words: PositiveInt | None = None
    """Drop documents of fewer words (split at white space)."""
    max_words: PositiveInt | None = None
    """Drop documents of more words."""
    languages: Names = ()
    """Languages to keep, as ISO 639-1 codes such as en; empty keeps all."""
    language_confidence: Fraction = 0.65
    """Probability of the language below which a document is dropped."""
    gopher_quality: bool = False
    """Gopher's rules for words, symbols, bullets and stop words (Rae et al. 2021, A1.1)."""
    gopher_repetition: bool = False
    """Gopher's rules for repeated lines, paragraphs and n-grams (Rae et al. 2021, table A1)."""
    skip_rules: Names = ()
    """Names of rules, as the report lists them, that shall not apply."""
    decontamination: DecontaminationConfig = DecontaminationConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()

    @model_validator(mode="before")
    @classmethod
    def _apply_level(cls, tree: Any) -> Any:
        if not isinstance(tree, Mapping):
            return tree
        preset = LEVELS.get(str(tree.get("level", "none")), {})
        merged = {**preset, **tree}
        if isinstance(preset.get("duplicates"), Mapping) and isinstance(tree.get("duplicates"), Mapping):
            merged["duplicates"] = {**preset["duplicates"], **tree["duplicates"]}
        return merged

    @model_validator(mode="after")
    def _check(self) -> CleaningConfig:
        for unit in ("characters", "words"):
            low, high = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if low is not None and high is not None and low > high:
                raise impossible(f"min_{unit}", low, f"exceeds max_{unit} {high}; nothing would be kept")
        return self
