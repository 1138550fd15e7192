"""Byte-level BPE tokenizers and the common prompt format of all models."""

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

USER, ASSISTANT, END, PAD = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>"
SPECIAL = [PAD, END, USER, ASSISTANT]

# Renders only the last user message, because the models were trained on single messages.
# Content may be a string or a list of parts with a `text` field.
CHAT_TEMPLATE = (
    "{%- set ns = namespace(text='') -%}"
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'user' -%}"
    "{%- if message['content'] is string -%}"
    "{%- set ns.text = message['content'] -%}"
    "{%- else -%}"
    "{%- set ns.text = '' -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['text'] -%}{%- set ns.text = ns.text + part['text'] -%}{%- endif -%}"
    "{%- endfor -%}"
    "{%- endif -%}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{{- '<|user|> ' + (ns.text | trim | lower) -}}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def prompt_text(message):
    """The text that the chat template renders for a single user message."""
    return f"{USER} {message.strip().lower()}{ASSISTANT}"


def train_tokenizer(texts, vocab_size, labels=(), single_digits=False, pieces=None):
    """Train a lower-casing byte-level BPE tokenizer on `texts`.

    Each label becomes one token, so that an intent model answers in a single step.
    With `single_digits` every digit is a separate token. `pieces` is a regular expression that splits
    texts instead: no token crosses the boundary of a piece. All 256 bytes are in the vocabulary, so
    that constrained decoding can generate any text.
    """
    tokenizer = Tokenizer(models.BPE())
    # The chat template lower-cases text, not the tokenizer: a grammar can require capitals in an answer.
    tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if pieces:
        split = pre_tokenizers.Split(Regex(pieces), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    elif single_digits:
        digits = pre_tokenizers.Split(Regex(r" ?\d"), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    else:
        tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(labels),
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Prompts have a space before the first word, so the corpus has one too.
    tokenizer.train_from_iterator((f" {text.lower()}" for text in texts), trainer)
    tokenizer.add_tokens([AddedToken(label, normalized=False, special=False) for label in labels])
    return tokenizer
