"""The proof that tiktoken's engine gives a merge list's ids, against both engines themselves."""

from __future__ import annotations

import tiktoken
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import BPE

from smidgen.tokenization.merge_order import check_merge_order

Merges = list[tuple[str, str]]

LETTERS = "abc"


@st.composite
def merge_lists(draw: st.DrawFn) -> Merges:
    """Merges of known tokens in any order, as an editor might leave them: most are not what training would give."""
    tokens, merges = list(LETTERS), []
    for _ in range(draw(st.integers(1, 8))):
        pair = draw(st.sampled_from(tokens)), draw(st.sampled_from(tokens))
        if "".join(pair) not in tokens:
            tokens.append("".join(pair))
            merges.append(pair)
    return merges


def vocabulary_of(merges: Merges) -> dict[str, int]:
    return {token: number for number, token in enumerate([*LETTERS, *(left + right for left, right in merges)])}


def reference(merges: Merges) -> Tokenizer:
    return Tokenizer(BPE(vocab=vocabulary_of(merges), merges=merges))


@settings(max_examples=400)
@given(merge_lists(), st.lists(st.text(alphabet=LETTERS, max_size=24), max_size=30))
def test_accepted_merges_give_equal_ids(merges: Merges, texts: list[str]) -> None:
    if check_merge_order(vocabulary_of(merges), merges) is not None:
        return
    ranks = {token.encode(): number for token, number in vocabulary_of(merges).items()}
    fast = tiktoken.Encoding("test", pat_str="[abc]+", mergeable_ranks=ranks, special_tokens={})
    slow = reference(merges)
    for text in texts:
        assert fast.encode_ordinary(text) == slow.encode(text).ids


@settings(max_examples=400)
@given(merge_lists())
def test_merges_are_accepted_if_and_only_if_every_token_is_made_of_its_bytes(merges: Merges) -> None:
    slow = reference(merges)
    whole = all(len(slow.encode(left + right).ids) == 1 for left, right in merges)
    assert (check_merge_order(vocabulary_of(merges), merges) is None) == whole


def test_a_token_that_its_bytes_do_not_make_is_named() -> None:
    # "abc" is made of "ab" and "c", but "bc" is merged first, so "abc" stays "a" "bc"; tiktoken would merge the two.
    merges = [("b", "c"), ("a", "b"), ("ab", "c")]
    assert check_merge_order(vocabulary_of(merges), merges) == "merging the bytes of 'abc' gives other tokens"


def test_repetitions_are_merged_from_the_left() -> None:
    merges = [("a", "a"), ("aa", "a"), ("aa", "aaa")]
    assert check_merge_order(vocabulary_of(merges), merges) is None
    assert check_merge_order(vocabulary_of([("a", "a"), ("a", "aa")]), [("a", "a"), ("a", "aa")]) is not None


def test_ids_must_rise_with_the_merges() -> None:
    vocabulary = {"a": 0, "b": 1, "c": 2, "ab": 4, "bc": 3}
    reason = check_merge_order(vocabulary, [("a", "b"), ("b", "c")])
    assert reason == "ids do not rise with the merges"


def test_every_entry_must_come_from_one_merge() -> None:
    stray = "'ab' is in the vocabulary and not made by a merge, or the other way round"
    assert check_merge_order({"a": 0, "b": 1, "ab": 2}, []) == stray
    assert check_merge_order({"a": 0, "b": 1}, [("a", "b")]) == stray
    merges = [("a", "a"), ("aa", "a"), ("a", "aa")]
    assert check_merge_order({"a": 0, "aa": 1, "aaa": 2}, merges) == "two merges make the same token"
    unknown = "a merge uses 'ab', which does not exist at that point"
    assert check_merge_order({"a": 0, "b": 1, "aba": 2, "ab": 3}, [("ab", "a"), ("a", "b")]) == unknown
