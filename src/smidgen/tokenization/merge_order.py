"""When tiktoken's engine gives the ids of a byte-pair merge list.

Merge lists (GPT-2's `merges.txt`, `tokenizers`) name *pairs*: at each step the adjacent pair that stands first in the
list is merged. tiktoken knows no pairs: it merges the adjacent parts whose *concatenation* is the token with the lowest
id. The two agree on every input if

1. every merge makes a token of its own, and later merges make higher ids;
2. merging the bytes of any token by the list gives exactly that token.

For by 2 the last step that makes a token is always its own merge. An adjacent pair whose concatenation is a token, but
which is not that token's merge, would be another last step, so it never occurs in any text: what happens between
two boundaries that no merge has crossed does not depend on the rest. So at every step both see the same candidates,
in by 1 the same order.

Vocabularies that come out of training have both properties; edited or translated ones may not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def check_merge_order(vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]]) -> str | None:
    """Why tiktoken's engine would not do for these merges; None if it gives the same ids.

    vocabulary: ids of the single bytes and of what merges make, nothing else. merges: pairs in order of priority.
    """
    # Symbols are numbered in the order they come to be: single bytes, then what each merge makes.
    symbols = {token: number for number, token in enumerate(token for token in vocabulary if len(token) == 1)}
    num_bytes = len(symbols)
    lefts, rights = [], []
    try:
        for number, (left, right) in enumerate(merges, start=num_bytes):
            lefts.append(symbols[left])
            rights.append(symbols[right])
            symbols[left + right] = number
    except KeyError as error:
        return f"a merge uses '{error.args[0]}', which does not exist at that point"
    if len(symbols) != num_bytes + len(merges):
        return "two merges make the same token"
    if symbols.keys() != vocabulary.keys():
        strays = sorted(symbols.keys() ^ vocabulary.keys())
        return f"'{strays[0]}' is in the vocabulary and not made by a merge, or the other way round"
    ids = np.fromiter((vocabulary[token] for token in symbols), np.int64, len(symbols))
    if (np.diff(ids[num_bytes:]) <= 0).any():
        return "ids do not rise with the merges"
    wrong = _tokens_made_otherwise(np.array(lefts, np.int64), np.array(rights, np.int64), num_bytes)
    if wrong.size:
        left, right = merges[int(wrong[0])]
        return f"merging the bytes of '{left + right}' gives other tokens"
    return None


def _tokens_made_otherwise(lefts: Indices, rights: Indices, num_bytes: int) -> Indices:
    """Numbers of the merges that are not the last step of merging their own token's bytes.

    lefts, rights: [M] symbols that each merge joins. All merges are checked at once, each by running the steps before
    it backwards: two symbols touch at the boundary between its left and its right part, and the one made last is taken
    apart. Had there been a merge for the two that touch before that one was made, it would have crossed the boundary.
    """
    keys = lefts * (num_bytes + len(lefts)) + rights
    order = np.argsort(keys)
    sorted_keys = keys[order]

    left_part = np.concatenate([np.arange(num_bytes), lefts])
    right_part = np.concatenate([np.arange(num_bytes), rights])
    left, right = lefts, rights
    numbers = np.arange(len(lefts))
    wrong = np.zeros(len(lefts), bool)
    while numbers.size:
        from_left = left > right
        made = np.maximum(left, right)
        left = np.where(from_left, right_part[left], left)
        right = np.where(from_left, right, left_part[right])
        key = left * (num_bytes + len(lefts)) + right
        place = np.minimum(np.searchsorted(sorted_keys, key), len(keys) - 1)
        crossing = order[place] + num_bytes
        # The same merge on both sides ("aaa") is made from left to right: it crosses only if it made the right symbol.
        too_early = (sorted_keys[place] == key) & np.where(from_left, crossing < made, crossing <= made)
        wrong[numbers[too_early]] = True
        going_on = ~too_early & ((left >= num_bytes) | (right >= num_bytes))
        numbers, left, right = numbers[going_on], left[going_on], right[going_on]
    return np.flatnonzero(wrong)
