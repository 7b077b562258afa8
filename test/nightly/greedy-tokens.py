"""Opens a Hugging Face folder with transformers in float32 and continues the prompts of standard input greedily.

Usage: greedy-tokens.py [--adapter FOLDER] MODEL COUNT; with a PEFT adapter, the model as it is changed by that.
Input: JSON list of texts. Output: JSON list of {prompt, tokens, margins} (token ids; logit of the best token minus that of the second best).
"""
import argparse
import json
import os
import sys
import warnings

os.environ.update(TQDM_DISABLE="1", HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
warnings.filterwarnings("ignore")

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

logging.set_verbosity_error()
logging.disable_progress_bar()
parser = argparse.ArgumentParser()
parser.add_argument("--adapter")
parser.add_argument("folder")
parser.add_argument("count", type=int)
args = parser.parse_args()
folder, count = args.folder, args.count
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
if args.adapter:
    from peft import PeftModel

    model = PeftModel.from_pretrained(model, args.adapter).eval()
answers = []
for text in json.load(sys.stdin):
    # As people call it: whether a BOS comes first is said by the exported tokenizer files.
    ids = torch.tensor([tokenizer(text).input_ids])
    with torch.inference_mode():
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            do_sample=False,
            pad_token_id=0,
            output_logits=True,
            return_dict_in_generate=True,
        )
    tokens = made.sequences[0, ids.shape[1] :].tolist()
    best = [step[0].topk(2).values.tolist() for step in made.logits]
    answers.append({"prompt": ids[0].tolist(), "tokens": tokens, "margins": [a - b for a, b in best]})
json.dump(answers, sys.stdout)
