"""Opens an ONNX folder with onnxruntime-genai and continues the prompts of standard input greedily.

Input: JSON list of texts. Output: JSON list of {prompt, tokens, margins} (token ids; logit of the best token minus that of the second best).
"""
import json
import sys

import numpy as np
import onnxruntime_genai as og

folder, count = sys.argv[1], int(sys.argv[2])
model = og.Model(folder)
tokenizer = og.Tokenizer(model)
with open(f"{folder}/genai_config.json") as file:
    config = json.load(file)["model"]
with open(f"{folder}/tokenizer.json") as file:
    processor = json.load(file).get("post_processor") or {}
# Its tokenizer does not read the template of the post-processor, by which the BOS comes first.
template = [part for part in [processor, *processor.get("processors", [])] if part.get("type") == "TemplateProcessing"]
begin = [config["bos_token_id"]] if template and "SpecialToken" in template[0]["single"][0] else []
ends = config["eos_token_id"]
ends = set(ends if isinstance(ends, list) else [ends])
answers = []
for text in json.load(sys.stdin):
    prompt = begin + [int(i) for i in tokenizer.encode(text)]
    params = og.GeneratorParams(model)
    params.set_search_options(max_length=len(prompt) + count, do_sample=False)
    generator = og.Generator(model, params)
    generator.append_tokens(prompt)
    tokens, margins = [], []
    while len(tokens) < count:
        generator.generate_next_token()
        logits = np.asarray(generator.get_output("logits"))[0, -1]
        token = int(generator.get_next_tokens()[0])
        best = np.sort(logits)[-2:]
        margins.append(float(best[1] - best[0]))
        tokens.append(token)
        if token in ends or generator.is_done():
            break
    answers.append({"prompt": prompt, "tokens": tokens, "margins": margins})
json.dump(answers, sys.stdout)
