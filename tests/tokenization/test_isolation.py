"""Everything about tokenizers works where torch, transformers and pydantic cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "pydantic"}:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())

from smidgen.cli.main import main
from smidgen.runtime.chat_template import render_chat
from smidgen.runtime.detokenizer import Detokenizer
from smidgen.tokenization import load_tokenizer, train_tokenizer

folder = sys.argv[1]
texts = ["the king went home, 日本\\n" * 50, "hello hello hello\\n" * 20]
for kind in ("byte_bpe", "sentencepiece", "characters"):
    train_tokenizer(kind, texts, 320).save(f"{folder}/{kind}")
    tokenizer = load_tokenizer(f"{folder}/{kind}")
    ids = tokenizer.encode("hello king")
    assert tokenizer.encode_batch(["hello king"]) == [ids]
    stream = Detokenizer(tokenizer)
    assert "".join(map(stream.push, ids)) + stream.finish() == tokenizer.decode(ids) == "hello king"
    if tokenizer.chat_template:
        chat = render_chat(tokenizer.chat_template, [{"role": "user", "content": "hello"}])
        assert tokenizer.decode(tokenizer.encode(chat, special=True)) == chat
with open(f"{folder}/text.txt", "w") as file:
    file.writelines(texts)
assert main(["tokenizer", "train", f"{folder}/text.txt", "--out", f"{folder}/cli"]) == 0
assert main(["tokenizer", "inspect", f"{folder}/cli", "hello"]) == 0
assert not {"torch", "transformers", "pydantic"} & sys.modules.keys()
"""


def test_without_torch_transformers_and_pydantic(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
