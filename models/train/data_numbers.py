"""Questions about a short list of whole numbers, with their answers."""

import random
import zlib

import jax.numpy as jnp
import numpy as np

from folders import NUMBERS_PIECES
from model import generate, init_params
from tokenizer import END, prompt_text, train_tokenizer
from trainer import Recipe

SMALLEST_LIST, LONGEST_LIST = 2, 5
LARGEST_NUMBER = 20

SHAPE = {"hidden": 128, "intermediate": 384, "layers": 4, "heads": 4}
RECIPE = Recipe(
    epochs=22, lr=2.5e-3, weight_decay=0.05, dropout=0.0, label_smoothing=0.0, prompt_loss=0.0, replace=0.0, ema=0.995
)

# Weights of the kinds of questions in training. Sums are hard to learn, and the answer is a single
# token of the loss, whereas a sorted list has several.
WEIGHTS = {
    "sum": 50,
    "mean": 12,
    "maximum": 5,
    "minimum": 5,
    "count": 7,
    "ascending": 11,
    "descending": 10,
}

# The quantity in question as a noun phrase, for the frames below.
NAMES = {
    "sum": ["sum", "total", "sum total", "overall total", "total sum", "overall sum"],
    "mean": ["mean", "average", "mean value", "average value", "arithmetic mean", "avg"],
    "maximum": [
        "maximum", "max", "largest number", "biggest number", "highest number", "greatest number", "largest",
        "biggest", "highest", "greatest", "maximum value", "highest value", "largest value", "biggest value",
        "top value", "peak",
    ],
    "minimum": [
        "minimum", "min", "smallest number", "lowest number", "least number", "smallest", "lowest",
        "minimum value", "lowest value", "smallest value", "least", "bottom value",
    ],
    "count": [
        "count", "number of values", "number of items", "number of entries", "length", "size", "number of numbers",
        "number of elements",
    ],
    "ascending": [
        "ascending order", "sorted order", "increasing order", "order from smallest to largest",
        "order from low to high", "ascending sort", "sorted list", "rising order",
    ],
    "descending": [
        "descending order", "decreasing order", "reverse sorted order", "order from largest to smallest",
        "order from high to low", "descending sort", "falling order", "reverse sorted list",
    ],
}

FRAMES = [
    "what is the {name} of {list}?",
    "what's the {name} of {list}?",
    "{name} of {list}",
    "the {name} of {list}",
    "{name}: {list}",
    "{name} {list}",
    "{list}: {name}",
    "{list} {name}",
    "{list}: {name}?",
    "{list}, {name}?",
    "give me the {name} of {list}",
    "find the {name} of {list}",
    "find the {name} of these {things}: {list}",
    "show the {name} of {list}",
    "compute the {name} of {list}",
    "calculate the {name} of {list}.",
    "tell me the {name} of {list}",
    "tell me the {name} of the {things} {list}",
    "what is the {name} of the {things} {list}?",
    "what is the {name} of these {things}: {list}?",
    "what is the {name} of the following {things}: {list}?",
    "for the {things} {list}, what is the {name}?",
    "for {list} give the {name}",
    "given {list}, what is the {name}?",
    "given the {things} {list}, find the {name}",
    "i have {list}. what is the {name}?",
    "i have the {things} {list}, what is the {name}?",
    "my {things} are {list}. what is the {name}?",
    "my {things} are {list}. give me the {name}.",
    "here are some {things}: {list}. what is the {name}?",
    "here are the {things}: {list}. show the {name}.",
    "{list} - what is the {name}?",
    "{list}. what is the {name}?",
    "the {things} are {list}. what's the {name}?",
    "take {list} and return the {name}",
    "i need the {name} of {list}",
    "i want the {name} of these {things}: {list}",
    "get the {name} of {list}",
    "return the {name} of the {things} {list}",
    "{things}: {list}. question: what is the {name}?",
    "in {list}, what is the {name}?",
    "what {name} do the {things} {list} have?",
    "look at the {things} {list} and find the {name}",
    "from {list}, give me the {name}",
    "what would the {name} of {list} be?",
    "i would like to know the {name} of {list}",
    "work out the {name} of {list}",
    "please work out: {name} of {list}",
    "here is a list: {list}. what is its {name}?",
    "consider {list} and tell me the {name}",
    "with {list}, what is the {name}?",
    "what is the {name} for {list}?",
    "my list is {list}. what is the {name}?",
    "question: {name} of {list}?",
]

