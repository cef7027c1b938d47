"""Corpora of facial expressions, and the words for these: `data.reader` finds both by their place and name."""

from ...data.layouts import Tree, last, parent
from ...files import folded

EXPRESSIONS = ("angry", "contempt", "disgust", "fear", "happy", "neutral", "sad", "surprise")
# Folded name -> the one that stands for all its synonyms.
SYNONYMS = {
    "anger": "angry", "disgusted": "disgust", "fearful": "fear", "afraid": "fear", "happiness": "happy",
    "sadness": "sad", "surprised": "surprise",
}  # fmt: skip


def expression(name: str) -> str:
    """The name that stands for all synonyms of a name, in whatever case."""
    return SYNONYMS.get(folded(name), folded(name))


def numbered(*names: str) -> dict[str, str]:
    """The table of a corpus whose codes count from 0."""
    return {str(code): name for code, name in enumerate(names)}


def is_expression(name: str) -> bool:
    """Whether a folder is named as an expression."""
    return expression(name) in EXPRESSIONS


def named_as(tree: Tree, base: str, example: str) -> str:
    """The evidence for a corpus that was recognised by the names of its images."""
    evidence = f"every image is named as {example} is"
    if any(is_expression(last(parent(name))) for name in tree.images_below(base)):
        evidence += "; `folders` could read it too, but not tell who is shown"
    return evidence
