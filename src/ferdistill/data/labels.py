"""From the labels of a source, codes or names, to the classes of params.yaml: by a rule, never by guess."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import yaml

from ..files import folded
from .sources import Dropped, Record, Row, unknown_label

NAMED = 10  # labels that a message names


class Labels:
    """What the labels of one source mean, and how often each was met.

    A label is a class if, first, the source's map in corpus.yaml says so, of the label or of the name that the
    corpus's own table of codes gives to it; else if that name is the class's own, or differs in case alone or in how
    accents are encoded; else if both are synonyms of one word. `counts` has the rows met so far, by label.

    Parameters
    ----------
    classes
        Those of params.yaml.
    given
        Label or name -> class: the map in corpus.yaml.
    codes
        Label -> name: the corpus's own table. Empty where labels are names themselves.
    synonyms
        Folded name -> the word that stands for all its synonyms.
    """

    def __init__(
        self, classes: list[str], given: Mapping[str, str], codes: Mapping[str, str], synonyms: Mapping[str, str]
    ) -> None:
        self.classes, self.given, self.codes, self.synonyms = classes, given, codes, synonyms
        self.counts: Counter[str] = Counter()
        meanings = Counter(map(self._meaning, classes))
        self._by_meaning = {self._meaning(name): name for name in classes if meanings[self._meaning(name)] == 1}
        self._by_name = {folded(name): name for name in classes}
        self._known: dict[str, str | None] = {}

    def _meaning(self, name: str) -> str:
        return self.synonyms.get(folded(name), folded(name))

    def class_of(self, label: str) -> str | None:
        """The class that a label is; None if it is none."""
        label = label.strip()
        if label not in self._known:
            name = self.codes.get(label, label)
            found = self.given.get(label) or self.given.get(name)
            self._known[label] = found or self._by_name.get(folded(name)) or self._by_meaning.get(self._meaning(name))
        return self._known[label]

    def row(self, record: Record, where: str) -> Row:
        """A record whose label is as in the source, with its class; dropped by its name if it is none.

        Votes become shares of the votes for any class, of which `voters` is the number. A code that the corpus's table
        does not know is an error, with the place given.
        """
        label = record.label.strip()
        if self.codes and label not in self.codes and label not in self.given:
            return unknown_label(record.label, self.codes, where)
        self.counts[label] += 1
        found = self.class_of(label)
        if found is None:
            return Dropped(record.path, self.codes.get(label, label))
        shares, voters = self.shares(record.votes or {})
        return replace(record, label=found, votes=shares, voters=voters)

    def unlabelled(self, record: Record) -> Record:
        """A record without a label, with what votes it has as `row` gives them."""
        shares, voters = self.shares(record.votes or {})
        return replace(record, label="", votes=shares, voters=voters)

    def shares(self, votes: Mapping[str, float]) -> tuple[dict[str, float] | None, int | None]:
        """Shares of the votes for any class, None without one; and how many these are, None unless all are whole."""
        counts = dict.fromkeys(self.classes, 0.0)
        for label, count in votes.items():
            if found := self.class_of(label):
                counts[found] += count
        total = sum(counts.values())
        if not total:
            return None, None
        whole = all(float(count).is_integer() for count in counts.values())
        return {name: count / total for name, count in counts.items()}, int(total) if whole else None

    def without_class(self) -> list[str]:
        """The labels that were met and are no class, in their order."""
        return sorted((label for label in self.counts if self.class_of(label) is None), key=by_number)

    def listed(self, labels: list[str]) -> str:
        """Labels with the names that the corpus's table gives them, and how often each was met."""
        name_of = {label: f" ({name})" for label, name in self.codes.items()}
        parts = [f"{label}{name_of.get(label, '')} {self.counts[label]:,}" for label in labels[:NAMED]]
        return ", ".join(parts) + (f" and {len(labels) - NAMED} more" if len(labels) > NAMED else "")


def by_number(label: str) -> tuple[int, str]:
    """An order in which 10 comes after 9."""
    return (int(label) if label.isdecimal() else -1, label)


def in_yaml(value: Any) -> str:
    """A value as YAML writes it on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf"))
    return text.strip()


def to_be_mapped(labels: list[str]) -> str:
    """What to do about labels of which none is a class."""
    classes = in_yaml({"classes": dict.fromkeys(labels[:NAMED], "CLASS")})[1:-1]
    return f"write there in corpus.yaml which class each is, as `{classes}`, or name them in `classes` of params.yaml"
