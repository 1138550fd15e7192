"""Noise in the training texts of the intent models, for robustness against typing errors."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def _misspell(word, rng):
    spot = rng.randrange(len(word))
    kind = rng.randrange(4)
    if kind == 0:
        return word[:spot] + word[spot + 1 :]
    if kind == 1:
        return word[:spot] + word[spot] + word[spot:]
    if kind == 2:
        return word[:spot] + rng.choice(LETTERS) + word[spot + 1 :]
    return word[:spot] + word[spot : spot + 2][::-1] + word[spot + 2 :]


def add_noise(text, rng, typo=0.03, drop=0.08, swap=0.03):
    """Misspell, drop and swap a few words of `text`."""
    words = []
    for word in text.split():
        if rng.random() < drop:
            continue
        if len(word) > 3 and rng.random() < typo:
            word = _misspell(word, rng)
        words.append(word)
    for spot in range(len(words) - 1):
        if rng.random() < swap:
            words[spot], words[spot + 1] = words[spot + 1], words[spot]
    return " ".join(words) or text
