"""Run by the Python of an environment with some version of transformers: what it makes of a model folder, as JSON.

Standard input: {"model", "texts", "ids", "prompts", "max_new_tokens"}. It knows nothing of Smidgen.
"""

import json
import os
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    request = json.load(sys.stdin)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(request["model"], trust_remote_code=True, dtype="auto").eval()
    tokenizer = AutoTokenizer.from_pretrained(request["model"])
    answer = {"version": transformers.__version__, "dtype": str(model.dtype), "logits": [], "continuations": []}
    answer["tokens"] = [tokenizer(text, add_special_tokens=False).input_ids for text in request["texts"]]
    answer["template"] = tokenizer.chat_template
    with torch.no_grad():
        for ids in request["ids"]:
            answer["logits"].append(model(torch.tensor([ids])).logits[0].float().tolist())
        for ids in request["prompts"]:
            inputs = torch.tensor([ids])
            output = model.generate(
                inputs,
                attention_mask=torch.ones_like(inputs),
                max_new_tokens=request["max_new_tokens"],
                do_sample=False,
            )
            answer["continuations"].append(output[0, len(ids) :].tolist())
    json.dump(answer, sys.stdout)


main()
