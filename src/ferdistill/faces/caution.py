"""What a model card must say where faces or their expressions are classified."""

import re

from ..params import TaskParams

ABOUT_FACES = re.compile(r"\b(face|facial|expression|emotion)", re.IGNORECASE)
CAUTION = """\
A facial expression is not an emotion: the same face can go with different feelings, and people differ in how
they show them. Do not use this model to judge a person's state of mind, honesty, health or fitness, nor for
decisions on employment, education, credit, policing or migration. The law restricts emotion recognition in
some places (in the European Union, at work and in education). Ask people before their faces are processed.
Other ages, skin tones and cultures than the training images' were not measured.
"""


def caution_for(task: TaskParams) -> str:
    """The text, Markdown, if the words of the task speak of faces or expressions; else none."""
    words = f"{task.thing} {task.things} {task.label} {task.labels}"
    return CAUTION if ABOUT_FACES.search(words) else ""