PHRASES = {
    "sum": [
        "add {list}", "add up {list}", "add up the {things} {list}", "add together {list}", "sum {list}",
        "sum up {list}", "total up {list}", "what do {list} add up to?", "how much is {list} in total?",
        "how much do {list} make together?", "what do you get if you add {list}?", "add these {things}: {list}",
        "sum up these {things}: {list}", "{list} added together", "what is {list} all together?",
        "{list}, what do they add up to?", "put {list} together, how much is it?", "{list}. add them up.",
        "my {things} are {list}. how much is that in total?", "i spent {list}. how much in total?",
    ],
    "mean": [
        "average {list}", "average out {list}", "what do {list} average?", "what do {list} average out to?",
        "on average, how much is {list}?", "how much is {list} on average?", "{list} on average",
        "what is {list} on average?", "my {things} are {list}. what did i get on average?", "{list}. average them.",
        "what is the average if the {things} are {list}?", "average the {things} {list}",
    ],
    "maximum": [
        "which is the largest of {list}?", "which number is the biggest: {list}?", "which of {list} is the highest?",
        "which of these {things} is the greatest: {list}?", "what is the largest number in {list}?",
        "what is the highest value among {list}?", "pick the biggest of {list}", "{list}: which is largest?",
        "max out of {list}", "which one is the largest, {list}?", "find the biggest in {list}",
        "what is the most out of {list}?", "the highest of my {things} {list}", "which number is the largest among {list}?",
    ],
    "minimum": [
        "which is the smallest of {list}?", "which number is the lowest: {list}?", "which of {list} is the lowest?",
        "which of these {things} is the least: {list}?", "what is the smallest number in {list}?",
        "what is the lowest value among {list}?", "pick the smallest of {list}", "{list}: which is smallest?",
        "min out of {list}", "which one is the smallest, {list}?", "find the smallest in {list}",
        "what is the least out of {list}?", "the lowest of my {things} {list}", "which number is the lowest among {list}?",
    ],
    "count": [
        "how many {things} are in {list}?", "how many {things} are there: {list}?", "count {list}",
        "count the {things} {list}", "how many numbers are in the list {list}?", "{list}: how many?",
        "how many {things} do i have: {list}?", "how long is the list {list}?", "{list}. how many {things} is that?",
        "count how many {things} there are in {list}", "how many entries does {list} have?", "{list}. count them.",
    ],
    "ascending": [
        "sort {list}", "sort {list} ascending", "sort {list} in ascending order", "order {list}",
        "sort these {things}: {list}", "put {list} in order", "arrange {list} from smallest to largest",
        "sort {list} from low to high", "sort the {things} {list} in increasing order",
        "order {list} from smallest to biggest", "{list} in ascending order", "{list} sorted", "sort ascending: {list}",
        "put the {things} {list} in ascending order", "arrange {list} in increasing order", "{list}. sort them.",
        "list {list} from lowest to highest", "sort {list} smallest first", "rank {list} from lowest to highest",
        "sort from small to large: {list}", "{list}, from small to large",
    ],
    "descending": [
        "sort {list} descending", "sort {list} in descending order", "order {list} descending",
        "sort these {things} in descending order: {list}", "put {list} in reverse order of size",
        "arrange {list} from largest to smallest", "sort {list} from high to low",
        "sort the {things} {list} in decreasing order", "order {list} from biggest to smallest",
        "{list} in descending order", "{list} sorted descending", "sort descending: {list}",
        "put the {things} {list} in descending order", "arrange {list} in decreasing order",
        "{list}. sort them from high to low.", "list {list} from highest to lowest", "sort {list} largest first",
        "rank {list} from highest to lowest",
        "sort from large to small: {list}", "{list}, from large to small",
    ],
}

