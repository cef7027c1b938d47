"""What a run is made of and what is measured of it: one list of settings, one of metrics.

The grid, the names of experiments, the table and its checks, comparison, decision and report go through these lists.
A mode's parameter is one line of `SETTINGS`, a metric one line of `METRICS`; a test finds a number of the metrics files
that is neither listed nor excused.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd

from .. import workspace
from ..params import Fusion, Mode, Params
from ..softlabels import families
from ..tracking.experiments import lookup

MODES: tuple[str, ...] = get_args(Mode)
POSITIVE = float(np.nextafter(0, 1))


class Condition(NamedTuple):
    """When a recipe has a setting: in words, as what it needs, and as a test of the params of a run."""

    needs: str
    holds: Callable[[Params], bool]


def in_mode(mode: str) -> Condition:
    """Teachers, and this mode."""
    return Condition(f"mode {mode}, with teachers", lambda params: families.run_mode(params) == mode)


ALWAYS = Condition("nothing", lambda params: True)
DISTILS = Condition("a family with teachers, in a mode other than none", families.distils)
WEIGHTED = Condition(
    "a family with a source weighted with lambda, as 6D, in a mode other than none",
    lambda params: families.distils(params) and families.has_lambda(params.family_),
)


@dataclass(frozen=True)
class Setting:
    """A parameter that tells two recipes of one family and mode apart.

    Attributes
    ----------
    key : str
        Its name in params.yaml, in grids, in selectors, and as a column of the table.
    label : str
        How people read it, a format of its value: `λ={:g}`.
    when : Condition
        Elsewhere its column is empty, and a grid may not sweep it.
    assumed : value, optional
        Left out of labels and selectors, and meant by a selector that does not name it.
    named : bool
        Whether labels and selectors always have it; else where its value is not `assumed`, or runs differ in it.
    in_loss : bool
        Whether another value is another loss; False for what acts through the weights of the family's teachers alone,
        which `recipes.same_loss` compares.
    value : function of Params, optional
        Where it is not a parameter of its own; then no grid can sweep it.
    choices : tuple of str
        The texts that it may be; empty for a number.
    """

    key: str
    label: str
    when: Condition = ALWAYS
    assumed: Any = None
    named: bool = False
    in_loss: bool = True
    value: Callable[[Params], Any] | None = None
    choices: tuple[str, ...] = ()

    def of(self, params: Params) -> Any:
        """Its value in a run with these params; None where it does not apply."""
        if not self.when.holds(params):
            return None
        return self.value(params) if self.value else getattr(params, _field_name(self.key))

    @property
    def sweepable(self) -> bool:
        return self.value is None

    @property
    def symbol(self) -> str:
        """What an axis is called: `λ`."""
        return self.label.partition("=")[0] if "=" in self.label else self.key

    @property
    def kind(self) -> type:
        """float, int or str."""
        annotation = str if self.value else Params.model_fields[_field_name(self.key)].annotation
        return annotation if annotation in (float, int) else str  # type: ignore[return-value]

    @property
    def limits(self) -> tuple[float, float]:
        """The least and the greatest number that params.yaml may give it."""
        low, high = -np.inf, np.inf
        for rule in Params.model_fields[_field_name(self.key)].metadata:
            low = max(low, getattr(rule, "ge", low), getattr(rule, "gt", -np.inf) + POSITIVE)
            high = min(high, getattr(rule, "le", high))
        return low, high


def _field_name(key: str) -> str:
    return next(name for name, field in Params.model_fields.items() if key in (name, field.alias))


# In the order of columns, and in which recipes are listed.
SETTINGS: tuple[Setting, ...] = (
    Setting("lambda", "λ={:g}", WEIGHTED, named=True, in_loss=False),
    Setting("beta", "β={:g}", in_mode("dkd"), named=True),
    Setting(
        "dkd_target_term", "{}'s term", in_mode("dkd"), assumed="official",
        choices=get_args(Params.model_fields["dkd_target_term"].annotation),
    ),
    Setting("dkd_warmup", "warmup={:g}", in_mode("dkd"), assumed=0),
    Setting(
        "fusion", "{} fusion", DISTILS, in_loss=False, value=lambda params: params.family_.fusion,
        choices=get_args(Fusion),
    ),
    Setting("alpha", "α={:g}", DISTILS),
    Setting("temperature", "T={:g}", DISTILS),
    Setting("views", "views={:g}", assumed=1),
)  # fmt: skip
SETTING = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True)
class Metric:
    """A number, or a flag, that the pipeline measures of a run.

    Attributes
    ----------
    key : str
        Its column of the table, and its name as `--metric`; with `each`, what such columns begin with.
    file : str
        The metrics file that has it.
    at : str
        Where it stands there, a dotted path.
    title : str
        What people call it.
    low, high : float
        The least and the greatest that it can be.
    better : "higher", "lower" or None
        None for what is no merit.
    kind : type
        float, int (a whole number) or bool (a flag).
    each : "class", "teacher" or ""
        Whether `at` holds one number, or one of each class or teacher, each a column of its own.
    """

    key: str
    file: str
    at: str
    title: str
    low: float = 0.0
    high: float = 1.0
    better: Literal["higher", "lower"] | None = None
    kind: type = float
    each: Literal["", "class", "teacher"] = ""

    @property
    def limits(self) -> tuple[float, float]:
        return self.low, self.high

    def columns(self, classes: Sequence[str], teachers: Sequence[str] = ()) -> list[str]:
        """The columns that it takes in a table of these classes and teachers."""
        names = {"": None, "class": classes, "teacher": teachers}[self.each]
        return [self.key] if names is None else [f"{self.key}_{name}" for name in names]

    def of(self, files: dict[str, Any], classes: Sequence[str], teachers: Sequence[str] = ()) -> dict[str, Any]:
        """Its columns and their values in a run, from its metrics files by path; None for what they do not hold."""
        found = lookup(files[self.file], self.at)
        if not self.each:
            return {self.key: found}
        return {
            column: (found or {}).get(column.removeprefix(f"{self.key}_")) for column in self.columns(classes, teachers)
        }

    def name(self, column: str) -> str:
        """What people call one of its columns."""
        return self.title.format(column.removeprefix(f"{self.key}_"))


STUDENT, CALIBRATION, EVALUATION = (
    path.as_posix() for path in (workspace.STUDENT_METRICS, workspace.CALIBRATION_METRICS, workspace.EVALUATION_METRICS)
)
FILES = [STUDENT, CALIBRATION, EVALUATION]
INFINITE = float("inf")


def _reliability() -> Iterator[Metric]:
    """Scores of the test split's probabilities, as they are and after T*."""
    for suffix, at, after in (("", "test.raw", ""), ("_scaled", "test.scaled", " after scaling")):
        for key, title, low, high, better in (
            ("nll", "NLL", 0, INFINITE, "lower"),
            ("brier", "Brier score", 0, 2, "lower"),
            ("ece", "ECE", 0, 1, "lower"),
            ("mce", "maximum calibration error", 0, 1, "lower"),
            ("ece_p", "p of the ECE under perfect calibration", 0, 1, None),
            ("ece_equal_mass", "equal-mass ECE", 0, 1, "lower"),
            ("ece_classwise", "classwise ECE", 0, 1, "lower"),
            ("ece_smooth", "smooth ECE", 0, 1, "lower"),
            ("brier_reliability", "reliability of the Brier score", 0, 2, "lower"),
            ("brier_resolution", "resolution of the Brier score", 0, 2, "higher"),
            ("brier_uncertainty", "uncertainty of the Brier score", 0, 1, None),
            ("brier_within_bins", "Brier score within bins", -2, 2, None),
        ):
            yield Metric(key + suffix, EVALUATION, f"{at}.{key}", title + after, low, high, better)  # type: ignore[arg-type]


