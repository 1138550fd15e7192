"""Training examples of the intent models: texts with noise, and their labels."""

import random

from tokenizers import Tokenizer

import augment
from model import generate
from tokenizer import END, prompt_text, train_tokenizer


MAX_PROMPT = 94


class IntentTask:
    """Tokenizer, training examples and held-out check of one intent data set."""

    max_new_tokens = 16

    def __init__(self, split, vocab_size, bpe_dropout=0.1):
        self.train, self.heldout = split
        labels = sorted({label for _, label in self.train})
        self.tokenizer = train_tokenizer([text for text, _ in self.train], vocab_size, labels)
        # BPE dropout splits words differently in each epoch, so that the model learns their spelling.
        self._noisy_tokenizer = Tokenizer.from_str(self.tokenizer.to_str())
        self._noisy_tokenizer.model.dropout = bpe_dropout

    def epoch_examples(self, epoch):
        """Token-id pairs `(prompt, answer)` of an epoch, with new noise."""
        rng = random.Random(1000 + epoch)
        texts = [prompt_text(augment.add_noise(text, rng)) for text, _ in self.train]
        end = self.tokenizer.token_to_id(END)
        return [
            (prompt.ids[: MAX_PROMPT - 1] + prompt.ids[-1:] if len(prompt.ids) > MAX_PROMPT else prompt.ids, [self.tokenizer.token_to_id(label), end])
            for prompt, (_, label) in zip(self._noisy_tokenizer.encode_batch(texts), self.train)
        ]

    def check(self, params, cfg):
        """Share of held-out texts whose greedy answer is exactly the label."""
        prompts = [enc.ids for enc in self.tokenizer.encode_batch([prompt_text(text) for text, _ in self.heldout])]
        answers = generate(params, cfg, prompts, self.tokenizer.token_to_id(END), 2, batch=128)
        decoded = self.tokenizer.decode_batch(answers)
        return sum(answer == label for answer, (_, label) in zip(decoded, self.heldout)) / len(decoded)
