"""What a run is made of and what is measured of it: one list of settings, one of metrics.

The grid, the names of experiments, the table and its checks, comparison, decision and report go through these lists.
A mode's parameter is one line of `SETTINGS`, a metric one of `METRICS`; a test finds a number of the metrics files that
is neither listed nor excused.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .. import workspace
from ..params import Family, Mode, Params, Phase, StudentParams
from ..softlabels import families
from ..tracking.experiments import lookup

MODES: tuple[str, ...] = get_args(Mode)
# Modes whose loss is linear in the teachers' probabilities: see `recipes.same_loss`.
LINEAR = ("kd",)
Better = Literal["higher", "lower"] | None
Holder = Literal["params", "family", "student", "phase"]
HOLDERS: dict[Holder, type[BaseModel]] = {"params": Params, "family": Family, "student": StudentParams, "phase": Phase}
POSITIVE, INFINITE = math.nextafter(0, 1), float("inf")


class Condition(NamedTuple):
    """When a recipe has a setting: in words, as what it needs, and as a test of the params of a run."""

    needs: str
    holds: Callable[[Params], bool]


def in_mode(mode: str) -> Condition:
    """Teachers, and this mode."""
    return Condition(f"mode {mode} and a family with teachers", lambda params: families.run_mode(params) == mode)


ALWAYS = Condition("nothing", lambda params: True)
ONE_PHASE = Condition("a student of one phase", lambda params: len(params.scale_.student.phases) == 1)
DISTILS = Condition("a family with teachers, and a mode other than none", families.distils)
WEIGHTED = Condition(
    "a family with a source of weight lambda, as 6D, and a mode other than none",
    lambda params: families.distils(params) and families.has_lambda(params.family_),
)


@dataclass(frozen=True)
class Setting:
    """A parameter that tells two recipes of one family and mode apart."""

    key: str  # its name in grids, in selectors, and as a column of the table; in params.yaml too, but for `field`
    label: str  # how people read it, a format of its value: `λ={:g}`
    when: Condition = ALWAYS  # elsewhere its column is empty, and a grid may not sweep it
    assumed: Any = None  # left out of labels and selectors, and meant by a selector that does not name it
    named: bool = False  # always in labels and selectors; else where it is not `assumed`, or runs differ in it
    in_loss: bool = True  # False where it acts through the weights of the family's teachers alone: `recipes.same_loss`
    within: Holder = "params"  # whose it is: the family's, which no grid can sweep, the student's, or its only phase's
    field: str = ""  # its name there, where that is another

    @property
    def _field(self) -> tuple[str, FieldInfo]:
        fields, key = HOLDERS[self.within].model_fields, self.field or self.key
        return next((name, field) for name, field in fields.items() if key in (name, field.alias))

    def of(self, params: Params) -> Any:
        """Its value in a run with these params; None where it does not apply."""
        if not self.when.holds(params):
            return None
        student = params.scale_.student
        holders = {"params": params, "family": params.family_, "student": student, "phase": student.phases[0]}
        return getattr(holders[self.within], self._field[0])

    def place(self, scale: str) -> str:
        """Where params.yaml has it, a dotted name, in a run of this scale."""
        student = f"scales.{scale}.student."
        before = {"student": student, "phase": f"{student}phases.0."}.get(self.within, "")
        return before + (self.field or self.key)

    @property
    def sweepable(self) -> bool:
        return self.within != "family"

    @property
    def symbol(self) -> str:
        """What an axis is called: `λ`."""
        return self.label.partition("=")[0] if "=" in self.label else self.key

    @property
    def choices(self) -> tuple[str, ...]:
        """The texts that it may be; none for a number."""
        return get_args(self._field[1].annotation)

    @property
    def kind(self) -> type:
        """float, int or str."""
        return str if self.choices else self._field[1].annotation  # type: ignore[return-value]

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest number that params.yaml may give it."""
        low, high = -INFINITE, INFINITE
        for rule in self._field[1].metadata:
            low = max(low, getattr(rule, "ge", low), getattr(rule, "gt", -INFINITE) + POSITIVE)
            high = min(high, getattr(rule, "le", high))
        return low, high


