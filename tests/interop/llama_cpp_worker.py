"""Run by the Python of llama.cpp's environment: what llama.cpp makes of a GGUF file, as JSON.

Standard input: {"model", "texts", "special", "ids", "prompts", "max_new_tokens"}; every part but the model may be left
out. It knows nothing of Smidgen.
"""

import json
import sys

from llama_cpp import GGML_TYPE_F32, Llama, llama_vocab_is_eog


def main() -> None:
    request = json.load(sys.stdin)
    vocab_only = not (request.get("ids") or request.get("prompts"))
    model = Llama(
        request["model"],
        n_ctx=request.get("context", 256),
        n_batch=256,
        logits_all=True,
        vocab_only=vocab_only,
        n_threads=1,
        verbose=False,
        # Half-precision caches would hide what the weights' type costs.
        type_k=GGML_TYPE_F32,
        type_v=GGML_TYPE_F32,
    )
    answer = {"tokens": [], "logits": [], "continuations": [], "pieces": []}
    for text in request.get("texts", []):
        answer["tokens"].append(
            model.tokenize(text.encode("utf-8"), add_bos=False, special=request.get("special", False))
        )
    for ids in request.get("ids", []):
        model.reset()
        model.eval(ids)
        answer["logits"].append(model.scores[: len(ids)].tolist())
    for ids in request.get("prompts", []):
        model.reset()
        found = []
        for token in model.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
            found.append(token)
            if llama_vocab_is_eog(model._model.vocab, token) or len(found) == request["max_new_tokens"]:
                break
        answer["continuations"].append(found)
    if not vocab_only or request.get("texts"):
        answer["bos"], answer["eos"] = model.token_bos(), model.token_eos()
    answer["template"] = model.metadata.get("tokenizer.chat_template")
    json.dump(answer, sys.stdout)


main()
