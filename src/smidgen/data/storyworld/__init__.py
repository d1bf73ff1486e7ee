"""The built-in corpus: an unlimited, seeded stream of texts about a small consistent world, and questions about it.

What a model learned of it is measurable exactly: the questions of the splits val and test are about people, things,
places, foods, pattern items and operand pairs that never occur in the training split.
"""

from smidgen.data.storyworld.corpus import (
    DEFAULT_WEIGHTS,
    GROUPS,
    KINDS,
    Document,
    Question,
    generate,
    questions,
)
from smidgen.data.storyworld.scoring import score
from smidgen.data.storyworld.splits import SPLITS, Split

__all__ = [
    "DEFAULT_WEIGHTS",
    "GROUPS",
    "KINDS",
    "SPLITS",
    "Document",
    "Question",
    "Split",
    "generate",
    "questions",
    "score",
]