# Not used for training.
HELDOUT_FRAMES = [
    "what would be the {name} of {list}?",
    "i would like the {name} of {list}",
    "please work out the {name} for {list}",
    "here is my list: {list}. find the {name}.",
    "consider the {things} {list}. what is the {name}?",
    "the {name} for the {things} {list}?",
    "look at {list}. tell me the {name}.",
    "question: what is the {name} of the {things} {list}?",
    "with the {things} {list}, what is the {name}?",
    "my list has {list}. i need the {name}",
]
HELDOUT_PHRASES = {
    "sum": ["how much do the {things} {list} add up to?", "what do i get when i add up {list}?", "add the {things} {list} together"],
    "mean": ["what do the {things} {list} average out to?", "on average, what is {list}?", "average these {things}: {list}"],
    "maximum": ["which of the {things} {list} is the largest?", "find the largest number among {list}", "{list}: which one is the biggest?"],
    "minimum": ["which of the {things} {list} is the smallest?", "find the lowest number among {list}", "{list}: which one is the lowest?"],
    "count": ["how many {things} does the list {list} have?", "count the numbers in {list}", "{list}: how many {things} are there?"],
    "ascending": ["put these {things} in ascending order: {list}", "sort the list {list} from lowest to highest", "{list}: sort from small to large"],
    "descending": ["put these {things} in descending order: {list}", "sort the list {list} from highest to lowest", "{list}: sort from large to small"],
}

THINGS = ["numbers", "values", "scores", "prices", "readings", "figures", "points", "results", "amounts", "measurements"]
BEFORE = ["", "", "", "", "", "", "please ", "hi, ", "hello, ", "ok, ", "can you ", "could you ", "so "]
AFTER = ["", "", "", "", "", "", "", " please", ", please", ", thanks", " thank you"]


def _held_out_list(numbers):
    # Independent of the order, so that training contains no permutation of a held-out list.
    return zlib.crc32(",".join(map(str, sorted(numbers))).encode()) % 40 == 0


def _draw(kind, longest, rng):
    length = rng.randint(SMALLEST_LIST, longest)
    top = rng.choice((10, LARGEST_NUMBER, LARGEST_NUMBER, LARGEST_NUMBER))
    numbers = [rng.randint(0, top) for _ in range(length)]
    if kind in ("ascending", "descending"):
        # A list to sort has no repeated numbers.
        numbers = rng.sample(range(max(top, LONGEST_LIST) + 1), length)
    if kind == "mean":
        # Decreases numbers until the mean is a whole number.
        excess = sum(numbers) % length
        while excess:
            index = rng.randrange(length)
            step = min(excess, numbers[index])
            numbers[index] -= step
            excess -= step
    return numbers


