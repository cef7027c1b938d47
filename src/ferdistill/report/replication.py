"""A published report whose recipes a study repeats, as conf/report.yaml gives it: what the study is set beside."""

from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, ValidationError

from .. import yaml_file
from ..errors import UsageError
from ..params import Noun, Positive, Share, StrictModel, explain
from ..study import schema

Effect = Annotated[float, Field(ge=-1, le=1)]


class Selector(NamedTuple):
    """A recipe by its family, mode and settings; a setting that is not named has the value that selectors assume."""

    text: str
    family: str
    mode: str
    settings: dict[str, Any]


def parse(text: Any) -> Selector:
    """`FAMILY:MODE:NAME=VALUE,…` as `ferdistill study compare` takes it, or `none`; a ValueError if it is neither."""
    family, mode, named = ["none", "none", ""] if text == "none" else (*str(text).split(":", 2), "", "")[:3]
    settings = {key: setting.assumed for key, setting in schema.SETTING.items() if setting.assumed is not None}
    for key, equals, value in (item.partition("=") for item in named.split(",") if item):
        if key not in schema.SETTING or not equals:
            raise ValueError(f"no setting `{key}` in `{text}`; settings are {', '.join(schema.SETTING)}")
        settings[key] = schema.SETTING[key].kind(value)
    if not family or mode not in schema.MODES:
        raise ValueError(f"no recipe can be named `{text}`; expected FAMILY:MODE:NAME=VALUE,… or none")
    return Selector(str(text), family, mode, settings)


RecipeName = Annotated[Selector, BeforeValidator(parse)]


class Published(StrictModel):
    """A difference of macro F1 that the report has: candidate minus baseline, a fraction."""

    baseline: RecipeName
    candidate: RecipeName
    macro_f1: Effect
    seeds: Positive = Field(description="of each recipe, whose means it is of")


class Headline(Published):
    """The comparison that the report rests on."""

    ece_scaled: tuple[Share, Share] = Field(description="the baseline's and the candidate's")
    per_seed: Annotated[list[Share], Field(min_length=2)] = Field(description="the candidate's macro F1")
    equal_classes: Noun | None = Field(description="where the report shows both equal in every class")


class Replication(StrictModel):
    """What conf/report.yaml holds."""

    name: Noun = Field(description="what pages call the report")
    headline: Headline
    differences: list[Published]
    curves: list[RecipeName] = Field(description="the recipes whose learning curves are drawn")
    confusion: list[RecipeName] = Field(description="those whose confusion is shown")
    best_test_epoch: bool = Field(description="whether it reports the epoch that is best on test")
    independent_teachers: Noun | None = Field(description="where it takes the teachers as independent")


def load(path: Path) -> Replication:
    """Read a report's description.

    Raises
    ------
    UsageError
        If it is not there, or does not fit.
    """
    hint = "see conf/report.yaml of the repository for an example"
    try:
        return Replication.model_validate(yaml_file.read(path))
    except FileNotFoundError:
        raise UsageError("no report to repeat here", where=str(path), hint=hint) from None
    except ValidationError as error:
        what = "the report to repeat does not fit:\n" + explain(error, Replication)
        raise UsageError(what, where=str(path), hint=hint) from None
