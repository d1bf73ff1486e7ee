"""The storyworld score: of the reference answers, of constants, and of the 5-gram baseline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from smidgen.data.storyworld import GROUPS, KINDS, Question, generate
from smidgen.evaluation.ngram import NGramModel
from smidgen.evaluation.storyworld import evaluate_storyworld, score_table


def perfect(questions: Sequence[Question]) -> list[str]:
    return [question.answer for question in questions]


def silent(questions: Sequence[Question]) -> list[str]:
    return [""] * len(questions)


def knows_lists(questions: Sequence[Question]) -> list[str]:
    return [question.answer if question.kind in ("lists", "stories") else "" for question in questions]


def test_scores_of_kinds_and_groups() -> None:
    assert set(evaluate_storyworld(perfect, questions_per_kind=5).kinds.values()) == {1.0}
    assert set(evaluate_storyworld(silent, questions_per_kind=5).kinds.values()) == {0.0}
    result = evaluate_storyworld(knows_lists, questions_per_kind=5)
    assert result.kinds == {kind: float(kind in ("lists", "stories")) for kind in KINDS}
    assert result.groups == {"facts": 0, "patterns": 0, "formats": 1, "reasoning": 0, "language": 0.5, "code": 0}


def test_only_the_groups_that_are_asked_for() -> None:
    some = ("facts", "patterns")
    result = evaluate_storyworld(perfect, questions_per_kind=3, groups=some)
    assert tuple(result.groups) == some
    assert set(result.kinds) == {"facts", "patterns"}


def test_everybody_gets_the_same_questions() -> None:
    seen: list[list[Question]] = []

    def remember(questions: Sequence[Question]) -> list[str]:
        seen.append(list(questions))
        return silent(questions)

    for _ in range(2):
        evaluate_storyworld(remember, questions_per_kind=4)
    evaluate_storyworld(remember, questions_per_kind=4, seed=1)
    assert seen[0] == seen[1] != seen[2]


def test_table() -> None:
    scores = {
        name: evaluate_storyworld(answer, questions_per_kind=2)
        for name, answer in {"trained": perfect, "untrained": silent}.items()
    }
    rows = score_table(scores)
    assert rows[0] == ["group", "kinds", "trained", "untrained"]
    assert ["reasoning", "arithmetic, comparisons", "100 %", "0 %"] in rows
    assert len(rows) == 1 + len(GROUPS)


@pytest.mark.slow
def test_five_grams_stay_under_a_fifth_on_every_kind() -> None:
    """Trained on half a million tokens of the training split, greedy."""
    documents = [document.text for document in islice(generate(0), 9_000)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=1536, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(documents[:4_000], trainer)
    encoded = [[*encoding.ids, 0] for encoding in tokenizer.encode_batch(documents)]
    model = NGramModel.fit(
        np.concatenate(encoded), np.cumsum([0, *map(len, encoded)]), vocab_size=tokenizer.get_vocab_size()
    )

    def answer(questions: Sequence[Question]) -> list[str]:
        prompts = [encoding.ids for encoding in tokenizer.encode_batch([question.prompt for question in questions])]
        return [tokenizer.decode(model.generate(prompt, 60, end_ids={0, 2})) for prompt in prompts]

    result = evaluate_storyworld(answer, questions_per_kind=50)
    assert max(result.kinds.values()) < 0.2, result.kinds