def answer(kind, numbers):
    """The expected answer."""
    if kind == "sum":
        return str(sum(numbers))
    if kind == "mean":
        return str(sum(numbers) // len(numbers))
    if kind == "maximum":
        return str(max(numbers))
    if kind == "minimum":
        return str(min(numbers))
    if kind == "count":
        return str(len(numbers))
    return ", ".join(map(str, sorted(numbers, reverse=kind == "descending")))


def _write_list(numbers, rng):
    words = [str(number) for number in numbers]
    style = rng.random()
    if style < 0.5:
        return ", ".join(words)
    if style < 0.62:
        return ", ".join(words[:-1]) + " and " + words[-1]
    if style < 0.68:
        return ", ".join(words[:-1]) + ", and " + words[-1]
    if style < 0.78:
        return " ".join(words)
    if style < 0.86:
        return "[" + ", ".join(words) + "]"
    if style < 0.92:
        return "(" + ", ".join(words) + ")"
    return ",".join(words)


def _example(rng, kind, longest, held_out, plain=False):
    numbers = _draw(kind, longest, rng)
    while _held_out_list(numbers) != held_out:
        numbers = _draw(kind, longest, rng)
    if plain:
        return f"{NAMES[kind][0]} {', '.join(map(str, numbers))}", answer(kind, numbers)
    frames = HELDOUT_FRAMES if held_out else FRAMES
    phrases = (HELDOUT_PHRASES if held_out else PHRASES)[kind]
    template = rng.choice(frames) if rng.random() < 0.5 else rng.choice(phrases)
    text = template.format(name=rng.choice(NAMES[kind]), list=_write_list(numbers, rng), things=rng.choice(THINGS))
    if rng.random() < 0.3:
        text = text.rstrip("?.")
    return rng.choice(BEFORE) + text + rng.choice(AFTER), answer(kind, numbers)


class NumbersTask:
    """Tokenizer, training questions and held-out evaluation."""

    max_new_tokens = 12

    def __init__(self, epoch_size=25600, plain_epochs=5, heldout_size=1400):
        self.epoch_size, self.plain_epochs = epoch_size, plain_epochs
        rng = random.Random(7)
        corpus = [text for text, _ in self._questions(rng, LONGEST_LIST, 20000, 0.0)]
        # Every number of up to two digits, including sums, in each form in which a list can contain it.
        corpus += [f"{number} {number},{number}, {number}" for number in range(100)] * 20
        self.tokenizer = train_tokenizer(corpus, 1000, pieces=NUMBERS_PIECES)
        rng, kinds = random.Random(11), list(WEIGHTS)
        # All kinds of questions are equally frequent, regardless of their weights in training.
        self.heldout = [_example(rng, kinds[i % len(kinds)], LONGEST_LIST, True) for i in range(heldout_size)]

    @staticmethod
    def _questions(rng, longest, count, plain):
        kinds = rng.choices(list(WEIGHTS), WEIGHTS.values(), k=count)
        return [_example(rng, kind, longest, False, rng.random() < plain) for kind in kinds]

    def epoch_examples(self, epoch):
        """Token-id pairs `(prompt, answer)`: new questions each epoch.

        The questions of the first epochs have the shortest wording: the model learns to calculate on
        short sequences, which train fast, before it learns the wordings.
        """
        longest = min(LONGEST_LIST, SMALLEST_LIST + 1 + epoch)
        plain = 1.0 if epoch < self.plain_epochs else 0.4
        pairs = self._questions(random.Random(1000 + epoch), longest, self.epoch_size, plain)
        end = self.tokenizer.token_to_id(END)
        prompts = self.tokenizer.encode_batch([prompt_text(text) for text, _ in pairs])
        answers = self.tokenizer.encode_batch([text for _, text in pairs])
        return [(prompt.ids, text.ids + [end]) for prompt, text in zip(prompts, answers)]

    def initial(self, cfg, seed):
        """Random weights, except that the embeddings of numbers represent their size.

        Half of such an embedding consists of sine waves of the number's value, from long wavelengths,
        which represent its size, to short ones, which separate neighbours. The other half is common
        to all numbers. Such a short training does not learn this representation by itself.
        """
        params = init_params(cfg, seed)
        embed = np.array(params["model.embed_tokens.weight"])
        half = cfg.hidden // 2
        turns = np.geomspace(1 / 400, 1 / 2, half // 2)
        common = {}
        for token, index in self.tokenizer.get_vocab().items():
            form = token.rstrip("0123456789")
            if token != form and len(token) - len(form) <= 2 and form in ("", "Ġ", ",", ",Ġ"):
                angles = 2 * np.pi * turns * (int(token[len(form) :]) - LARGEST_NUMBER / 2)
                embed[index, :half] = 0.08 * np.concatenate([np.sin(angles), np.cos(angles)])
                embed[index, half:] = common.setdefault(form, embed[index, half:].copy())
        return params | {"model.embed_tokens.weight": jnp.asarray(embed)}

    def check(self, params, cfg):
        """Share of held-out questions whose greedy answer is correct."""
        prompts = [enc.ids for enc in self.tokenizer.encode_batch([prompt_text(text) for text, _ in self.heldout])]
        answers = generate(params, cfg, prompts, self.tokenizer.token_to_id(END), self.max_new_tokens, batch=128)
        decoded = self.tokenizer.decode_batch(answers)
        return sum(text == expected for text, (_, expected) in zip(decoded, self.heldout)) / len(decoded)
