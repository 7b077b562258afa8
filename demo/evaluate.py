# Measures the demo model with transformers: exact matches of greedy answers per task, whole and without some layers.
import argparse
import json

import torch
from transformers import AutoTokenizer, LlamaForCausalLM


def answer(model, tokenizer, prompt):
    ids = tokenizer.encode(prompt)  # the tokenizer's own template puts BOS first
    out = model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                         max_new_tokens=24, do_sample=False, pad_token_id=tokenizer.eos_token_id)[0, len(ids):]
    return tokenizer.decode(out, skip_special_tokens=True), out[-1].item() == tokenizer.eos_token_id


def without(model, whole, cut):
    kept = [layer for i, layer in enumerate(whole) if i not in cut]
    for i, layer in enumerate(kept):
        layer.self_attn.layer_idx = i  # its place in the key-value cache
    model.model.layers = torch.nn.ModuleList(kept)
    model.config.num_hidden_layers = len(kept)


def main():
    options = argparse.ArgumentParser()
    options.add_argument('model')
    options.add_argument('items', help='a JSONL file of {task, subtask, prompt, completion}')
    options.add_argument('--cut', action='append', default=[], help='layers to leave out, such as 5,6; may be repeated')
    options.add_argument('--by-subtask', action='store_true')
    options.add_argument('--wrong', action='store_true', help='show the wrong answers of the whole model')
    args = options.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = LlamaForCausalLM.from_pretrained(args.model).eval()
    with open(args.items) as lines:
        items = [json.loads(line) for line in lines]
    whole = list(model.model.layers)
    for cut in [(), *(tuple(int(i) for i in text.split(',')) for text in args.cut)]:
        without(model, whole, cut)
        counts = {}
        for item in items:
            text, ended = answer(model, tokenizer, item['prompt'])
            right = ended and text == item['completion']
            count = counts.setdefault(item['subtask' if args.by_subtask else 'task'], [0, 0])
            count[0] += right
            count[1] += 1
            if args.wrong and not cut and not right:
                print(repr(item['prompt']), 'wanted', repr(item['completion']), 'got', repr(text))
        print('without', cut, ', '.join(f'{key} {right}/{of}' for key, (right, of) in counts.items()), flush=True)


if __name__ == '__main__':
    main()