# In the order of columns, and in which recipes are listed.
SETTINGS: tuple[Setting, ...] = (
    Setting("lambda", "λ={:g}", WEIGHTED, named=True, in_loss=False),
    Setting("beta", "β={:g}", in_mode("dkd"), named=True),
    Setting("dkd_target_term", "{}'s term", in_mode("dkd"), assumed="official"),
    Setting("dkd_warmup", "warmup={:g}", in_mode("dkd"), assumed=0),
    Setting("fusion", "{} fusion", DISTILS, in_loss=False, within="family"),
    Setting("alpha", "α={:g}", DISTILS),
    Setting("temperature", "T={:g}", DISTILS),
    Setting("views", "views={:g}", assumed=1),
    Setting("student", "{}", within="student", field="model"),
    Setting("init", "from {}", within="student"),
    Setting("epochs", "{:g} epochs", ONE_PHASE, within="phase"),
    Setting("lr", "lr={:g}", ONE_PHASE, within="phase"),
)
SETTING = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True)
class Metric:
    """A number, or a flag, that the pipeline measures of a run."""

    key: str  # its column of the table, and its name as `--metric`; with `each`, what such columns begin with
    file: str  # the metrics file that has it
    at: str  # where it stands there, a dotted path
    title: str  # what people call it
    low: float = 0.0
    high: float = 1.0
    better: Better = None
    kind: type = float  # or int, a whole number, or bool
    each: Literal["", "class", "teacher"] = ""  # whether there is one of each, in a column of its own
    of_largest: str = ""  # of the things of the file, by name, that one's `at` whose `of_largest` is the largest

    @property
    def limits(self) -> tuple[float, float]:
        return self.low, self.high

    def columns(self, classes: Sequence[str], teachers: Sequence[str] = ()) -> list[str]:
        """The columns that it takes in a table of these classes and teachers."""
        if not self.each:
            return [self.key]
        return [f"{self.key}_{name}" for name in (classes if self.each == "class" else teachers)]

    def of(self, files: dict[str, Any], classes: Sequence[str], teachers: Sequence[str] = ()) -> dict[str, Any]:
        """Its columns and their values in a run, from its metrics files by path; None for what they do not hold."""
        held = files[self.file]
        if self.of_largest:
            there = [one for one in held.values() if one[self.of_largest] is not None]
            held = max(there, key=lambda one: one[self.of_largest], default={})
        found = lookup(held, self.at)
        if not self.each:
            return {self.key: found}
        return {name: (found or {}).get(name[len(self.key) + 1 :]) for name in self.columns(classes, teachers)}


STUDENT, CALIBRATION, EVALUATION = FILES = [
    path.as_posix() for path in (workspace.STUDENT_METRICS, workspace.CALIBRATION_METRICS, workspace.EVALUATION_METRICS)
]
GROUPS = workspace.GROUP_METRICS.as_posix()  # which a run may lack: it is not among `FILES`
# Scores that the files have of several things: title, limits, and which way is better.
SCORES: dict[str, tuple[str, float, float, Better]] = {
    "macro_f1": ("macro F1", 0, 1, "higher"),
    "accuracy": ("accuracy", 0, 1, "higher"),
    "nll": ("NLL", 0, INFINITE, "lower"),
    "brier": ("Brier score", 0, 2, "lower"),
    "ece": ("ECE", 0, 1, "lower"),
    "mce": ("maximum calibration error", 0, 1, "lower"),
    "ece_p": ("p of the ECE under perfect calibration", 0, 1, None),
    "ece_equal_mass": ("equal-mass ECE", 0, 1, "lower"),
    "ece_classwise": ("classwise ECE", 0, 1, "lower"),
    "ece_smooth": ("smooth ECE", 0, 1, "lower"),
    "brier_reliability": ("reliability of the Brier score", 0, 2, "lower"),
    "brier_resolution": ("resolution of the Brier score", 0, 2, "higher"),
    "brier_uncertainty": ("uncertainty of the Brier score", 0, 1, None),
    "brier_within_bins": ("Brier score within bins", -2, 2, None),
    "gain": ("gain in NLL", -INFINITE, INFINITE, "higher"),
    "gain_standard_error": ("standard error of the gain in NLL", 0, INFINITE, None),
    "kl": ("KL", 0, INFINITE, "lower"),
    "total_variation": ("total variation", 0, 1, "lower"),
    "expected_nll": ("expected NLL", 0, INFINITE, "lower"),
    "expected_brier": ("expected Brier score", 0, 2, "lower"),
    "expected_gap": ("expected miscalibration", 0, 1, "lower"),
}
_KEYS = list(SCORES)
ON_TEST = _KEYS[_KEYS.index("nll") : _KEYS.index("gain")]
FALLBACK = ("macro_f1", "nll", "brier", "ece")
ON_CALIB = ("nll", "ece", "brier")
CROSSED = ("nll", "gain", "gain_standard_error")
TRUTH = _KEYS[_KEYS.index("kl") :]  # which rendered corpora alone know


