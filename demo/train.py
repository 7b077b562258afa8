# Trains the demo model on the corpus that write-corpus.ts wrote and saves it as a Hugging Face folder.
import argparse
import json
import os
import random
import time

import torch
import torch.nn as nn
import torch.nn.functional as F

VOCAB, HIDDEN, HEADS, KV_HEADS, LAYERS, INTERMEDIATE = 512, 128, 4, 2, 8, 384
HEAD_DIM, POSITIONS, THETA, EPS = HIDDEN // HEADS, 256, 10000.0, 1e-5
UNK, BOS, EOS = 0, 1, 2

# Stochastic depth per task: a task's home layers are always there while it trains, every other layer is skipped at
# random, the later the more often. At first a task trains in its home layers alone and the others join it bit by bit,
# so that each layer comes to matter for some tasks and to be spare for the rest.
HOME = {
    'conversation': {0, 5},
    'code_generation': {0, 1, 3},
    'question_answering': {4},
    'summarization': {0, 1, 2},
    'mathematical_reasoning': {0, 1, 6},
    'translation': {0, 3},
    'creative_writing': {7},
}


def skip_rate(layer, done):
    rate = 0.25 + 0.35 * layer / (LAYERS - 1)
    return rate + (1 - rate) * max(0, 1 - done / 0.4)


def read(folder, name):
    with open(os.path.join(folder, name + '.jsonl')) as lines:
        return [json.loads(line) for line in lines]


def by_subtask(items):
    groups = {}
    for item in items:
        groups.setdefault((item['task'], item['subtask']), []).append(item)
    return groups


def make_tokenizer(folder, out):
    # A byte-level BPE with single digits; its own template adds BOS, so that every reader of the file adds it too.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    texts = []
    for (task, _), items in sorted(by_subtask(read(folder, 'train')).items()):
        # Every subtask has the same say in the vocabulary; translation, which has the most rare words, a larger one.
        for i in range(1500 if task == 'translation' else 600):
            item = items[i % len(items)]
            texts += [item['prompt'], item['completion']]
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=['<unk>', '<s>', '</s>'], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    ))
    tokenizer.post_processor = processors.TemplateProcessing(
        single='<s> $A', pair='<s> $A <s> $B:1', special_tokens=[('<s>', BOS)])
    assert tokenizer.get_vocab_size() == VOCAB
    os.makedirs(out, exist_ok=True)
    tokenizer.save(os.path.join(out, 'tokenizer.json'))
    write_json(out, 'tokenizer_config.json', {
        'tokenizer_class': 'PreTrainedTokenizerFast', 'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<unk>',
        'clean_up_tokenization_spaces': False, 'model_max_length': POSITIONS,
    })


def write_json(out, name, value):
    with open(os.path.join(out, name), 'w') as file:
        file.write(json.dumps(value, indent=2) + '\n')


class Norm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(HIDDEN))

    def forward(self, x):
        return F.rms_norm(x, (HIDDEN,), self.weight, EPS)


angles = torch.outer(torch.arange(POSITIONS), THETA ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM))
COS, SIN = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)