def _known_truth() -> Iterator[Metric]:
    """Distances from the known distribution of a rendered corpus, which others do not have."""
    for of, what in (("annotator", "an annotator's answers"), ("label", "labels")):
        for suffix, at, after in (("", "raw", ""), ("_scaled", "scaled", ", after scaling")):
            for key, title, high in (
                ("kl", "KL from the law of {}", INFINITE),
                ("total_variation", "total variation from the law of {}", 1),
                ("expected_nll", "NLL expected under the law of {}", INFINITE),
                ("expected_brier", "Brier score expected under the law of {}", 2),
                ("expected_gap", "miscalibration under the law of {}", 1),
            ):
                name, path = f"{of}_{key}{suffix}", f"test.truth.{of}.{at}.{key}"
                yield Metric(name, EVALUATION, path, title.format(what) + after, 0, high, "lower")


def _fallbacks() -> Iterator[Metric]:
    """Vector and isotonic scaling: their cross-validated NLL on calib, and their scores on test."""
    yield Metric("cv_nll_temperature", CALIBRATION, "cross_validation.temperature.nll",
                 "cross-validated NLL of temperature scaling", 0, INFINITE, "lower")  # fmt: skip
    for method in ("vector", "isotonic"):
        of = f" of {method} scaling"
        at = f"cross_validation.{method}"
        yield Metric(f"cv_nll_{method}", CALIBRATION, f"{at}.nll", "cross-validated NLL" + of, 0, INFINITE, "lower")
        yield Metric(f"cv_gain_{method}", CALIBRATION, f"{at}.gain", "gain in NLL" + of, -INFINITE, INFINITE, "higher")
        yield Metric(f"cv_gain_se_{method}", CALIBRATION, f"{at}.gain_standard_error",
                     "standard error of the gain in NLL" + of, 0, INFINITE)  # fmt: skip
        at = f"test.fallbacks.{method}"
        yield Metric(f"macro_f1_{method}", EVALUATION, f"{at}.macro_f1", "macro F1" + of, better="higher")
        yield Metric(f"nll_{method}", EVALUATION, f"{at}.nll", "NLL" + of, 0, INFINITE, "lower")
        yield Metric(f"brier_{method}", EVALUATION, f"{at}.brier", "Brier score" + of, 0, 2, "lower")
        yield Metric(f"ece_{method}", EVALUATION, f"{at}.ece", "ECE" + of, better="lower")