def _several(file: str, at: str, key: str, title: str, names: Sequence[str]) -> list[Metric]:
    """Scores of one thing, which `key` and `title` say, formats of each score's own."""
    return [Metric(key.format(n), file, f"{at}.{n}", title.format(SCORES[n][0]), *SCORES[n][1:]) for n in names]


# In the order of columns.
METRICS: tuple[Metric, ...] = (
    Metric("best_epoch", STUDENT, "best_epoch", "best epoch", 0, INFINITE, kind=int),
    *_several(STUDENT, "validation", "val_{}", "{} on val", ("macro_f1", "accuracy", "nll")),
    *_several(EVALUATION, "test", "{}", "{}", ("macro_f1", "accuracy")),
    Metric("f1", EVALUATION, "test.f1", "F1 of {}", better="higher", each="class"),
    *_several(EVALUATION, "test.raw", "{}", "{}", ON_TEST),
    *_several(EVALUATION, "test.scaled", "{}_scaled", "{} after scaling", ON_TEST),
    Metric("ece_null", EVALUATION, "test.ece_null", "ECE of a perfectly calibrated model"),
    Metric("t_star", CALIBRATION, "t_star", "T*", POSITIVE, INFINITE),
    Metric("t_star_low", CALIBRATION, "t_star_low", "lower end of the interval of T*", POSITIVE, INFINITE),
    Metric("t_star_high", CALIBRATION, "t_star_high", "upper end of the interval of T*", POSITIVE, INFINITE),
    Metric("t_star_grid", CALIBRATION, "t_star_grid", "T* of the grid", POSITIVE, INFINITE),
    Metric("grid_at_edge", CALIBRATION, "grid_at_edge", "T* at the edge of the grid", kind=bool),
    Metric("t_star_grid_widened", CALIBRATION, "t_star_grid_widened", "T* of the widened grid", POSITIVE, INFINITE),
    *_several(CALIBRATION, "calib", "calib_{}", "{} on calib", ("macro_f1",)),
    *_several(CALIBRATION, "calib.before", "calib_{}", "{} on calib", ON_CALIB),
    *_several(CALIBRATION, "calib.after", "calib_{}_scaled", "{} on calib after scaling", ON_CALIB),
    *_several(CALIBRATION, "cross_validation.temperature", "cv_{}", "cross-validated {}", ("nll",)),
    *_several(CALIBRATION, "cross_validation.vector", "vector_cv_{}", "cross-validated {}, vector", CROSSED),
    *_several(CALIBRATION, "cross_validation.isotonic", "isotonic_cv_{}", "cross-validated {}, isotonic", CROSSED),
    *_several(EVALUATION, "test.fallbacks.vector", "vector_{}", "{} of vector scaling", FALLBACK),
    *_several(EVALUATION, "test.fallbacks.isotonic", "isotonic_{}", "{} of isotonic scaling", FALLBACK),
    *_several(EVALUATION, "test.truth.annotator.raw", "annotator_{}", "{} by annotators' law", TRUTH),
    *_several(EVALUATION, "test.truth.annotator.scaled", "annotator_{}_scaled", "{} by annotators' law, scaled", TRUTH),
    *_several(EVALUATION, "test.truth.label.raw", "label_{}", "{} by the labels' law", TRUTH),
    *_several(EVALUATION, "test.truth.label.scaled", "label_{}_scaled", "{} by the labels' law, scaled", TRUTH),
    Metric("aurc", EVALUATION, "acting.labels.aurc", "area under risk and coverage", better="lower"),
    *(
        Metric(f"sets_{key}", EVALUATION, f"acting.labels.sets.{key}", title, 0, high)
        for key, title, high in (
            ("coverage", "coverage of the sets", 1),
            ("coverage_by_person", "coverage of the sets by person", 1),
            ("mean_size", "mean size of the sets", INFINITE),
            ("empty", "share of empty sets", 1),
            ("one", "share of sets with one class", 1),
        )
    ),
    Metric("sets_coverage_of", EVALUATION, "acting.labels.sets.coverage_of", "coverage of the sets, {}", each="class"),
    Metric("group_gap", GROUPS, "gap", "largest gap between groups", better="lower", of_largest="gap"),
    Metric("group_gap_p", GROUPS, "gap_p_holm", "p of the largest gap between groups", of_largest="gap"),
    Metric("best_test_epoch", STUDENT, "report_protocol.best_test_epoch", "best test epoch", 0, INFINITE, kind=int),
    Metric("best_test_macro_f1", STUDENT, "report_protocol.best_test_macro_f1", "macro F1 of the best test epoch"),
    Metric("best_test_acc", STUDENT, "report_protocol.best_test_acc", "accuracy of the best test epoch"),
    Metric("best_test_f1", STUDENT, "report_protocol.best_test_f1", "F1 of {} at the best test epoch", each="class"),
    Metric("optimism_macro_f1", STUDENT, "report_protocol.optimism_macro_f1", "optimism of the best test epoch", -1),
    Metric("parameters", STUDENT, "parameters", "parameters of the student", 1, INFINITE, kind=int),
    Metric("agreement", STUDENT, "soft_label_agreement", "agreement of {} with the labels", each="teacher"),
)
METRIC = {metric.key: metric for metric in METRICS}
# Those that are compared unless others are asked for.
COMPARED = ["macro_f1", "accuracy", "ece", "brier", "nll"]


