# Makes the demo model's tokenizer from the corpus that write-corpus.ts wrote: a byte-level BPE with single digits.
import argparse
import json
import os

VOCAB, POSITIONS = 512, 256


def texts_of(corpus):
    groups = {}
    with open(os.path.join(corpus, 'train.jsonl')) as lines:
        for item in map(json.loads, lines):
            groups.setdefault((item['task'], item['subtask']), []).append(item)
    for (task, _), items in sorted(groups.items()):
        # Every subtask has the same say in the vocabulary; translation, which has the most rare words, a larger one.
        for i in range(1500 if task == 'translation' else 600):
            item = items[i % len(items)]
            yield from (item['prompt'], item['completion'])


def main():
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    options = argparse.ArgumentParser()
    options.add_argument('corpus')
    options.add_argument('out')
    args = options.parse_args()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
    ])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts_of(args.corpus), trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=['<unk>', '<s>', '</s>'], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    ))
    # Its own template adds BOS, so that every reader of the file adds it too.
    tokenizer.post_processor = processors.TemplateProcessing(
        single='<s> $A', pair='<s> $A <s> $B:1', special_tokens=[('<s>', 1)])
    assert tokenizer.get_vocab_size() == VOCAB
    os.makedirs(args.out, exist_ok=True)
    tokenizer.save(os.path.join(args.out, 'tokenizer.json'))
    with open(os.path.join(args.out, 'tokenizer_config.json'), 'w') as file:
        file.write(json.dumps({
            'tokenizer_class': 'PreTrainedTokenizerFast', 'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<unk>',
            'clean_up_tokenization_spaces': False, 'model_max_length': POSITIONS,
        }, indent=2) + '\n')


if __name__ == '__main__':
    main()
