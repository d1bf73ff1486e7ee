"""What a kind of text is made of: an exercise, a document with one answer marked in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Message = Mapping[str, str]
"""One turn of a chat: `role` (user or assistant) and `content`."""


@dataclass(frozen=True, slots=True)
class Exercise:
    """`prompt + answer + rest` is a document; the question is to go on from `prompt`.

    A prompt ends in a character that is no space and an answer begins with one, so that tokenizers which attach a
    space to the next word cut a prompt and its document alike. In a chat, `messages` are the turns before the answer,
    and the texts hold nothing but the last turn's content.
    """

    prompt: str
    answer: str
    rest: str = ""
    messages: tuple[Message, ...] | None = None

    @property
    def stop(self) -> str | None:
        """What follows the answer and does not occur in it: a blank line or one character; None where it is the end."""
        return "\n\n" if self.rest.startswith("\n\n") else self.rest[:1] or None


def document_of_questions(lead: str, questions: list[tuple[str, str]]) -> Exercise:
    """A lead text with questions and their answers below it, a line each; the first question is the marked one."""
    (first, answer), *others = questions
    rest = "".join(f"\n{question} {reply}" for question, reply in others)
    return Exercise(f"{lead}\n{first}", f" {answer}", rest)
