"""Structure-aware damage to the files that Smidgen reads: most of it leaves a file that still begins rightly."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

NUMBERS = [0, 1, -1, 2, 3, 7, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**64, 1e308, 0.5, -0.0]
VALUES: list[Any] = [None, True, False, "", "x" * 300, "\ud7ff", [], {}, [[]], [None], {"a": 1}, [0] * 50, *NUMBERS]


def mutate_json(value: Any, draw: random.Random) -> Any:
    """One or a few changes somewhere in a tree: values of other types and sizes, keys gone, doubled or renamed."""
    tree = json.loads(json.dumps(value))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        holder, key = _place(tree, draw)
        if holder is None:
            continue
        change = draw.randrange(5)
        if change == 0 and isinstance(holder, dict):
            del holder[key]
        elif change == 1 and isinstance(holder, dict):
            holder[str(key) + draw.choice(("s", "_", " "))] = holder.pop(key)
        elif change == 2 and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[draw.randrange(len(holder))]))
        elif isinstance(holder[key], str) and draw.random() < 0.5:
            holder[key] = mutate_text(holder[key], draw)
        elif isinstance(holder[key], int | float) and draw.random() < 0.5:
            holder[key] = draw.choice(NUMBERS)
        else:
            holder[key] = copy.deepcopy(draw.choice(VALUES))  # its lists are changed by later changes
    return tree


def _place(tree: Any, draw: random.Random) -> tuple[Any, Any]:
    """A random holder and key; short lists and mappings are entered more often than the length of long ones says."""
    holder, key = None, None
    while isinstance(tree, dict | list) and tree:
        holder = tree
        key = draw.choice(list(tree)) if isinstance(tree, dict) else draw.randrange(len(tree))
        tree = holder[key]
        if draw.random() < 0.15:
            break
    return holder, key


def mutate_text(text: str, draw: random.Random) -> str:
    place = draw.randrange(len(text) + 1)
    return draw.choice((text[:place], text[place:], text[:place] + "\u2581" + text[place:], text * 2, text + " "))


def mutate_bytes(data: bytes, draw: random.Random) -> bytes:
    """Damage without regard to structure: bits, runs, cuts and insertions."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5))):
        place = draw.randrange(len(changed)) if changed else 0
        kind = draw.randrange(5)
        if kind == 0 and changed:
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == 1:
            del changed[place : place + draw.choice((1, 4, 8, 100))]
        elif kind == 2:
            changed[place:place] = draw.randbytes(draw.choice((1, 4, 8)))
        elif kind == 3:
            del changed[place:]
        else:
            changed[place : place + 8] = struct.pack("<Q", draw.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1)))
    return bytes(changed)


def mutate_safetensors(data: bytes, draw: random.Random) -> bytes:
    """A header with other names, types, shapes and offsets, of the right length more often than not."""
    if draw.random() < 0.2:
        return mutate_bytes(data, draw)
    length = struct.unpack("<Q", data[:8])[0]
    header = mutate_json(json.loads(data[8 : 8 + length]), draw)
    if draw.random() < 0.3 and isinstance(header, dict) and len(header) > 1:
        entry = header[draw.choice(list(header))]
        if isinstance(entry, dict) and "data_offsets" in entry:
            entry["dtype"] = draw.choice(("F64", "F32", "F16", "BF16", "F8_E4M3", "I64", "U8", "BOOL", "F4", "X"))
    encoded = json.dumps(header).encode()
    stated = len(encoded) if draw.random() < 0.9 else draw.choice((0, 1, len(encoded) + 9, 2**40, 2**63))
    return struct.pack("<Q", stated) + encoded + data[8 + length :]


def mutate_gguf(data: bytes, draw: random.Random) -> bytes:
    """Known 4- and 8-byte fields (counts, lengths, types, shapes, offsets) replaced by other numbers."""
    if draw.random() < 0.2:
        return mutate_bytes(data, draw)
    changed = bytearray(data)
    if draw.random() < 0.6:
        # Anywhere, without a change of length: mostly texts of tokens, and weights.
        for _ in range(draw.choice((1, 1, 2))):
            changed[draw.randrange(24, len(changed))] = draw.randrange(256)
        return bytes(changed)
    keys = [
        b"general.architecture",
        b"block_count",
        b"head_count",
        b"embedding_length",
        b"feed_forward_length",
        b"key_length",
        b"context_length",
        b"tokens",
        b"token_type",
        b"merges",
        b"scores",
        b"token_id",
        b"rope",
        b"epsilon",
        b"ggml.model",
        b"ggml.pre",
        b"token_embd",
        b"attn_q",
        b"attn_norm",
        b"ffn_down",
        b"output_norm",
    ]
    for _ in range(draw.choice((1, 1, 2))):
        key = draw.choice(keys)
        place = changed.find(key)
        if place < 0:
            continue
        place += len(key) + draw.choice((4, 4, 4, 4, 8, 16, 0, 12, 24)) + draw.choice((0, 0, 0, 7))
        number = draw.choice((0, 1, 2, 3, 5, 9, 31, 33, 64, 300, 2**20, 2**31, 2**32 - 1))
        if draw.random() < 0.8:
            changed[place : place + 4] = struct.pack("<I", number)
        else:
            changed[place : place + 8] = struct.pack("<Q", draw.choice((number, 2**40, 2**63, 2**64 - 1)))
    return bytes(changed[: len(data)])


def mutate_protobuf(data: bytes, draw: random.Random) -> bytes:
    """A SentencePiece model: damage in its pieces and at its end, where the specifications are."""
    if draw.random() < 0.5:
        return mutate_bytes(data, draw)
    tail = max(len(data) - 200, 0)
    return data[:tail] + mutate_bytes(data[tail:], draw)


def json_bytes(mutate: Callable[[Any, random.Random], Any], data: bytes, draw: random.Random) -> bytes:
    """A changed JSON file; now and then damaged as bytes, or nested deeper than a parser likes."""
    chance = draw.random()
    if chance < 0.15:
        return mutate_bytes(data, draw)
    if chance < 0.17:
        return b'{"a":' * 3_000 + b"1" + b"}" * 3_000
    return json.dumps(mutate(json.loads(data), draw)).encode()
