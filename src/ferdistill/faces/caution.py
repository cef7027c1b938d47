"""What a model card must say where faces or their expressions are classified."""

import re
from typing import Any

from ..params import TaskParams

ABOUT_FACES = re.compile(r"\b(face|facial|expression|emotion)", re.IGNORECASE)
CAUTION = """\
A facial expression is not an emotion: the same face can go with different feelings, and people differ in how
they show them. Do not use this model to judge a person's state of mind, honesty, health or fitness, nor for
decisions on employment, education, credit, policing or migration. The law restricts emotion recognition in
some places (in the European Union, at work and in education). Ask people before their faces are processed.
Other ages, skin tones and cultures than the training images' were not measured.
"""


# In bundle.json, for machines. Facts with their sources, and no legal advice.
USE: dict[str, Any] = {
    "intended": ["research on classifying faces by expression", "research on distillation"],
    "prohibited": [
        "judging a person's state of mind, honesty, health or fitness",
        "decisions on employment, education, credit, policing or migration",
        "inferring emotions of people at work or in education, but for medical or safety reasons",
    ],
    "notice": "Facial expressions are being estimated here. An expression is not an emotion. No picture is kept.",
    "sources": [
        "Regulation (EU) 2024/1689, Article 5(1)(f): https://eur-lex.europa.eu/eli/reg/2024/1689/oj",
        "Regulation (EU) 2024/1689, Article 50(3): https://eur-lex.europa.eu/eli/reg/2024/1689/oj",
    ],
}


def use_for(task: TaskParams) -> dict[str, Any] | None:
    """What such a bundle may be used for, and what people are told who are before it; None as `caution_for` is empty.

    Its keys are `intended`, `prohibited` and `sources`, lists of texts, and `notice`, a text.
    """
    return USE if caution_for(task) else None


def caution_for(task: TaskParams) -> str:
    """The text, Markdown, if the words of the task speak of faces or expressions; else none."""
    words = f"{task.thing} {task.things} {task.label} {task.labels}"
    return CAUTION if ABOUT_FACES.search(words) else ""
