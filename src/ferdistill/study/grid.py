"""`conf/study.yaml`: which runs make up a study, and what each is called."""

from itertools import product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field, ValidationError, model_validator

from .. import workspace, yaml_file
from ..errors import UsageError
from ..params import Mode, Name, Params, Positive, Seed, Share, StrictModel, explain
from ..softlabels import families

GRID = workspace.STUDY_GRID
Seeds = Annotated[list[Seed], Field(min_length=1)]


class Cell(StrictModel):
    """A recipe, run once for each seed and each value of `lambda`, `beta` and `views`."""

    family: Name
    mode: Mode
    seeds: Name | Seeds
    lambda_: Annotated[list[Share] | None, Field(alias="lambda", min_length=1)] = None
    beta: Annotated[list[Annotated[float, Field(ge=0, allow_inf_nan=False)]] | None, Field(min_length=1)] = None
    views: Annotated[list[Positive] | None, Field(min_length=1)] = None


class Grid(StrictModel):
    """`seeds` names lists of seeds; a cell gives such a name or a list of its own."""

    seeds: dict[Name, Seeds]
    cells: Annotated[list[Cell], Field(min_length=1)]

    @model_validator(mode="after")
    def _seeds_are_known(self) -> "Grid":
        for number, cell in enumerate(self.cells):
            if isinstance(cell.seeds, str) and cell.seeds not in self.seeds:
                raise ValueError(f"cells.{number}.seeds: unknown `{cell.seeds}`; known here: {', '.join(self.seeds)}")
        return self


class Run(NamedTuple):
    """One run: the name of its experiment, and the params that it sets."""

    name: str
    overrides: dict[str, Any]


def load(path: Path, settings: dict[str, Any]) -> list[Run]:
    """Read a grid and list its runs, in the order of the file.

    Parameters
    ----------
    path : Path
        The grid.
    settings : dict
        `params.yaml` as read, on top of which each run sets its own.

    Raises
    ------
    UsageError
        If the grid is not there or not valid, if params would refuse one of its runs, if a cell sweeps what its recipe
        does not read, or if a run stands in it twice.
    """
    try:
        raw = yaml_file.read(path)
    except FileNotFoundError:
        raise UsageError("no grid here", where=str(path), hint="name one with --grid") from None
    try:
        grid = Grid.model_validate(raw)
    except ValidationError as error:
        hint = "see conf/study.yaml of the repository for an example"
        raise UsageError("the grid does not fit:\n" + explain(error, Grid), where=str(path), hint=hint) from None
    runs: dict[str, Run] = {}
    for number, cell in enumerate(grid.cells):
        for run in _expand(cell, grid):
            where = f"{path}, cells.{number}"
            _check(run, cell, settings, where)
            if run.name in runs:
                raise UsageError(f"`{run.name}` stands in the grid twice", where=where, expected="each run once")
            runs[run.name] = run
    return list(runs.values())


def _expand(cell: Cell, grid: Grid) -> list[Run]:
    swept = {"lambda": cell.lambda_, "beta": cell.beta, "views": cell.views}
    given = {name: values for name, values in swept.items() if values}
    seeds = grid.seeds[cell.seeds] if isinstance(cell.seeds, str) else cell.seeds
    runs = []
    for *values, seed in product(*given.values(), seeds):
        chosen = dict(zip(given, values, strict=True))
        recipe = [cell.family] if cell.family == cell.mode == "none" else [cell.family, cell.mode]
        parts = ["study", *recipe, *(f"{name}{value!r}" for name, value in chosen.items()), f"s{seed}"]
        # 4.0 is called 4.
        name = "-".join(part.removesuffix(".0") for part in parts)
        runs.append(Run(name, {"family": cell.family, "mode": cell.mode, **chosen, "seed": seed}))
    return runs


def _check(run: Run, cell: Cell, settings: dict[str, Any], where: str) -> None:
    """Refuse at once what would fail, or repeat another run, hours later."""
    try:
        params = Params.model_validate(settings | run.overrides)
    except ValidationError as error:
        raise UsageError(f"params refuse `{run.name}`:\n" + explain(error, Params), where=where) from None
    if ".." in run.name or run.name.endswith((".", ".lock")):
        raise UsageError(f"`{run.name}` cannot name an experiment", where=where, hint="rename the family")
    if cell.beta and not (params.mode == "dkd" and families.distils(params)):
        raise UsageError("beta is read in mode dkd alone", where=where, hint="drop beta, or set mode: dkd")
    if cell.lambda_ and not (families.distils(params) and families.has_lambda(params.family_)):
        problem = f"{families.run_family(params)} has no source weighted with lambda"
        raise UsageError(problem, where=where, hint="drop lambda, or choose a family such as 6D")
