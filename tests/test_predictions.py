import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.special import softmax
from typer.testing import CliRunner

from ferdistill.cli import cli
from ferdistill.errors import CheckError, FerdistillError, UsageError
from ferdistill.evaluation.metrics import score
from ferdistill.evaluation.predictions import read
from support.scores import calibrated

CLASSES = ["angry", "fear", "happy"]


def table(n: int = 60, kind: str = "logit_") -> pd.DataFrame:
    logits, labels = calibrated(n, classes=3)
    values = softmax(logits, axis=1) if kind == "prob_" else logits
    return pd.DataFrame(values, columns=[f"{kind}{name}" for name in CLASSES]).assign(
        label=np.array(CLASSES)[labels], subject=[f"s{i % 10}" for i in range(n)]
    )


def write(frame: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **{name: np.array(frame[name].tolist()) for name in frame})
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path)
    return path


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(cli, ["score", *map(str, arguments)])


@pytest.mark.parametrize("kind", ["logit_", "prob_"])
@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_every_form_gives_the_same_scores(tmp_path: Path, kind: str, suffix: str) -> None:
    logits, labels = calibrated(60, classes=3)
    file = write(table(kind=kind).astype({"label": str, "subject": str}), tmp_path / f"p{suffix}")
    if kind == "logit_":
        assert (read(file).logits == logits).all(), "to the last bit, from a CSV too"
    done = run(file, "--json", "--no-intervals", "--temperature", "1.5", "--bins", "10")
    found = json.loads(done.stdout)
    expected = score(logits, labels, CLASSES, 1.5, 10)
    for name, value in expected.items():
        if name != "per_class":
            assert found[name] == pytest.approx(value, abs=1e-9), name
    assert found["per_class"] == expected["per_class"]
    assert (found["people"], found["classes"]) == (10, CLASSES)
    assert sum(row["count"] for row in found["reliability"]) == 60
    assert "intervals" not in found


def test_an_npz_of_arrays_and_labels_as_places(tmp_path: Path) -> None:
    logits, labels = calibrated(60, classes=3)
    np.savez(tmp_path / "a.npz", logits=logits, label=labels)
    np.savez(tmp_path / "b.npz", probs=softmax(logits, axis=1).astype(np.float16), label=labels, classes=CLASSES)
    a, b = read(tmp_path / "a.npz"), read(tmp_path / "b.npz")
    assert (a.classes, b.classes) == (["0", "1", "2"], CLASSES)
    assert (a.labels == labels).all() and (b.labels == labels).all()
    assert np.abs(softmax(a.logits, axis=1) - softmax(b.logits, axis=1)).max() < 1e-3
    assert len(set(a.clusters)) == 60


def test_numbers_that_are_names_are_names(tmp_path: Path) -> None:
    frame = pd.DataFrame({"label": [2, 1, 2], "logit_2": [1.0, 0, 0], "logit_1": [0, 1, 0]})
    assert read(write(frame, tmp_path / "p.csv")).labels.tolist() == [0, 1, 0]


def test_splits_are_chosen_never_mixed_unseen(tmp_path: Path) -> None:
    frame = table().assign(split=["val"] * 20 + ["test"] * 40)
    file = write(frame, tmp_path / "p.parquet")
    assert len(read(file, "test").labels) == 40
    assert len(read(file, "all").labels) == 60
    for split in (None, "calib"):
        with pytest.raises(UsageError, match="split"):
            read(file, split)
    frame.loc[30, "logit_fear"] = np.nan
    with pytest.raises(CheckError, match="data row 30, column logit_fear"):  # a row of the file, not of the split
        read(write(frame, tmp_path / "q.parquet"), "test")


def test_a_probability_of_zero_for_the_label_makes_the_nll_infinite_and_nothing_else(tmp_path: Path) -> None:
    frame = table(kind="prob_")
    frame.loc[4, ["prob_angry", "prob_fear", "prob_happy"]] = [0.0, 1.0, 0.0]
    frame.loc[4, "label"] = "happy"
    file = write(frame, tmp_path / "p.csv")
    found = json.loads(run(file, "--json", "--draws", 100).stdout)
    assert (found["nll"], found["intervals"]["nll"], found["impossible"]) == (None, None, 1)
    assert 0 < found["brier"] < 2 and found["intervals"]["brier"]["low"] < found["brier"]
    assert "infinite" in run(file, "--no-intervals").stdout