def metric_of(column: str) -> Metric | None:
    """The metric of a column, `f1_cat` being one of `f1`; None if it is none."""
    if column in METRIC and not METRIC[column].each:
        return METRIC[column]
    several = [metric for metric in METRICS if metric.each and column.startswith(f"{metric.key}_")]
    return max(several, key=lambda metric: len(metric.key), default=None)


def title_of(column: str) -> str:
    """What people call a metric's column; the column itself if it is no metric's."""
    metric = metric_of(column)
    return metric.title.format(column[len(metric.key) + 1 :]) if metric else column


def said(row: Any, key: str) -> Any:
    """A setting's value in a row of a table, a Series or mapping; None where it is empty or has no column."""
    value = row.get(key)
    return None if value is None or value == "" or value != value else value


def label(row: Any, also: Sequence[str] = ()) -> str:
    """A recipe's name for people, as `6D kd λ=0.7`; of one row of a table.

    `also` names settings to tell although they are not always told: those in which the table's runs of one family and
    mode differ.
    """
    parts = ["none"] if row["mode"] == "none" else [str(row["family"]), str(row["mode"])]
    for setting in SETTINGS:
        value = said(row, setting.key)
        told = setting.named or setting.key in also or setting.assumed is not None
        if value is not None and told and value != setting.assumed:
            parts.append(setting.label.format(value))
    return " ".join(parts)
