"""Ask a model the suite's questions."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from smidgen.evaluation.likelihood import Logits, score_continuations
from smidgen.evaluation.suite.items import Category, Form, Item
from smidgen.evaluation.suite.scorers import CHOICE, judge
from smidgen.evaluation.suite.verdict import RIGHT, Reply, Verdict, wrong
from smidgen.runtime.generation import encode_chat, encode_prompt, end_of_turn_ids, stream
from smidgen.runtime.protocols import Engine, Tokenizer
from smidgen.runtime.sampling import SamplingParams


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model said to an item, and how it was judged."""

    category: str
    item: str
    form: Form
    prompt: str
    """What the model was asked; of a chat, the turns."""
    text: str
    reference: str
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Subject:
    """A model as the suite needs it."""

    engine: Engine
    tokenizer: Tokenizer
    logits: Logits
    run_code: bool = False

    @property
    def forms(self) -> tuple[Form, ...]:
        """The forms it can be asked in: chats only with a chat template."""
        return ("base", "chat") if self.tokenizer.chat_template else ("base",)


def ask(
    subject: Subject, categories: Sequence[Category], form: Form, progress: Callable[[int, int], None] | None = None
) -> list[Answer]:
    """Greedy answers to every item in one form, judged; in the items' order.

    `progress` hears how many of how many are done.
    """
    asked = [(category, item) for category in categories for item in category.items]
    answers: dict[int, Answer] = {}

    def done(index: int, text: str, verdict: Verdict) -> None:
        category, item = asked[index]
        reference = category.reference(item, form)
        answers[index] = Answer(category.name, item.id, form, shown_prompt(item, form), text, reference, verdict)
        if progress is not None:
            progress(len(answers), len(asked))

    chosen = [index for index, (category, _) in enumerate(asked) if category.scorer == CHOICE]
    written = [index for index, (category, _) in enumerate(asked) if category.scorer != CHOICE]
    for index in chosen:
        done(index, *_choose(subject, *asked[index], form))
    _write(subject, [(index, *asked[index]) for index in written], form, done)
    return [answers[index] for index in range(len(asked))]


def encode_item(tokenizer: Tokenizer, item: Item, form: Form) -> list[int]:
    """Token ids of an item's prompt."""
    return encode_prompt(tokenizer, item.prompt) if form == "base" else encode_chat(tokenizer, item.messages)


def shown_prompt(item: Item, form: Form) -> str:
    """An item's prompt for people."""
    if form == "base":
        return item.prompt
    return "\n".join(f"{message['role']}: {message['content']}" for message in item.messages)


def _write(
    subject: Subject,
    items: Sequence[tuple[int, Category, Item]],
    form: Form,
    done: Callable[[int, str, Verdict], None],
) -> None:
    engine, tokenizer = subject.engine, subject.tokenizer
    ends = end_of_turn_ids(tokenizer) if form == "chat" else ()
    # What needs the most room first: requests that end together leave no slot idle at the end.
    ordered = sorted(items, key=lambda entry: -entry[1].max_new_tokens)
    prompts: list[list[int]] = []
    params: list[SamplingParams] = []
    kept: list[list[tuple[int, Category, Item]]] = []
    asked: dict[Hashable, int] = {}
    for index, category, item in ordered:
        ids = encode_item(tokenizer, item, form)
        room = engine.info.max_seq_len - len(ids)
        if room < 1:
            done(index, "", wrong(f"its prompt of {len(ids)} tokens does not fit the context"))
            continue
        key = (tuple(ids), category.stop, category.max_new_tokens)
        if key in asked:  # one answer, judged by several categories
            kept[asked[key]].append((index, category, item))
            continue
        asked[key] = len(prompts)
        prompts.append(ids)
        params.append(
            SamplingParams(
                max_new_tokens=min(room, category.max_new_tokens),
                temperature=0.0,
                stop=category.stop if form == "base" else (),
                stop_token_ids=ends,
            )
        )
        kept.append([(index, category, item)])
    texts = [""] * len(kept)
    for chunk in stream(engine, tokenizer, prompts, params):
        texts[chunk.index] += chunk.text
        if chunk.finish_reason is not None:
            reply = Reply(texts[chunk.index], form, chunk.finish_reason == "stop", subject.run_code)
            for index, category, item in kept[chunk.index]:
                done(index, reply.text, judge(category, item, reply))


def _choose(subject: Subject, category: Category, item: Item, form: Form) -> tuple[str, Verdict]:
    """The choice whose text is most probable for each of its bytes, so that long ones are not at a disadvantage."""
    context = encode_item(subject.tokenizer, item, form)
    lead = category.lead if form == "base" else ""
    choices: Sequence[str] = item.expect["choices"]
    encoded = [_continued(subject.tokenizer, item, form, context, lead + choice) for choice in choices]
    if max(len(own) + len(choice) for own, choice in encoded) > subject.logits.max_seq_len:
        return "", wrong(f"its prompt of {len(context)} tokens does not fit the context")
    scored = score_continuations(subject.logits, encoded)
    rates = [found.total / len(choice.encode()) for found, choice in zip(scored, choices, strict=True)]
    text = choices[rates.index(max(rates))]
    verdict = RIGHT if text == item.reference else wrong(f"chooses {text}, not {item.reference}")
    return text, verdict


def _continued(
    tokenizer: Tokenizer, item: Item, form: Form, context: list[int], continuation: str
) -> tuple[list[int], list[int]]:
    """Context and continuation as the tokenizer cuts the whole text; a chat's answer begins anew."""
    if form == "chat":
        return context, tokenizer.encode(continuation)
    whole = encode_prompt(tokenizer, item.prompt + continuation)
    shared = next((n for n, (a, b) in enumerate(zip(context, whole, strict=False)) if a != b), len(context))
    return whole[:shared], whole[shared:]