BAD = {
    "NaN": (
        lambda f: f.assign(logit_fear=[np.nan, *f["logit_fear"][1:]]),
        "no finite",
        "data row 0, column logit_fear",
    ),
    "text": (lambda f: f.astype({"logit_fear": object}).assign(logit_fear=["?"] * 60), "first is \\?", "logit_fear"),
    "infinite": (lambda f: f.assign(logit_fear=[*f["logit_fear"][1:], np.inf]), "no finite", "data row 59"),
    "no label": (lambda f: f.drop(columns="label"), "no column `label`", ""),
    "no values": (lambda f: f[["label"]], "neither logits nor", ""),
    "both": (lambda f: f.assign(prob_happy=0.5), "both logits and", ""),
    "one column": (lambda f: f[["label", "logit_happy"]], "one class alone: happy", ""),
    "one label": (lambda f: f.assign(label="happy"), "every label is happy", ""),
    "unknown": (lambda f: f.assign(label=[*f["label"][1:], "joy"]), "no class: joy", "data row 59, column label"),
    "out of range": (lambda f: f.assign(label=[3] + [0, 1] * 29 + [0]), "no class: 3", "data row 0"),
    "empty label": (lambda f: f.assign(label=[None, *f["label"][1:]]), "empty label", "data row 0"),
    "no rows": (lambda f: f[:0], "no rows", ""),
}


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("name", BAD)
def test_bad_tables_are_refused_by_row_and_column(tmp_path: Path, name: str, suffix: str) -> None:
    change, what, where = BAD[name]
    file = write(change(table()), tmp_path / f"p{suffix}")
    with pytest.raises(CheckError, match=what) as caught:
        read(file)
    assert where in caught.value.where and str(file) in caught.value.where


@pytest.mark.parametrize(
    ("row", "what"), [([0.5, 0.5, 0.1], "sums to 1.1"), ([-0.1, 0.6, 0.5], "negative probability: -0.1")]
)
def test_what_are_no_probabilities_is_refused(tmp_path: Path, row: list[float], what: str) -> None:
    frame = table(kind="prob_")
    frame.loc[7, ["prob_angry", "prob_fear", "prob_happy"]] = row
    with pytest.raises(CheckError, match=what) as caught:
        read(write(frame, tmp_path / "p.csv"))
    assert "data row 7" in caught.value.where


def test_bad_files_are_refused(tmp_path: Path) -> None:
    wrong: dict[str, tuple[bytes, type[FerdistillError]]] = {
        "missing.csv": (b"", UsageError),
        "kind.txt": (b"label,logit_a\n", UsageError),
        "cut.parquet": (b"PAR1", CheckError),
        "cut.npz": (b"PK", CheckError),
        "empty.csv": (b"", CheckError),
        "twice.csv": (b"label,logit_a,logit_a\na,1,2\n", CheckError),
        "long.csv": (b"label,logit_a,logit_b\na,1,2,3\nb,1,2,3\n", CheckError),
        "latin.csv": (b"label,logit_a,logit_b\n\xff,1,2\n", CheckError),
        "utf16.csv": ("label,logit_a,logit_b\na,1,2\n".encode("utf-16"), CheckError),
    }
    for name, (content, error) in wrong.items():
        if name != "missing.csv":
            (tmp_path / name).write_bytes(content)
        with pytest.raises(error) as caught:
            read(tmp_path / name)
        assert name in caught.value.where
    with pytest.raises(UsageError, match="a directory"):
        read(tmp_path)
    # pandas would fill the last row's subject, and its person would be the row alone.
    (tmp_path / "short.csv").write_text("label,logit_a,logit_b,subject\n\na,1,2,s\nb,1,2\n")
    with pytest.raises(CheckError, match="3 cells in data row 1, not 4"):
        read(tmp_path / "short.csv")
    np.savez(tmp_path / "pickled.npz", label=np.array(["a", None], dtype=object), logits=np.zeros((2, 2)))
    np.savez(tmp_path / "lengths.npz", label=np.zeros(3, int), logits=np.zeros((2, 2)))
    for name in ("pickled", "lengths"):
        with pytest.raises(CheckError):
            read(tmp_path / f"{name}.npz")


def test_the_picture_is_a_png_with_the_same_bytes_again(tmp_path: Path) -> None:
    file = write(table(), tmp_path / "p.csv")
    for name in ("a.png", "b.png"):
        assert run(file, "--no-intervals", "--out", tmp_path / name).exit_code == 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert Image.open(tmp_path / "a.png").size == (720, 840)
    with pytest.raises(UsageError, match="PNG"):
        CliRunner().invoke(cli, ["score", str(file), "--out", "a.svg"], catch_exceptions=False)