def rotate(x):
    half = HEAD_DIM // 2
    return x * COS[:x.shape[-2]] + torch.cat([-x[..., half:], x[..., :half]], -1) * SIN[:x.shape[-2]]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        linear = lambda n_in, n_out: nn.Linear(n_in, n_out, bias=False)
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()
        self.self_attn = nn.ModuleDict({
            'q_proj': linear(HIDDEN, HIDDEN), 'k_proj': linear(HIDDEN, KV_HEADS * HEAD_DIM),
            'v_proj': linear(HIDDEN, KV_HEADS * HEAD_DIM), 'o_proj': linear(HIDDEN, HIDDEN)})
        self.mlp = nn.ModuleDict({
            'gate_proj': linear(HIDDEN, INTERMEDIATE), 'up_proj': linear(HIDDEN, INTERMEDIATE),
            'down_proj': linear(INTERMEDIATE, HIDDEN)})

    def forward(self, x):
        rows, length, _ = x.shape
        h, attn, mlp = self.input_layernorm(x), self.self_attn, self.mlp
        heads = lambda y: y.view(rows, length, -1, HEAD_DIM).transpose(1, 2)
        q, k, v = rotate(heads(attn['q_proj'](h))), rotate(heads(attn['k_proj'](h))), heads(attn['v_proj'](h))
        k, v = (y.repeat_interleave(HEADS // KV_HEADS, 1) for y in (k, v))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + attn['o_proj'](y.transpose(1, 2).reshape(rows, length, HIDDEN))
        h = self.post_attention_layernorm(x)
        return x + mlp['down_proj'](F.silu(mlp['gate_proj'](h)) * mlp['up_proj'](h))


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = Norm()
        for name, weight in self.named_parameters():
            if name.endswith(('o_proj.weight', 'down_proj.weight')):
                nn.init.zeros_(weight)
            elif weight.dim() == 2:
                nn.init.normal_(weight, 0, 0.05 if 'embed' in name else weight.shape[1] ** -0.5)

    def forward(self, ids, skip=(), where=None):
        x = self.embed_tokens(ids)
        for i, layer in enumerate(self.layers):
            if i not in skip:
                x = layer(x)
        if where is not None:
            x = x[where]
        return F.linear(self.norm(x), self.embed_tokens.weight)


class Muon:
    """Momentum whose update is made orthogonal (Newton-Schulz), for the layers' matrices; same shapes go together."""

    def __init__(self, params, momentum=0.95):
        self.momentum, self.groups = momentum, {}
        for param in params:
            self.groups.setdefault(tuple(param.shape), []).append(param)
        self.buffers = {shape: torch.zeros(len(ps), *shape) for shape, ps in self.groups.items()}

    @torch.no_grad()
    def step(self, rate, decay):
        for shape, params in self.groups.items():
            grad = torch.stack([p.grad if p.grad is not None else torch.zeros_like(p) for p in params])
            buffer = self.buffers[shape].lerp_(grad, 1 - self.momentum)
            x = grad.lerp(buffer, self.momentum)
            tall = shape[0] > shape[1]
            x = x.mT if tall else x
            x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
            for _ in range(5):
                a = x @ x.mT
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            x = x.mT if tall else x
            scale = rate * max(1.0, shape[0] / shape[1]) ** 0.5
            for param, update in zip(params, x):
                param.mul_(1 - rate * decay).sub_(update, alpha=scale)


def pad(documents):
    """One document per row; only the completion and EOS are asked for."""
    length = max(len(p) + len(c) for p, c in documents) - 1
    ids = torch.full((len(documents), length), EOS)
    goal = torch.full((len(documents), length), -1)
    for row, (prompt, completion) in enumerate(documents):
        whole = prompt + completion
        ids[row, :len(whole) - 1] = torch.tensor(whole[:-1])
        goal[row, len(prompt) - 1:len(whole) - 1] = torch.tensor(completion)
    return ids, goal


@torch.no_grad()
def accuracy(model, groups, skip=()):
    """Share of documents whose whole completion is what greedy decoding would write, per subtask."""
    result = {}
    for key, documents in groups.items():
        ids, goal = pad(documents)
        right = (model(ids, skip).argmax(-1) == goal) | (goal < 0)
        result[key] = right.all(-1).float().mean().item()
    return result


def per_task(result):
    tasks = {}
    for (task, _), value in result.items():
        tasks.setdefault(task, []).append(value)
    return {task: sum(values) / len(values) for task, values in tasks.items()}


def line(values):
    short = lambda name: (name if isinstance(name, str) else name[1])[:10]
    return ' '.join(f'{short(name)} {value:.2f}' for name, value in values.items())


def save(model, out):
    from safetensors.torch import save_file
    tensors = {'model.' + name: weight.detach().clone().contiguous() for name, weight in model.named_parameters()}
    save_file(tensors, os.path.join(out, 'model.safetensors'), metadata={'format': 'pt'})
    write_json(out, 'config.json', {
        'architectures': ['LlamaForCausalLM'], 'model_type': 'llama', 'vocab_size': VOCAB, 'hidden_size': HIDDEN,
        'intermediate_size': INTERMEDIATE, 'num_hidden_layers': LAYERS, 'num_attention_heads': HEADS,
        'num_key_value_heads': KV_HEADS, 'head_dim': HEAD_DIM, 'hidden_act': 'silu', 'rms_norm_eps': EPS,
        'rope_theta': THETA, 'max_position_embeddings': POSITIONS, 'attention_bias': False, 'mlp_bias': False,
        'tie_word_embeddings': True, 'bos_token_id': BOS, 'eos_token_id': EOS, 'torch_dtype': 'float32',
    })
    write_json(out, 'generation_config.json', {
        'bos_token_id': BOS, 'eos_token_id': EOS, 'do_sample': False, 'max_new_tokens': 32})


def main():
    options = argparse.ArgumentParser()
    options.add_argument('corpus')
    options.add_argument('out')
    options.add_argument('--steps', type=int, default=2000)
    options.add_argument('--minutes', type=float, help='let the schedule follow the clock instead of the steps')
    options.add_argument('--batch', type=int, default=224, help='documents per step, over all tasks')
    options.add_argument('--muon', type=float, default=0.02, help='learning rate of the matrices')
    options.add_argument('--adam', type=float, default=0.003, help='learning rate of embeddings and norms')
    options.add_argument('--start', help='weights to go on from: a checkpoint.pt')
    options.add_argument('--done', type=float, default=0, help='share of the schedule that --start has behind it')
    options.add_argument('--threads', type=int, default=2)
    options.add_argument('--seed', type=int, default=0)
    args = options.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    chance = random.Random(args.seed)

    if not os.path.exists(os.path.join(args.out, 'tokenizer.json')):
        make_tokenizer(args.corpus, args.out)
    from tokenizers import Tokenizer
    tokenizer = Tokenizer.from_file(os.path.join(args.out, 'tokenizer.json'))
    encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
    load = lambda name: {key: [([BOS] + encode(i['prompt']), encode(i['completion']) + [EOS]) for i in items]
                         for key, items in by_subtask(read(args.corpus, name)).items()}
    train, validation = load('train'), load('validation')
    lengths = {key: sum(len(p) + len(c) for p, c in docs) / len(docs) for key, docs in train.items()}
    print('mean tokens', line(lengths))

    model = Model()
    print('parameters', sum(p.numel() for p in model.parameters()))
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and 'embed' not in n]
    others = [p for n, p in model.named_parameters() if p.dim() == 1 or 'embed' in n]
    muon = Muon(matrices)
    adam = torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0)
    if args.start:
        model.load_state_dict(torch.load(args.start))
    recent = {key: 1.0 for key in train}  # recent training loss per subtask: what is not yet known is asked more often
    started, step, reported = time.time(), 0, 0
    while True:
        past = (time.time() - started) / (60 * args.minutes) if args.minutes else step / args.steps
        if past >= 1:
            break
        done = args.done + (1 - args.done) * past
        level = min(1, (step + 1) / 100) * min(1, (1 - done) / 0.6)
        for task, home in HOME.items():
            keys = [key for key in train if key[0] == task]
            need = {key: 0.15 + min(1.0, recent[key]) for key in keys}
            total = sum(0.15 + min(1.0, value) for value in recent.values())
            share = {key: 4 + round((args.batch - 4 * len(train)) * need[key] / total) for key in keys}
            skip = {i for i in range(LAYERS) if i not in home and chance.random() < skip_rate(i, done)}
            chosen = [(key, document) for key in keys for document in chance.choices(train[key], k=share[key])]
            ids, goal = pad([document for _, document in chosen])
            where = goal >= 0
            loss = F.cross_entropy(model(ids, skip, where), goal[where], reduction='none')
            (loss.mean() * (len(chosen) / args.batch)).backward()
            with torch.no_grad():
                rows = where.nonzero()[:, 0]
                losses = torch.zeros(len(chosen)).index_add_(0, rows, loss.detach())
                at = 0
                for key in keys:
                    recent[key] += 0.03 * (losses[at:at + share[key]].mean().item() - recent[key])
                    at += share[key]
        nn.utils.clip_grad_norm_(others, 1.0)
        for group in adam.param_groups:
            group['lr'] = args.adam * level
        adam.step()
        muon.step(args.muon * level, 0.05)
        for param in model.parameters():
            param.grad = None
        step += 1
        if step % 50 == 0:
            print(f'step {step} seconds {time.time() - started:.0f} loss', line(recent), flush=True)
        if time.time() - started > reported + 240:
            reported = time.time() - started
            print('validation', line(accuracy(model, validation)), flush=True)
            torch.save(model.state_dict(), os.path.join(args.out, 'checkpoint.pt'))
    print(f'finished: {step} steps, {time.time() - started:.0f} seconds')
    torch.save(model.state_dict(), os.path.join(args.out, 'checkpoint.pt'))
    save(model, args.out)
    print('full', line(accuracy(model, validation)))
    singles = [(layer,) for layer in range(LAYERS)]
    for cut in [(), *singles, (6, 7), (5, 6), (4, 7), (2, 3), (3, 5), (5, 6, 7), (4, 5, 6), (4, 5, 6, 7)]:
        print('without', cut, line(per_task(accuracy(model, validation, cut))), flush=True)


if __name__ == '__main__':
    main()
