"""From raw documents to clean ones: edits, filters, duplicates, decontamination. Every step is off until asked for."""

from smidgen.data.cleaning.cleaner import Cleaned, Cleaner, make_cleaner
from smidgen.data.cleaning.duplicates import DuplicateFilter, Verdict
from smidgen.data.cleaning.keys import Keys
from smidgen.data.cleaning.paragraphs import remove_paragraphs, split_paragraphs
from smidgen.data.cleaning.tally import Drops, Tally

__all__ = [
    "Cleaned",
    "Cleaner",
    "Drops",
    "DuplicateFilter",
    "Keys",
    "Tally",
    "Verdict",
    "make_cleaner",
    "remove_paragraphs",
    "split_paragraphs",
]