# In the order of columns.
METRICS: tuple[Metric, ...] = (
    Metric("best_epoch", STUDENT, "best_epoch", "best epoch", 0, INFINITE, kind=int),
    Metric("val_macro_f1", STUDENT, "validation.macro_f1", "macro F1 on val", better="higher"),
    Metric("val_accuracy", STUDENT, "validation.accuracy", "accuracy on val", better="higher"),
    Metric("val_nll", STUDENT, "validation.nll", "NLL on val", 0, INFINITE, "lower"),
    Metric("macro_f1", EVALUATION, "test.macro_f1", "macro F1", better="higher"),
    Metric("accuracy", EVALUATION, "test.accuracy", "accuracy", better="higher"),
    Metric("f1", EVALUATION, "test.f1", "F1 of {}", better="higher", each="class"),
    *_reliability(),
    Metric("ece_null", EVALUATION, "test.ece_null", "ECE of a perfectly calibrated model"),
    Metric("t_star", CALIBRATION, "t_star", "T*", POSITIVE, INFINITE),
    Metric("t_star_low", CALIBRATION, "t_star_low", "lower end of the interval of T*", POSITIVE, INFINITE),
    Metric("t_star_high", CALIBRATION, "t_star_high", "upper end of the interval of T*", POSITIVE, INFINITE),
    Metric("t_star_grid", CALIBRATION, "t_star_grid", "T* of the report's grid", POSITIVE, INFINITE),
    Metric("grid_at_edge", CALIBRATION, "grid_at_edge", "T* at the edge of the report's grid", kind=bool),
    Metric("t_star_grid_widened", CALIBRATION, "t_star_grid_widened", "T* of the widened grid", POSITIVE, INFINITE),
    *(
        Metric(f"calib_{key}_{place}", CALIBRATION, f"calib.{place}.{key}", f"{title} on calib {place} scaling",
               0, high, "lower")
        for place in ("before", "after")
        for key, title, high in (("nll", "NLL", INFINITE), ("ece", "ECE", 1), ("brier", "Brier score", 2))
    ),
    *_fallbacks(),
    *_known_truth(),
    Metric("best_test_epoch", STUDENT, "report_protocol.best_test_epoch", "best epoch on test", 0, INFINITE, kind=int),
    Metric("best_test_macro_f1", STUDENT, "report_protocol.best_test_macro_f1", "macro F1 of the best test epoch",
           better="higher"),
    Metric("best_test_acc", STUDENT, "report_protocol.best_test_acc", "accuracy of the best test epoch",
           better="higher"),
    Metric("best_test_f1", STUDENT, "report_protocol.best_test_f1", "F1 of {} at the best test epoch",
           better="higher", each="class"),
    Metric("optimism_macro_f1", STUDENT, "report_protocol.optimism_macro_f1", "optimism of the best test epoch", -1, 1),
    Metric("parameters", STUDENT, "parameters", "parameters of the student", 1, INFINITE, "lower", kind=int),
    Metric("agreement", STUDENT, "soft_label_agreement", "agreement of {}'s soft labels with the labels",
           each="teacher"),
)  # fmt: skip
METRIC = {metric.key: metric for metric in METRICS}
# Those that are compared unless others are asked for.
COMPARED = ["macro_f1", "accuracy", "ece", "brier", "nll"]


def metric_of(column: str) -> Metric | None:
    """The metric of a column, `f1_sad` being one of `f1`; None if it is none."""
    if column in METRIC and not METRIC[column].each:
        return METRIC[column]
    several = [metric for metric in METRICS if metric.each and column.startswith(f"{metric.key}_")]
    return max(several, key=lambda metric: len(metric.key), default=None)


def title_of(column: str) -> str:
    """What people call a metric's column; the column itself if it is no metric's."""
    metric = metric_of(column)
    return metric.name(column) if metric else column


def said(row: pd.Series, key: str) -> Any:
    """A setting's value in a row of a table; None where it is empty or has no column."""
    value = row.get(key)
    return None if value is None or value == "" or pd.isna(value) else value


def label(row: pd.Series, also: Sequence[str] = ()) -> str:
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
