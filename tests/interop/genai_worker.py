"""Run by the Python of an environment with onnxruntime-genai: what it makes of an exported folder, as JSON.

Standard input: {"model", "texts", "prompts", "max_new_tokens"}. It knows nothing of Smidgen.
"""

import json
import sys

import onnxruntime_genai as genai


def main() -> None:
    request = json.load(sys.stdin)
    model = genai.Model(request["model"])
    tokenizer = genai.Tokenizer(model)
    answer = {"version": genai.__version__, "continuations": []}
    answer["tokens"] = [tokenizer.encode(text).tolist() for text in request["texts"]]
    for ids in request["prompts"]:
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(ids) + request["max_new_tokens"], do_sample=False)
        generator = genai.Generator(model, parameters)
        generator.append_tokens(ids)
        found = []
        while not generator.is_done():
            generator.generate_next_token()
            found.append(int(generator.get_next_tokens()[0]))
        answer["continuations"].append(found)
    json.dump(answer, sys.stdout)


main()
