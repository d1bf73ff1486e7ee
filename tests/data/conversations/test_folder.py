"""Folders of conversations: sources of every kind, the mask on disk, packing, and what is cut off."""

from __future__ import annotations

import csv
import gzip
import json
from html import unescape
from pathlib import Path

import numpy as np
import pytest

from smidgen.data import Dataset, PackedDocuments
from smidgen.data.conversations.folder import prepare_conversations
from smidgen.data.conversations.masking import ChatEncoder
from smidgen.data.conversations.reading import read_conversations
from smidgen.data.conversations.schema import conversation_of
from smidgen.data.documents import BadRecord
from smidgen.data.report import write_report
from smidgen.runtime.errors import DataError
from smidgen.tokenization.byte_bpe import train_byte_bpe

RECORDS = [{"question": f"What is {n} + {n}?", "answer": f"It is {2 * n}." + " Really!" * (n % 5)} for n in range(40)]
TOKENIZER = train_byte_bpe([str(record) for record in RECORDS], 320)


def as_lines() -> str:
    return "\n".join(map(json.dumps, RECORDS))


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "jsonl.gz", "parquet", "hf"])
def test_every_kind_of_source_gives_the_same_conversations(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"chats.{kind}"
    name = str(path)
    if kind == "jsonl":
        path.write_text(as_lines())
    elif kind == "json":
        path.write_text(json.dumps(RECORDS))
    elif kind == "jsonl.gz":
        path.write_bytes(gzip.compress(as_lines().encode()))
    elif kind == "csv":
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, ["question", "answer"])
            writer.writeheader()
            writer.writerows(RECORDS)
    elif kind == "parquet":
        arrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(arrow.Table.from_pylist(RECORDS), path)
    else:
        datasets = pytest.importorskip("datasets")
        datasets.Dataset.from_list(RECORDS).save_to_disk(str(path))
        name = f"hf:{path}"
    assert [found.value for found in read_conversations(name)] == [conversation_of(record) for record in RECORDS]


def test_the_folder_holds_the_tokens_and_which_of_them_are_learned(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text(as_lines() + '\n{"text": "none"}\nbroken\n')
    made = prepare_conversations([tmp_path / "chats.jsonl"], tmp_path / "out", TOKENIZER, val_fraction=0.2)
    assert made.manifest.bad_input.keys() == {"no conversation", "broken JSON"}
    splits = made.dataset.train, made.dataset.val
    expected = {}
    for record in RECORDS:
        tokens = ChatEncoder(TOKENIZER).encode(conversation_of(record))
        expected[tokens.ids.tobytes()] = tokens.mask
    documents = 0
    for split in splits:
        assert split.mask is not None
        assert split.document_offsets is not None
        for start, stop in zip(split.document_offsets[:-1], split.document_offsets[1:], strict=True):
            ids = np.asarray(split.tokens[int(start) : int(stop)]).astype(np.uint32)
            assert np.array_equal(split.mask[int(start) : int(stop)], expected[ids.tobytes()])
            documents += 1
    assert documents == len(RECORDS)
    assert all(split.num_documents for split in splits)
    again = prepare_conversations([tmp_path / "chats.jsonl"], tmp_path / "out", TOKENIZER, val_fraction=0.2)
    assert again.already_prepared


def test_records_that_cannot_be_used_end_nothing_and_are_told_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    bad = ["broken", '{"question": "\\ud800", "answer": "b"}', '{"question": "<|im_end|>", "answer": "b"}']
    path.write_text("\n".join([*bad, as_lines()]))
    made = prepare_conversations([path], tmp_path / "out", TOKENIZER)
    assert (made.dataset.train.num_documents or 0) + (made.dataset.val.num_documents or 0) == len(RECORDS)
    places = {kind: entry["examples"][0] for kind, entry in made.manifest.bad_input.items()}
    assert {kind: (place["source"], place["position"]) for kind, place in places.items()} == {
        "broken JSON": (str(path), 1),
        "lone surrogate": (str(path), 2),
        "template": (str(path), 3),
    }
    write_report(tmp_path / "report.html", tmp_path / "out")
    assert f"{path}, line 3: messages[0] spells" in unescape((tmp_path / "report.html").read_text())
    for line, text in enumerate(bad, 1):
        path.write_text("\n" * (line - 1) + text)
        with pytest.raises(DataError) as caught:
            prepare_conversations([path], tmp_path / "strict", TOKENIZER, strict=True)
        assert str(caught.value).startswith(f"{path}, line {line}: ")
        assert str(caught.value).count("line") == 1 + ("a line of JSON Lines" in str(caught.value))


def test_rows_of_csv_are_read_whatever_one_of_them_holds(tmp_path: Path) -> None:
    path = tmp_path / "chats.csv"
    long = "long " * 40_000
    path.write_bytes(f"question,answer\na,{long}\n".encode() + b"a,\xff\n\na,b,c\n")
    values = [found.value for found in read_conversations(str(path))]
    assert values[0] == conversation_of({"question": "a", "answer": long})
    assert isinstance(values[1], BadRecord)
    assert (values[1].kind, values[1].position) == ("encoding", 3)
    assert values[2:] == [conversation_of({"question": "a", "answer": "b"})]


def test_storyworld_holds_out_members_of_its_own(tmp_path: Path) -> None:
    made = prepare_conversations(["storyworld"], tmp_path / "out", TOKENIZER, documents=60)
    assert (made.dataset.train.num_documents, made.dataset.val.num_documents) == (60, 3)


def test_rows_learn_each_answer_once_and_what_is_cut_off_is_counted(tmp_path: Path) -> None:
    (tmp_path / "chats.jsonl").write_text(as_lines())
    prepare_conversations([tmp_path / "chats.jsonl"], tmp_path / "out", TOKENIZER, val_fraction=0)
    split = Dataset.open(tmp_path / "out").train
    lengths = np.diff(np.asarray(split.document_offsets))
    for seq_len in (64, int(np.median(lengths))):
        packed = PackedDocuments(split, seq_len, seed=1)
        batch = packed.batch(0, packed.per_epoch)
        learned = sorted(batch.labels[batch.labels >= 0].tolist())
        encoded = [ChatEncoder(TOKENIZER).encode(conversation_of(record)) for record in RECORDS]
        kept = [tokens.ids[: seq_len + 1][tokens.mask[: seq_len + 1]] for tokens in encoded]
        assert learned == sorted(np.concatenate(kept).tolist())
        assert packed.truncated == sum(len(tokens.ids) - 1 > seq_len for tokens in encoded)
        assert packed.tokens_lost == sum(max(len(tokens.ids) - 1 - seq_len, 0) for tokens in encoded)
        assert packed.answerless == 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"messages": [{"role": "user", "content": "a"}]}', "no conversation to train on: .*line 1: no answer"),
        ("", "no conversation to train on"),
    ],
)
def test_nothing_to_learn_is_an_error(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "chats.jsonl").write_text(text)
    with pytest.raises(DataError, match=reason):
        prepare_conversations([tmp_path / "chats.jsonl"], tmp_path / "out", TOKENIZER)


def test_a_template_that_leaves_the_prompt_out_is_refused(tmp_path: Path) -> None:
    """Its mask would be all ones."""
    (tmp_path / "chats.jsonl").write_text(as_lines())
    template = (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}"
        "{% endgeneration %}{% endif %}{% endfor %}"
    )
    with pytest.raises(DataError, match="every token is the assistant's: the prompt is missing"):
        prepare_conversations([tmp_path / "chats.jsonl"], tmp_path / "out", TOKENIZER.with_chat_template(template))
