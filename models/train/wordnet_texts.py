"""English texts from WordNet 3.0 for `word_vectors.py`: words, definitions, examples, and requests with its words."""

import itertools
import random
import re

# Of the words that share a meaning, the first ones.
WORDS_OF_MEANING = 4

# Requests as people write them: {n} becomes a noun, {v} a verb, {a} an adjective.
TEMPLATES = """\
how do i {v} the {n}
how can i {v} my {n}
what is a {n}
what is the {n} of the {n}
what's the {a} {n}
can you {v} my {n}
could you please {v} the {n} for me
please {v} the {n}
{v} my {n} now
i want to {v} a {n}
i need to {v} my {n} and the {n}
i would like a {a} {n}
i can't {v} my {n}
why does my {n} {v}
why is the {n} so {a}
where is my {n}
where can i {v} a {n}
when will the {n} {v}
how much is the {n}
how many {n} do i have
how long does it take to {v} a {n}
tell me about {n}
tell me how to {v} {n}
is there a {n} for {n}
is the {n} {a}
are there any {a} {n} near me
do i need a {n} to {v}
did you {v} the {n}
my {n} is {a}
my {n} does not {v}
the {n} was {a}, what should i do
i have a problem with my {n}
someone has {v} my {n}
help me {v} the {n}
show me the {n} of my {n}
which {n} is {a}
who can {v} the {n}
should i {v} the {n} or the {n}
what happens if i {v} the {n}
give me a {n} that is {a}
set the {n} to {a}
turn the {n} to {n}
add {n} to my {n}
remove the {n} from the {n}
change my {n} to {n}
cancel the {n}
find a {a} {n} in {n}
thanks, but the {n} is still {a}
i don't know how to {v} this {n}
does the {n} have {n}
what time is the {n}
what {n} should i {v}
{n} and {n}
{a} {n}
{v} {n}
{v} the {a} {n} of {n}
write a {n} about {n}
explain {n} in {a} words
compare {n} with {n}
i forgot my {n}
i lost my {n}
i'm looking for {n}
let me {v} the {n}
make the {n} more {a}
the {n} on my {n} is wrong
what does {n} mean
say {n} in another language
is it possible to {v} {n} without a {n}
how {a} is the {n}
will it be {a} in {n}
""".splitlines()

# The requests that are drawn, and those of them that are used.
DRAWN, USED = 120_000, 40_000
SEED = 7

# The parts of speech in `cntlist.rev`, by the letters of the templates. Satellite adjectives are 5.
PARTS = {"n": "1", "v": "2", "a": "35"}
# The share of nouns that are any of WordNet's, rather than of those that occur in its tagged texts.
RARE_NOUNS = 0.25


def glosses(wordnet):
    """The words, definitions and examples in the files `data.*` of the folder `wordnet`, sorted."""
    texts = set()
    for part in ("noun", "verb", "adj", "adv"):
        for line in lines(wordnet / f"data.{part}"):
            fields, gloss = line.split("|", 1)
            fields = fields.split()
            # The number of words is hexadecimal. An adjective may end with its place, as `afraid(p)` does.
            words = [re.sub(r"\(.*\)", "", word) for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]]
            words = [word.replace("_", " ") for word in words]
            definition = re.sub(r';?\s*"[^"]*"', "", gloss).strip(" ;\n").split(";")[0].strip()
            texts.update([definition, f"{words[0]}: {definition}", *words[:WORDS_OF_MEANING]])
            texts.update(example.strip() for example in re.findall(r'"([^"]+)"', gloss))
    return sorted(texts - {""})


def requests(wordnet):
    """Templates filled at random with words of the folder `wordnet`, in random order."""
    rng = random.Random(SEED)
    counts = tagged_words(wordnet)
    # Square roots, so that the most frequent words leave room for others.
    tagged = {letter: [word for word, part in counts if part in parts] for letter, parts in PARTS.items()}
    weights = {
        letter: list(itertools.accumulate(count**0.5 for (_, part), count in counts.items() if part in parts))
        for letter, parts in PARTS.items()
    }
    nouns = plain_nouns(wordnet)

    def word(match):
        letter = match[1]
        if letter == "n" and rng.random() < RARE_NOUNS:
            return rng.choice(nouns)
        return rng.choices(tagged[letter], cum_weights=weights[letter])[0]

    texts = set()
    while len(texts) < DRAWN:
        texts.add(re.sub(r"\{(.)\}", word, rng.choice(TEMPLATES)))
    texts = sorted(texts)
    rng.shuffle(texts)
    return texts[:USED]


def tagged_words(wordnet):
    """How often each pair of a word and a part of speech occurs in WordNet's tagged texts."""
    counts = {}
    for line in lines(wordnet / "cntlist.rev"):
        sense, _, count = line.split()
        word, rest = sense.replace("_", " ").split("%")
        counts[word, rest[0]] = counts.get((word, rest[0]), 0) + int(count)
    return counts


def plain_nouns(wordnet):
    """All nouns of letters in lower case, sorted."""
    nouns = {line.split(" ", 1)[0].replace("_", " ") for line in lines(wordnet / "index.noun")}
    return sorted(noun for noun in nouns if re.fullmatch(r"[a-z' -]{3,24}", noun))


def lines(path):
    """The lines of a file of WordNet, without the licence at its head."""
    return [line for line in path.read_text(encoding="latin1").splitlines() if not line.startswith(" ")]
