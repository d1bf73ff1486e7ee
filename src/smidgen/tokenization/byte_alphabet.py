"""GPT-2's way to write bytes as printable characters, used by the vocabularies of byte-level tokenizers."""

from __future__ import annotations


def _byte_characters() -> list[str]:
    """Printable characters of Latin-1 stand for themselves, the other bytes for U+0100 and up, in order."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (byte for byte in range(256) if byte not in printable)
    moved = {byte: chr(256 + number) for number, byte in enumerate(others)}
    return [moved.get(byte, chr(byte)) for byte in range(256)]


BYTE_CHARACTERS = _byte_characters()
"""The character of each byte: a space is `Ġ`, a line feed `Ċ`."""

_BYTES = {ord(character): chr(byte) for byte, character in enumerate(BYTE_CHARACTERS)}


def to_bytes(token: str) -> bytes:
    """The bytes that a vocabulary entry stands for; UnicodeEncodeError when it holds a character that is no byte's."""
    return token.translate(_BYTES).encode("latin-1")


def is_bytes(token: str) -> bool:
    """Whether every character of a vocabulary entry stands for a byte."""
    return all(ord(character) in _BYTES for character in token)
