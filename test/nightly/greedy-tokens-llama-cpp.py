"""Opens a GGUF file with llama.cpp, keys and values in float32, and continues the prompts of standard input greedily.

Input: JSON list of texts. Output: JSON list of {prompt, tokens, margins} (token ids; logit of the best token minus that of the second best).
"""
import ctypes
import json
import sys

import llama_cpp as ll
import numpy as np

path, count = sys.argv[1], int(sys.argv[2])
quiet = ll.llama_log_callback(lambda level, text, data: None)
ll.llama_log_set(quiet, ctypes.c_void_p(0))
ll.llama_backend_init()
model = ll.llama_model_load_from_file(path.encode(), ll.llama_model_default_params())
if not model:
    raise SystemExit(f"llama.cpp cannot open {path}")
params = ll.llama_context_default_params()
params.n_ctx, params.n_threads, params.n_threads_batch = 256, 2, 2
params.type_k = params.type_v = 0  # GGML_TYPE_F32
params.flash_attn_type = 0  # Off: it adds up in another precision, which moves logits by thousandths.
context = ll.llama_init_from_model(model, params)
vocab = ll.llama_model_get_vocab(model)
size = ll.llama_vocab_n_tokens(vocab)


def forward(ids):
    array = (ll.llama_token * len(ids))(*ids)
    if ll.llama_decode(context, ll.llama_batch_get_one(array, len(ids))):
        raise SystemExit("llama_decode failed")
    return np.ctypeslib.as_array(ll.llama_get_logits_ith(context, -1), (size,))


answers = []
for text in json.load(sys.stdin):
    raw = text.encode()
    buffer = (ll.llama_token * (len(raw) + 16))()
    # As people call it: whether a BOS comes first is said by the file.
    prompt = list(buffer[: ll.llama_tokenize(vocab, raw, len(raw), buffer, len(buffer), True, True)])
    ll.llama_memory_clear(ll.llama_get_memory(context), True)
    logits, tokens, margins = forward(prompt), [], []
    while len(tokens) < count:
        second, best = np.argsort(logits)[-2:]
        margins.append(float(logits[best] - logits[second]))
        tokens.append(int(best))
        if ll.llama_vocab_is_eog(vocab, int(best)):
            break
        logits = forward([int(best)])
    answers.append({"prompt": prompt, "tokens": tokens, "margins": margins})
json.dump(answers, sys.stdout)
