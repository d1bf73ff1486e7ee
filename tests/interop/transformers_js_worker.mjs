// Run by Node: what transformers.js makes of an exported folder, as JSON.
//
// Standard input: {"package", "model", "precisions", "texts", "prompts", "max_new_tokens"}; "package" is a folder with
// transformers.js in its node_modules. It knows nothing of Smidgen.
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";

const request = JSON.parse(fs.readFileSync(0, "utf8"));
const require = createRequire(path.resolve(request.package, "package.json"));
const { env, AutoModelForCausalLM, AutoTokenizer, Tensor } = require("@huggingface/transformers");
env.allowRemoteModels = false;
env.localModelPath = path.dirname(request.model);
const name = path.basename(request.model);

const tokenizer = await AutoTokenizer.from_pretrained(name);
const encode = (text) => tokenizer.encode(text, { add_special_tokens: false });
const answer = { version: env.version, tokens: request.texts.map(encode), continuations: {} };
for (const dtype of request.precisions) {
  const model = await AutoModelForCausalLM.from_pretrained(name, { dtype, device: "cpu" });
  answer.continuations[dtype] = [];
  for (const ids of request.prompts) {
    const shape = [1, ids.length];
    const output = await model.generate({
      input_ids: new Tensor("int64", BigInt64Array.from(ids.map(BigInt)), shape),
      attention_mask: new Tensor("int64", new BigInt64Array(ids.length).fill(1n), shape),
      max_new_tokens: request.max_new_tokens,
      do_sample: false,
    });
    answer.continuations[dtype].push(output.tolist()[0].slice(ids.length).map(Number));
  }
}
process.stdout.write(JSON.stringify(answer));
