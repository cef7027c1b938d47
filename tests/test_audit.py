"""The audit: the report's own tables, honest tables of every shape, and one wrong cell in each."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from conftest import CLASSES
from ferdistill.cli import cli
from ferdistill.errors import UsageError
from ferdistill.study import tables
from ferdistill.study.audit import audit
from ferdistill.study.results import SUMMARY
from ferdistill.workspace import RESCORED

DATA = Path(__file__).parent / "data"


GRID = [0.8, 0.9, 1.0, 1.1, 1.2]


def kinds(path, **options):
    return [(finding.row, finding.column, finding.kind) for finding in audit([path], **options).findings]


def write(path, header, rows):
    """A CSV or Markdown table, by the suffix."""
    if path.suffix == ".csv":
        lines = [",".join(row) for row in (header, *rows)]
    else:
        lines = ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_reports_section_6_has_one_column_twice():
    found = audit([DATA / "section_6.md"]).findings
    assert [(f.column, f.kind) for f in found] == [("Four-Way KD F1", "identical_runs")]
    assert "column Pairwise KD F1" in found[0].found and "0.722629" in found[0].found
    # With the macro F1 of these two runs from §5.1 it is plain which: the column is that of the four-way run.
    found = audit([DATA / "section_6.csv"]).findings
    assert [(f.row, f.column, f.kind) for f in found] == [
        (2, "macro_f1", "macro_f1"),
        (3, "f1_angry", "identical_runs"),
    ]
    assert found[0].found == "0.7187765" and found[0].expected.startswith("0.72263,")


def test_the_reports_section_5_2_has_a_wrong_mean_and_a_t_at_the_edge_of_its_grid():
    found = audit([DATA / "section_5_2.md"], grid=GRID).findings
    assert [(f.row, f.column, f.found) for f in found if f.kind == "mean"] == [(9, "Acc", "0.7418")]
    assert [f.expected for f in found if f.kind == "mean"] == ["0.741133, the mean of 3 rows"]
    assert [f.row for f in found if f.kind == "grid_edge"] == [6, 7, 8, 10, 11, 12] and len(found) == 7
    shown_to_people = CliRunner().invoke(cli, ["audit", str(DATA / "section_5_2.md")]).output
    assert "6-8, 10-12" in shown_to_people and shown_to_people.count("edge of its grid") == 1
    assert all(kind == "mean" for _, _, kind in kinds(DATA / "section_5_2.md", grid=[0.8, 1.0, 1.2, 1.4]))


def test_classes_are_known_by_their_header_or_by_name(tmp_path):
    rows = [["cat", "0.70"], ["dog", "0.50"], ["mean", "0.65"]]
    assert kinds(write(tmp_path / "t.md", ["Class", "F1"], rows)) == [(5, "F1", "macro_f1")]
    bare = write(tmp_path / "t.csv", ["run", "cat", "dog", "macro_f1"], [["a", "0.70", "0.50", "0.65"]])
    assert kinds(bare, classes=["cat", "dog"]) == [(2, "macro_f1", "macro_f1")] and kinds(bare) == []
    shown = CliRunner().invoke(cli, ["audit", str(bare), "--classes", "cat, dog"])
    assert shown.exit_code == 1 and "not the mean of its per-class F1" in " ".join(shown.output.split())


def test_without_a_grid_a_flag_alone_tells_of_its_edge(tmp_path):
    assert {kind for *_, kind in kinds(DATA / "section_5_2.md")} == {"mean"}
    flagged = write(
        tmp_path / "t.csv", ["run", "t_star", "grid_at_edge"], [["a", "1.2", "true"], ["b", "1.0", "false"]]
    )
    assert kinds(flagged) == [(2, "grid_at_edge", "grid_edge")]


def test_the_reports_other_tables():
    assert kinds(DATA / "section_5.md") == []  # lists, ranges and means in several layouts, all right
    assert kinds(DATA / "section_14.md") == [(5, "best_test_macro_f1", "selected_on_test")]
    assert kinds(DATA / "section_5_1.csv") == []


def test_our_own_metrics_are_clean():
    """But for the report's grid of temperatures, at whose edge some of the study's runs do end."""
    found = audit([Path("metrics")]).findings
    assert {(finding.file, finding.kind) for finding in found} <= {(str(t), "grid_edge") for t in (SUMMARY, RESCORED)}


@pytest.mark.parametrize(
    ("text", "low", "high", "unit"),
    [
        ("0.72", 0.715, 0.725, ""),
        ("**72.19%**", 72.185, 72.195, "%"),
        ("−0.4 pp", -0.45, -0.35, "pp"),
        ("1e-3", 0.0005, 0.0015, ""),
        ("0.7143 (historic)", 0.71425, 0.71435, ""),
        ("72", 71.5, 72.5, ""),
        ("72.0", 71.5, 72.5, ""),  # as Python prints round(71.6, 0)
    ],
)
def test_a_number_stands_for_what_rounds_to_it(text, low, high, unit):
    _, span, found = tables.parse(text)
    assert span == pytest.approx((low, high)) and found == unit


@pytest.mark.parametrize("text", ["~0.72", "≈72", "kd", "0.72 / 0.71", "", "6E", "λ=0.7"])
def test_what_is_no_number_is_none(text):
    assert tables.parse(text) is None


def shown(value, digits):
    return f"{value:.{digits}f}"


def honest(seed, digits, scale, families, seeds):
    """Runs with per-class F1, a mean row a family, and a difference of two scores, each rounded on its own."""
    generator = np.random.default_rng(seed)
    header = ["family", "seed", "macro_f1", *(f"f1_{name}" for name in CLASSES), "accuracy", "nll"]
    rows = []
    for family in range(families):
        values = []
        for number in range(seeds):
            f1 = generator.uniform(0.1, 0.95, len(CLASSES)) * scale
            values.append([f1.mean(), *f1, generator.uniform(0.1, 0.95) * scale, generator.uniform(0.1, 3)])
            rows.append([f"F{family}", str(number), *(shown(value, digits) for value in values[-1])])
        rows.append([f"F{family} (mean)", "", *(shown(value, digits) for value in np.mean(values, axis=0))])
    return header, rows


TABLE = {
    "seed": st.integers(0, 2**32 - 1),
    "digits": st.integers(1, 9),
    "scale": st.sampled_from([1, 100]),
    "families": st.integers(1, 3),
    "seeds": st.integers(2, 5),
    "suffix": st.sampled_from([".csv", ".md"]),
}
FEW = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FEW
@given(**TABLE, at=st.integers(0, 10**6), macro=st.booleans(), up=st.booleans())
def test_no_honest_table_is_accused_and_one_wrong_cell_is_found(
    tmp_path, seed, digits, scale, families, seeds, suffix, at, macro, up
):
    header, rows = honest(seed, digits, scale, families, seeds)
    path = write(tmp_path / f"t{suffix}", header, rows)
    assert audit([path]).findings == []
    # One unit is the most that honest rounding does to a mean; three are beyond it.
    row = at % len(rows) if macro else (at % families) * (seeds + 1) + seeds
    column = 2 if macro else 2 + at % (len(header) - 2)
    value = float(rows[row][column]) + (3 if up else -3) * 10.0**-digits
    if digits + (scale == 100) < 3 or value < 0 or (column != len(header) - 1 and value > scale):
        return  # out of range, or so coarse that the wrong value may read as another unit
    rows[row][column] = shown(value, digits)
    line = row + (2 if suffix == ".csv" else 3)
    found = audit([write(path, header, rows)]).findings
    assert (line, header[column]) in [(f.row, f.column) for f in found]
    assert {f.kind for f in found} <= {"macro_f1", "mean"}


@FEW
@given(
    seed=st.integers(0, 2**32 - 1),
    digits=st.integers(1, 9),
    n=st.integers(3, 8),
    points=st.booleans(),
    turn=st.booleans(),
)
def test_differences_recompute_whichever_way_round(tmp_path, seed, digits, n, points, turn):
    generator = np.random.default_rng(seed)
    names = CLASSES[: max(3, n - 1)]
    a, b = generator.uniform(0.3, 0.9, (2, len(names)))
    delta = (b - a) * (100 if points else 1)
    header = ["Class", "A F1", "B F1", "Δ"] if turn else ["Run", "A F1", "B F1", "Δ"]
    labels = names if turn else [f"r{i}" for i in range(len(names))]
    rows = [[labels[i], shown(a[i], digits), shown(b[i], digits), shown(delta[i], digits)] for i in range(len(names))]
    path = write(tmp_path / "t.md", header, rows)
    assert audit([path]).findings == []
    if digits < 3:
        return
    rows[1][3] = shown(delta[1] + 0.5, digits)
    assert [(f.row, f.column, f.kind) for f in audit([write(path, header, rows)]).findings] == [(4, "Δ", "difference")]


def test_means_and_ranges_in_columns(tmp_path):
    header = ["Mode", "Seed 1 Macro F1", "Seed 2 Macro F1", "Mean", "Range"]
    right = ["kd", "70.76%", "70.19%", "70.47%", "70.19 – 70.76"]
    assert kinds(write(tmp_path / "t.md", header, [right])) == []
    assert kinds(write(tmp_path / "t.md", header, [[*right[:3], "70.49%", right[4]]])) == [(3, "Mean", "mean")]
    assert kinds(write(tmp_path / "t.md", header, [[*right[:4], "70.19 – 70.86"]])) == [(3, "Range", "range")]
    listed = [["kd", "71.88 / 71.61", "71.95"]]
    assert kinds(write(tmp_path / "t.md", ["Mode", "Per seed", "Mean"], listed)) == [(3, "Mean", "mean")]
    outside = [["kd", "0.70–0.71", "0.73"]]
    assert kinds(write(tmp_path / "t.md", ["Mode", "Range", "Mean"], outside)) == [(3, "Mean", "mean")]


def test_values_out_of_range_and_mixed_units(tmp_path):
    header = ["run", "macro_f1", "brier", "nll", "t_star"]
    good = ["a", "0.7", "0.4", "0.9", "1.07"]
    for at, value in [(1, "-0.1"), (1, "1.02"), (2, "2.3"), (3, "-0.5"), (4, "0")]:
        rows = [good, ["b", "0.71", "0.41", "0.95", "1.06"]]
        rows[1][at] = value
        assert kinds(write(tmp_path / "t.csv", header, rows)) == [(3, header[at], "out_of_range")]
    percent = [good, ["b", "71.1", "0.41", "0.95", "1.06"], ["c", "0.72", "0.42", "0.96", "1.08"]]
    assert kinds(write(tmp_path / "t.csv", header, percent)) == [(3, "macro_f1", "mixed_units")]
    for odd in ("71.1%", "0.711"):
        rows = [["a", "0.7"], ["b", "0.72"]] if "%" in odd else [["a", "70.1%"], ["b", "72.4%"]]
        assert kinds(write(tmp_path / "t.csv", ["run", "macro F1"], [*rows, ["c", odd]])) == [
            (4, "macro F1", "mixed_units")
        ]
    assert kinds(write(tmp_path / "t.md", ["run", "Macro F1 (%)", "Acc"], [["a", "71.1", "0.73"]])) == []


def test_the_ends_of_an_interval_are_in_range_too(tmp_path):
    rows = [["a", "0.9950 [0.9766, 1.0134]"], ["b", "0.97 [0.96, 0.98]"]]
    header = ["recipe", "macro F1 [95 %]"]
    (found,) = audit([write(tmp_path / "t.md", header, rows)]).findings
    assert (found.kind, found.found) == ("out_of_range", rows[0][1]) and "from 0 to 1" in found.expected
    low = [["a", "0.02 (-0.01 to 0.05)"], ["b", "0.97 (0.90 to 1.00)"]]
    assert kinds(write(tmp_path / "t.csv", ["recipe", "ECE"], low)) == [(2, "ECE", "out_of_range")]
    percent = write(
        tmp_path / "p.md", ["recipe", "accuracy (%)"], [["a", "99.5 [97.66, 101.34]"], ["b", "97.0 [96.0, 98.0]"]]
    )
    assert kinds(percent) == [(3, "accuracy (%)", "out_of_range")]


def test_the_edge_of_a_grid_is_no_finding_where_t_star_is_not_the_grids(tmp_path):
    header = ["run", "t_star", "t_star_grid", "grid_at_edge"]
    for t_star, expected in (("1.31", []), ("1.2", [(2, "t_star_grid", "grid_edge")])):
        table = write(tmp_path / "t.csv", header, [["a", t_star, "1.2", "true"], ["b", "1.04", "1.0", "false"]])
        found = [(f.row, f.column, f.kind) for f in audit([table], grid=[0.8, 1.0, 1.2]).findings]
        assert found == expected


def test_runs_that_should_differ(tmp_path):
    header = ["family", "mode", "seed", "macro_f1", "accuracy"]
    one, other = ["0.7187765123", "0.7423000001"], ["0.7226347456", "0.7445000002"]
    rows = [["6A", "kd", "1", *one], ["6A", "kd", "2", *one], ["6E", "kd", "1", *other]]
    assert kinds(write(tmp_path / "t.csv", header, rows)) == [(3, "macro_f1", "identical_runs")]
    # 6C and 6E minimise one loss in kd, so that runs of one seed may agree to the last digit; two seeds may not.
    assert kinds(write(tmp_path / "t.csv", header, [["6C", "kd", "1", *one], ["6E", "kd", "1", *one]])) == []
    assert len(kinds(write(tmp_path / "t.csv", header, [["6C", "kd", "1", *one], ["6E", "kd", "2", *one]]))) == 1
    full = ["family", "mode", "lambda", "fusion", "seed", "macro_f1"]
    pair = [["6B", "kd", "", "probability", "1", one[0]], ["6D", "kd", "0.7", "", "1", one[0]]]
    assert kinds(write(tmp_path / "t.csv", full, pair)) == []
    pair[1][2] = "0.5"
    assert len(kinds(write(tmp_path / "t.csv", full, pair))) == 1
    # Two digits are no evidence.
    assert (
        kinds(write(tmp_path / "t.csv", header, [["6A", "kd", "1", "0.72", "0.74"], ["6A", "kd", "2", "0.72", "0.74"]]))
        == []
    )


def metrics(f1, **other):
    by_class = dict(zip(CLASSES, f1, strict=True))
    return {"test": {"macro_f1": float(np.mean(f1)), "f1": by_class, "accuracy": 0.7512345678, **other}}


def test_a_directory_of_metrics(tmp_path):
    f1 = np.random.default_rng(0).uniform(0.5, 0.9, (3, len(CLASSES))).tolist()
    for name, values in zip("abc", f1, strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(metrics(values)))
    assert audit([tmp_path]).findings == []
    (tmp_path / "b.json").write_text(json.dumps(metrics(f1[0])))
    assert [(Path(f.file).name, f.kind) for f in audit([tmp_path]).findings] == [("b.json", "identical_runs")]
    (tmp_path / "b.json").write_text(json.dumps(metrics(f1[1], macro_f1=0.5, brier=2.4)))
    assert sorted((f.row, f.column, f.kind) for f in audit([tmp_path]).findings) == [
        ("test", "brier", "out_of_range"),
        ("test", "macro_f1", "macro_f1"),
    ]
    protocol = {"best_test_epoch": 10, "best_test_macro_f1": 0.8, "optimism_macro_f1": 0.01}
    whole = metrics(f1[1]) | {"report_protocol": protocol}
    (tmp_path / "b.json").write_text(json.dumps(whole))
    assert [(f.row, f.column, f.kind) for f in audit([tmp_path]).findings] == [
        ("report_protocol", "optimism_macro_f1", "difference")
    ]
    (tmp_path / "b.json").write_text(json.dumps({"best_test_macro_f1": 0.8, "best_epoch": 10, "grid_at_edge": True}))
    assert sorted(f.kind for f in audit([tmp_path]).findings) == ["grid_edge", "selected_on_test"]


def test_the_command_and_its_exit_codes(tmp_path):
    result = CliRunner().invoke(cli, ["audit", str(DATA / "section_5_2.md"), "--json"])
    findings = json.loads(result.output)["findings"]
    assert result.exit_code == 1 and set(findings[0]) == {"file", "row", "column", "kind", "found", "expected"}
    shown_to_people = CliRunner().invoke(cli, ["audit", str(DATA / "section_6.md")])
    assert shown_to_people.exit_code == 1 and "Four-Way KD F1" in shown_to_people.output
    odd = write(tmp_path / "odd.csv", ["run", "[/red] macro_f1"], [["a", "-0.5"]])
    assert "[/red] macro_f1" in CliRunner().invoke(cli, ["audit", str(odd)]).output
    clean = CliRunner().invoke(cli, ["audit", str(DATA / "section_5.md"), "--json"])
    assert clean.exit_code == 0
    assert json.loads(clean.output) == {"findings": [], "checked": {str(DATA / "section_5.md"): {"mean": 11}}}
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "ragged.csv").write_text("a,b\n1\n")
    (tmp_path / "latin.csv").write_bytes(b"a,b\n\xff,1\n")
    (tmp_path / "prose.md").write_text("no table\n")
    (tmp_path / "empty").mkdir()
    write(tmp_path / "unknown.csv", ["run", "score"], [["a", "0.7"], ["b", "0.71"]])  # no check applies: not a pass
    for name in ("broken.json", "ragged.csv", "latin.csv", "prose.md", "empty", "absent.csv", "x.xlsx", "unknown.csv"):
        error = CliRunner().invoke(cli, ["audit", str(tmp_path / name)]).exception
        assert isinstance(error, UsageError) and error.exit_code == 2 and name in error.where
    with pytest.raises(UsageError, match="no grid"):
        CliRunner().invoke(cli, ["audit", str(DATA / "section_5.md"), "--grid", "a,b"], catch_exceptions=False)
