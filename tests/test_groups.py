"""For whom a student errs: attributes of sources and tables through the index, and gaps that are there or not."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import f1_score

from conftest import CLASSES, face
from ferdistill import params
from ferdistill.data import index, truth
from ferdistill.data.build import build
from ferdistill.data.reader import read_rows
from ferdistill.errors import CheckError
from ferdistill.evaluation import groups, guarantees
from ferdistill.evaluation.groups import counts_of, group_names, macro_f1_of, measure, permuted_gaps
from ferdistill.evaluation.metrics import Predictions
from support.people import People

PARAMS = params.load(Path(__file__).parents[1] / "params.yaml")
SETTINGS = PARAMS.calibrate.model_copy(update={"draws": 100})
LIMITS = PARAMS.groups.model_copy(update={"permutations": 200})


def predictions(seed: int, gap: float, people: int = 80) -> tuple[Predictions, pd.DataFrame]:
    """Of persons of two sexes; that many points of accuracy less for one, whose right answers are made wrong."""
    rng = np.random.default_rng(seed)
    p, labels, whose = People(spread=0.2).draw(rng, people, votes=False)
    sex = np.where(whose.astype(int) % 2 == 0, "female", "male")
    wronged = (sex == "male") & (rng.random(len(p)) < gap / (p.argmax(axis=1) == labels).mean())
    logits = np.log(np.where(wronged[:, None], np.roll(p, 1, axis=1), p))
    test = Predictions(logits, labels, np.arange(len(p)).astype(str), whose)
    return test, pd.DataFrame({"sex": sex})


def measured(test: Predictions, told: pd.DataFrame) -> dict[str, Any]:
    probabilities = np.exp(test.logits)
    wanted = guarantees.Wanted(SETTINGS.sets, SETTINGS.abstention, SETTINGS.alerts)
    names = People().names
    acting, _ = guarantees.fit(probabilities, test.labels, test.clusters, names, wanted)
    return measure(test, told, 1.0, acting, SETTINGS, LIMITS)


def test_scores_of_a_group_are_those_of_its_images() -> None:
    test, told = predictions(0, 0.0)
    one = measured(test, told)["sex"]["groups"]["male"]
    rows = (told["sex"] == "male").to_numpy()
    predicted = test.logits.argmax(axis=1)
    assert one["images"] == rows.sum() and one["people"] == 40
    assert one["macro_f1"] == pytest.approx(f1_score(test.labels[rows], predicted[rows], average="macro"))
    assert one["accuracy"] == pytest.approx((predicted == test.labels)[rows].mean())
    assert one["low"] < one["macro_f1"] < one["high"]
    assert 0.8 < one["covered"] <= 1 <= one["set_size"]


def test_a_planted_gap_is_found_and_an_absent_one_is_not() -> None:
    p = {gap: [measured(*predictions(seed, gap))["sex"]["gap_p"] for seed in range(8)] for gap in (0.0, 0.2)}
    assert all(value < 0.05 for value in p[0.2])
    assert sum(value < 0.05 for value in p[0.0]) <= 2


def test_p_of_no_gap_is_even() -> None:
    found = []
    for seed in range(60):
        test, _ = predictions(seed, 0.0, people=30)
        person = np.unique(test.clusters, return_inverse=True)[1]
        counts = counts_of(test.labels, test.logits.argmax(axis=1), person, 5)
        group = (np.arange(len(counts)) % 2).astype(int)
        gap = groups.largest_gap(macro_f1_of(np.array([counts[group == k].sum(axis=0) for k in (0, 1)])))
        chance = permuted_gaps(counts, group, None, 99, seed)
        found.append((1 + (chance >= gap - 1e-12).sum()) / 100)
    assert 0.35 < np.mean(found) < 0.65 and np.mean(np.array(found) <= 0.1) < 0.25


def test_what_differs_within_a_person_is_permuted_within() -> None:
    group = np.tile([0, 0, 1], 20)
    unit = np.repeat(np.arange(20), 3)
    counts = np.zeros((60, 3, 2))
    counts[:, 1:, 0] = 1
    counts[:, 0, 0] = group == 0  # right in the one, wrong in the other
    counts[:, 2, 1], counts[:, 2, 0] = group == 1, group == 0
    assert (permuted_gaps(counts, group, unit, 100, 0) < 0.9).all()
    alike = np.where(unit % 2 == 0, 0, 1)  # nothing to permute within
    same = permuted_gaps(counts, alike, unit, 5, 0)
    assert same == pytest.approx(same[0])


def test_groups_that_are_too_small_are_named_and_not_scored() -> None:
    test, told = predictions(1, 0.0)
    told["few"] = np.where(np.arange(len(told)) < 9, "rare", "")
    told["one"] = np.where(test.clusters == "3", "alone", "others")
    found = measured(test, told)
    assert found["few"]["groups"] == {"rare": {"images": 9, "people": 1, "too_few": True}}
    assert (
        found["few"]["unknown"] == len(told) - 9 and found["few"]["gap"] is None and found["few"]["gap_p_holm"] is None
    )
    assert found["one"]["groups"]["alone"]["too_few"] and found["one"]["gap_p"] is None
    assert found["sex"]["gap_p_holm"] == found["sex"]["gap_p"]


def test_many_numbers_are_cut_into_three_groups() -> None:
    ages = pd.Series([str(age) for age in range(20, 80)] + [""])
    found = group_names(ages)
    assert sorted(set(found)) == ["", "20 to 39", "40 to 59", "60 to 79"]
    assert group_names(pd.Series(["1", "2", "2"])).tolist() == ["1", "2", "2"]
    assert group_names(pd.Series([None, "x", "7"])).tolist() == ["", "x", "7"]


def described(corpus: Path, rows: list[str]) -> None:
    file = corpus / "corpus.yaml"
    file.write_text(file.read_text() + "attributes: attributes.csv\n")
    (corpus / "attributes.csv").write_text("\n".join(["path,attribute,value", *rows]) + "\n")


def test_a_table_of_attributes_goes_into_the_index(corpus: Path) -> None:
    before = build(corpus, CLASSES, PARAMS.index).rows
    described(
        corpus, ["fer2013/fer2013.csv#0,sex,female", "fer2013/fer2013.csv#1,sex,male", "fer2013/fer2013.csv#1,age,"]
    )
    rows = build(corpus, CLASSES, PARAMS.index).rows
    assert list(rows.columns) == [*before.columns, "attribute_sex"]
    pd.testing.assert_frame_equal(rows[before.columns], before)
    said = rows.set_index("path")["attribute_sex"]
    assert said[said != ""].to_dict() == {"fer2013/fer2013.csv#0": "female", "fer2013/fer2013.csv#1": "male"}
    told = index.Index(rows.fillna(""), {}).attributes()
    joined = groups.joined(told, ["fer2013/fer2013.csv#1", "fer2013/fer2013.csv#2"], rows["path"])
    assert joined["sex"].tolist() == ["male", ""]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["fer2013/fer2013.csv#0,sex,f", "fer2013/fer2013.csv#0,sex,m"], "contradict each other"),
        (["nowhere.png,sex,f"], "not in the corpus: 1, first nowhere.png"),
        (["fer2013/fer2013.csv#0,a b,f"], "no attribute: 'a b'"),
        (["fer2013/fer2013.csv#0,sex"], "a row of 2 fields"),
    ],
)
def test_a_table_of_attributes_that_is_wrong_stops_the_index(corpus: Path, rows: list[str], message: str) -> None:
    described(corpus, rows)
    with pytest.raises(CheckError, match=message):
        build(corpus, CLASSES, PARAMS.index)


def test_kdef_and_rafdb_say_who_is_shown(tmp_path: Path) -> None:
    (tmp_path / "kdef" / "AF01").mkdir(parents=True)
    Image.fromarray(face(1)).save(tmp_path / "kdef" / "AF01" / "AF01ANS.JPG")
    base = tmp_path / "rafdb"
    for folder in ("EmoLabel", "Image/aligned", "Annotation/manual"):
        (base / folder).mkdir(parents=True)
    (base / "EmoLabel" / "list_patition_label.txt").write_text("train_00001.jpg 4\ntrain_00002.jpg 4\n")
    landmarks = "\n".join(["1.0\t2.0"] * 5)
    (base / "Annotation/manual/train_00001_manu_attri.txt").write_text(f"{landmarks}\n1\n2\n3\n")
    (base / "Annotation/manual/train_00002_manu_attri.txt").write_text(f"{landmarks}\n2\n0\n9\n")
    (tmp_path / "corpus.yaml").write_text(
        "sources:\n  - {name: kdef, adapter: kdef, path: kdef}\n  - {name: rafdb, adapter: rafdb, path: rafdb}\n"
    )
    kdef, raf, wrong = (row for _, row in read_rows(tmp_path, CLASSES))
    assert kdef.attributes == {"sex": "female"}  # type: ignore[union-attr]
    assert raf.attributes == {"gender": "female", "race": "Asian", "age": "40-69"}  # type: ignore[union-attr]
    assert isinstance(wrong, CheckError) and "train_00002_manu_attri.txt" in wrong.where


def test_attributes_of_the_truth(tmp_path: Path) -> None:
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "samples.csv").write_text("path,sex,age\na,female,31\nb,male,7\n")
    assert truth.attributes(tmp_path, ["b", "a"], ["sex", "age"]).to_dict("list") == {
        "sex": ["male", "female"],
        "age": ["7", "31"],
    }
    for paths, names in ((["c"], ["sex"]), (["a"], ["tone"])):
        with pytest.raises(CheckError, match=r"groups\.truth"):
            truth.attributes(tmp_path, paths, names)
    assert truth.attributes(tmp_path / "real", ["a", "b"], ["sex"]).shape == (2, 0)
