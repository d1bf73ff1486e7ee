"""Run by the Python of an environment with some version of transformers: what it makes of model folders, as JSON.

Standard input: {"models", "texts", "ids", "prompts", "max_new_tokens"}; the texts are for the first of the models. It
knows nothing of Smidgen.
"""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"
# BitNet's rounding is decorated with torch.compile; without a compiler the same lines run as they are written.
os.environ["TORCHDYNAMO_DISABLE"] = "1"

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


@torch.no_grad()
def ask(model, request):
    logits = [model(torch.tensor([ids])).logits[0].float().tolist() for ids in request["ids"]]
    continuations = []
    for ids in request["prompts"]:
        inputs = torch.tensor([ids])
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=request["max_new_tokens"],
            do_sample=False,
        )
        continuations.append(output[0, len(ids) :].tolist())
    return {"dtype": str(model.dtype), "logits": logits, "continuations": continuations}


def main() -> None:
    request = json.load(sys.stdin)
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(request["models"][0])
    answer = {"version": transformers.__version__, "template": tokenizer.chat_template, "models": []}
    answer["tokens"] = [tokenizer(text, add_special_tokens=False).input_ids for text in request["texts"]]
    for folder in request["models"]:
        model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True, dtype="auto").eval()
        answer["models"].append(ask(model, request))
    json.dump(answer, sys.stdout)


main()
