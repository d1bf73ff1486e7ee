"""Who answers the questions of the built-in corpus: any engine, or the n-gram baseline."""

from __future__ import annotations

from collections.abc import Sequence

from smidgen.data.storyworld import Question
from smidgen.evaluation.ngram import NGramModel
from smidgen.evaluation.storyworld import Answer
from smidgen.runtime.generation import encode_chat, encode_prompt, end_of_turn_ids, generate_texts
from smidgen.runtime.protocols import Engine, Tokenizer
from smidgen.runtime.sampling import SamplingParams

LONGEST_ANSWER = 64
"""Tokens in which every right answer of the corpus has room, with tokenizers of a few hundred ids or more."""


def engine_answers(engine: Engine, tokenizer: Tokenizer) -> Answer:
    """Greedy answers of a model."""
    ends = end_of_turn_ids(tokenizer) if tokenizer.chat_template else ()

    def answer(questions: Sequence[Question]) -> list[str]:
        prompts = [encode_question(tokenizer, question) for question in questions]
        params = [
            SamplingParams(
                max_new_tokens=min(LONGEST_ANSWER, engine.info.max_seq_len - len(prompt)),
                temperature=0.0,
                stop_token_ids=ends,
            )
            for prompt in prompts
        ]
        return [completion.text for completion in generate_texts(engine, tokenizer, prompts, params)]

    return answer


def ngram_answers(model: NGramModel, tokenizer: Tokenizer) -> Answer:
    """The most probable answers of an n-gram model, token by token."""
    ends = set(end_of_turn_ids(tokenizer) if tokenizer.chat_template else ())
    if tokenizer.eos_id is not None:
        ends.add(tokenizer.eos_id)

    def answer(questions: Sequence[Question]) -> list[str]:
        prompts = [encode_question(tokenizer, question) for question in questions]
        return [tokenizer.decode(model.generate(prompt, LONGEST_ANSWER, end_ids=ends)) for prompt in prompts]

    return answer


def encode_question(tokenizer: Tokenizer, question: Question) -> list[int]:
    """Token ids of a prompt; chats through the tokenizer's own template."""
    if question.messages is None:
        return encode_prompt(tokenizer, question.prompt)
    return encode_chat(tokenizer, question.messages)
