"""`conf/study.yaml`: which runs make up a study, and what each is called."""

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError, create_model, model_validator

from .. import workspace, yaml_file
from ..errors import UsageError
from ..params import Name, Params, Seed, StrictModel, explain
from ..softlabels import families
from ..tracking import experiments
from ..tracking.experiments import PlannedRun
from .schema import SETTINGS

GRID = workspace.STUDY_GRID
Seeds = Annotated[list[Seed], Field(min_length=1)]
SWEPT = [setting for setting in SETTINGS if setting.sweepable]


class FixedEntry(StrictModel):
    """What every entry of a grid says: a recipe, once for each seed."""

    family: Name
    mode: str
    seeds: Name | Seeds


if TYPE_CHECKING:
    GridEntry = FixedEntry
else:  # and once for each value of the settings that it lists; the types of params.yaml check the values
    lists = {f"of_{one.key}": (list[Any] | None, Field(default=None, alias=one.key, min_length=1)) for one in SWEPT}
    GridEntry = create_model("GridEntry", __base__=FixedEntry, **lists)


class Primary(StrictModel):
    """The contrasts that a study is run for, named before its runs: each metric of a recipe less each baseline's."""

    candidate: str
    baselines: Annotated[list[str], Field(min_length=1)]
    metrics: Annotated[list[str], Field(min_length=1)]


class Standing(StrictModel):
    """Families of rows that every study has beside labels alone, where the corpus allows: see `contrasts.headroom`."""

    oracle: Name | None = None  # whose teacher is the true distribution
    votes: Name | None = None  # whose teacher is the annotators' votes


class StudyGrid(StrictModel):
    """`seeds` names lists of seeds; a cell gives such a name or a list of its own."""

    primary: Primary | None = None
    standing: Standing = Standing()
    seeds: dict[Name, Seeds]
    cells: Annotated[list[GridEntry], Field(min_length=1)]

    @model_validator(mode="after")
    def _seeds_are_known(self) -> "StudyGrid":
        for number, entry in enumerate(self.cells):
            if isinstance(entry.seeds, str) and entry.seeds not in self.seeds:
                raise ValueError(f"cells.{number}.seeds: unknown `{entry.seeds}`; known here: {', '.join(self.seeds)}")
        return self


def read(path: Path) -> StudyGrid:
    """Read a grid; a UsageError if it is not there or not valid."""
    try:
        raw = yaml_file.read(path)
    except FileNotFoundError:
        raise UsageError("no grid here", where=str(path), hint="name one with --grid") from None
    try:
        return StudyGrid.model_validate(raw)
    except ValidationError as error:
        hint = "see conf/study.yaml of the repository for an example"
        raise UsageError("the grid does not fit:\n" + explain(error, StudyGrid), where=str(path), hint=hint) from None


def load(path: Path, settings: dict[str, Any]) -> list[PlannedRun]:
    """Read a grid and list its runs, in the order of the file.

    `settings` is `params.yaml` as read, on top of which each run sets its own.

    Raises
    ------
    UsageError
        As `read`; if params would refuse a run, a cell sweeps what its recipe does not read, or a run stands in the
        grid twice.
    """
    grid = read(path)
    runs: dict[str, PlannedRun] = {}
    for number, entry in enumerate(grid.cells):
        where = f"{path}, cells.{number}"
        listed = entry.model_dump(by_alias=True)
        given = {setting.key: listed[setting.key] for setting in SWEPT if listed[setting.key]}
        seeds = grid.seeds[entry.seeds] if isinstance(entry.seeds, str) else entry.seeds
        for *values, seed in product(*given.values(), seeds):
            chosen = {"family": entry.family, "mode": entry.mode, **dict(zip(given, values, strict=True)), "seed": seed}
            run = _planned(chosen, settings, where)
            if run.name in runs:
                raise UsageError(f"`{run.name}` stands in the grid twice", where=where, expected="each run once")
            runs[run.name] = run
    return list(runs.values())


def _planned(chosen: dict[str, Any], settings: dict[str, Any], where: str) -> PlannedRun:
    """A run, unless it would fail, or repeat another, hours later."""
    swept = [setting for setting in SWEPT if setting.key in chosen]
    laid = {setting.key: setting.place(settings["scale"]) for setting in swept}
    overrides = {laid.get(key, key): value for key, value in chosen.items()}
    try:
        params = Params.model_validate(experiments.laid_over(settings, overrides))
    except ValidationError as error:
        raise UsageError("params refuse a run:\n" + explain(error, Params), where=f"{where}, {chosen}") from None
    for setting in swept:
        if not setting.when.holds(params):
            raise UsageError(
                f"{families.run_family(params)} {families.run_mode(params)} does not read {setting.key}",
                where=where,
                expected=f"{setting.key} with {setting.when.needs}",
            )
    recipe = [params.family] if params.family == params.mode == "none" else [params.family, params.mode]
    values = {setting.key: setting.of(params) for setting in swept}
    # 4.0 is called 4, and no name has a slash.
    told = [f"{key}{value}".removesuffix(".0").replace("/", "_") for key, value in values.items()]
    name = "-".join(["study", *recipe, *told, f"s{params.seed}"])
    if ".." in name or name.endswith((".", ".lock")):
        raise UsageError(f"`{name}` cannot name an experiment", where=where, hint="rename the family")
    return PlannedRun(name, {**overrides, **{laid[key]: value for key, value in values.items()}})
