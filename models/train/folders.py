"""The folders of the demo models: where they are, and names in them. Needs only the standard library."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
MODELS = REPOSITORY / "models"

# The matrices of an expert.
EXPERT_WEIGHTS = ("w1", "w2", "w3")

# How a text is divided before byte-pair encoding, where it is not as for GPT-2.
#
# Each space is a token, so that a word has the same tokens in the sentence and after a quote: the
# model can copy a word by repeating its tokens.
EXTRACT_PIECES = r" |\d|\p{L}+|[^\s\p{L}\d]"
# A number is one token together with the comma or space before it. This makes sequences short, and
# the mean of a list is close to the mean of its embeddings.
NUMBERS_PIECES = r",? ?\d{1,2}| ?\p{L}+| ?[^\s\p{L}\d]|\s"
