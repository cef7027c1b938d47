import csv
import json
from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from ferdistill.errors import UsageError
from ferdistill.faces import rendered as synthetic
from ferdistill.faces.head import ACTION_UNITS, CLASSES, draw_expression, perceived
from ferdistill.faces.rendered import vote, write_corpus

# Written out from the corpora's own documentation, not taken from the module under test.
FER = {"0": "angry", "1": "disgust", "2": "fear", "3": "happy", "4": "sad", "5": "surprise", "6": "neutral"}
RAF = {"1": "surprise", "2": "fear", "3": "disgust", "4": "happy", "5": "sad", "6": "angry", "7": "neutral"}
ARGUMENTS: dict[str, Any] = {"seed": 11, "subjects": 30, "images": 120, "annotators": 5, "sharpness": 1.6}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("synthetic") / "corpus"
    write_corpus(root, **ARGUMENTS)
    return root


@cache
def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def fer_row(root: Path, path: str) -> dict[str, str]:
    return rows(root / "fer2013" / "fer2013.csv")[int(path.split("#")[1])]


def grey(root: Path, path: str) -> np.ndarray:
    if "#" in path:
        return np.array(fer_row(root, path)["pixels"].split(), dtype=np.uint8).reshape(48, 48)
    image = Image.open(root / path).convert("L")
    return np.asarray(image if image.width == 48 else image.resize((48, 48), Image.Resampling.BICUBIC))


def truth(root: Path) -> dict[str, dict[str, str]]:
    return {row["path"]: row for row in rows(root / "truth" / "samples.csv")}


def planted(root: Path) -> dict[str, list[list[str]]]:
    return json.loads((root / "truth" / "planted.json").read_text(encoding="utf-8"))


def official_part(root: Path, path: str) -> str:
    if "#" in path:
        return {"Training": "train", "PublicTest": "public", "PrivateTest": "private"}[fer_row(root, path)["Usage"]]
    return "test" if "/test" in path else "train"


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_two_runs_give_the_same_bytes_and_another_seed_others(corpus: Path, tmp_path: Path) -> None:
    write_corpus(tmp_path / "again", **ARGUMENTS)
    assert files(tmp_path / "again") == files(corpus)
    write_corpus(tmp_path / "other", **{**ARGUMENTS, "seed": 12, "subjects": 20, "images": 100})
    assert (tmp_path / "other" / "subjects.csv").read_bytes() != (corpus / "subjects.csv").read_bytes()


def test_fer_codes_mean_the_true_labels(corpus: Path) -> None:
    known = truth(corpus)
    table = rows(corpus / "fer2013" / "fer2013.csv")
    assert list(table[0]) == ["emotion", "pixels", "Usage"]
    assert {row["Usage"] for row in table} == {"Training", "PublicTest", "PrivateTest"}
    for number, row in enumerate(table):
        assert FER[row["emotion"]] == known[f"fer2013/fer2013.csv#{number}"]["label"]
        assert len(row["pixels"].split()) == 48 * 48


def test_raf_codes_mean_the_true_labels(corpus: Path) -> None:
    known = truth(corpus)
    lines = (corpus / "rafdb/EmoLabel/list_patition_label.txt").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(list((corpus / "rafdb/Image/aligned").iterdir()))
    for line in lines:
        name, code = line.split()
        path = f"rafdb/Image/aligned/{name.removesuffix('.jpg')}_aligned.jpg"
        assert RAF[code] == known[path]["label"]
        image = Image.open(corpus / path)
        assert (image.size, image.mode, image.format) == ((100, 100), "RGB", "JPEG")


def test_folders_are_named_after_the_true_labels(corpus: Path) -> None:
    known = truth(corpus)
    found = sorted(path.relative_to(corpus).as_posix() for path in (corpus / "folders").rglob("*.png"))
    assert found == sorted(path for path in known if path.startswith("folders/"))
    for path in found:
        _, part, emotion, name = path.split("/")
        assert part in ("train", "test")
        assert emotion == known[path]["label"]
        assert name.split("_")[0] == known[path]["subject"]
        assert Image.open(corpus / path).size == (48, 48)


def test_sources_and_parts_have_the_shares_asked_for(corpus: Path) -> None:
    known = truth(corpus)
    assert len(known) == ARGUMENTS["images"]
    share = {name: sum(row["source"] == name for row in known.values()) / len(known) for name in ("fer2013", "rafdb")}
    assert share == pytest.approx({"fer2013": 0.55, "rafdb": 0.25}, abs=0.02)
    parts = [row["Usage"] for row in rows(corpus / "fer2013" / "fer2013.csv")]
    assert parts.count("PublicTest") / len(parts) == pytest.approx(0.08, abs=0.02)
    assert parts.count("PrivateTest") / len(parts) == pytest.approx(0.17, abs=0.02)


def test_corpus_yaml_names_sources_that_are_there(corpus: Path) -> None:
    listed = yaml.safe_load((corpus / "corpus.yaml").read_text(encoding="utf-8"))
    assert {source["licence"] for source in listed["sources"]} == {"Apache-2.0"}
    assert "Apache-2.0" in (corpus / "LICENSE.txt").read_text(encoding="utf-8")
    assert [source["name"] for source in listed["sources"]] == ["fer2013", "rafdb", "folders"]
    assert all((corpus / source["path"]).exists() for source in listed["sources"])
    subjects = {row["path"]: row["subject"] for row in rows(corpus / listed["subjects"])}
    assert subjects == {path: row["subject"] for path, row in truth(corpus).items()}


def test_truth_gives_q_exactly_and_labels_by_plurality(corpus: Path) -> None:
    second_of_conflict = {pair[1] for pair in planted(corpus)["conflicts"]}
    for path, row in truth(corpus).items():
        units = np.array([float(row[f"au{unit:02d}"]) for unit in ACTION_UNITS])
        q = np.array([float(row[f"q_{emotion}"]) for emotion in CLASSES])
        assert (perceived(units[None], ARGUMENTS["sharpness"])[0] == q).all()
        votes = {emotion: int(row[f"votes_{emotion}"]) for emotion in CLASSES}
        assert sum(votes.values()) == ARGUMENTS["annotators"]
        if path not in second_of_conflict:
            assert votes[row["label"]] == max(votes.values())


@pytest.mark.parametrize("kind", ["exact", "exact_across_parts", "reencoded", "mirrored", "conflicts"])
def test_planted_duplicates_are_what_they_claim(corpus: Path, kind: str) -> None:
    known = truth(corpus)
    pairs = planted(corpus)[kind]
    assert pairs
    for original, copy in pairs:
        first, second = grey(corpus, original), grey(corpus, copy)
        assert known[original]["subject"] == known[copy]["subject"]
        assert (known[original]["label"] != known[copy]["label"]) == (kind == "conflicts")
        across = (official_part(corpus, original) == "train") != (official_part(corpus, copy) == "train")
        if kind == "reencoded":
            assert copy.startswith("rafdb/")
            assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.95
        elif kind == "mirrored":
            assert np.array_equal(first, second[:, ::-1])
            assert not np.array_equal(first, second)
        else:
            assert np.array_equal(first, second)
        if kind != "exact":
            assert across == (kind == "exact_across_parts")


def test_no_duplicates_but_the_planted_ones(corpus: Path) -> None:
    found: dict[bytes, set[str]] = defaultdict(set)
    for path in truth(corpus):
        if not path.startswith("rafdb/"):
            found[grey(corpus, path).tobytes()].add(path)
    listed = planted(corpus)
    groups = {frozenset(pair) for pair in listed["exact"] + listed["conflicts"]}
    assert {frozenset(group) for group in found.values() if len(group) > 1} == groups


def test_subjects_keep_to_one_part_except_where_planted(corpus: Path) -> None:
    parts: dict[str, set[str]] = defaultdict(set)
    sources: dict[str, set[str]] = defaultdict(set)
    known = truth(corpus)
    listed = planted(corpus)
    copies = {pair[1] for kind, pairs in listed.items() if kind != "subjects_in_two_sources" for pair in pairs}
    for path, row in known.items():
        parts[row["subject"]].add(official_part(corpus, path).replace("public", "test").replace("private", "test"))
        if path not in copies:
            sources[row["subject"]].add(row["source"])
    shared = {subject for subject, _, _ in listed["subjects_in_two_sources"]}
    straddling = {known[original]["subject"] for original, _ in listed["exact_across_parts"]}
    assert len(shared) >= 2
    assert len(straddling) == 1
    assert {subject for subject, where in parts.items() if len(where) > 1} == shared | straddling
    assert {subject for subject, where in sources.items() if len(where) > 1} == shared
    for subject in shared:
        assert sources[subject] == {"rafdb", "folders"}
    fer: dict[str, set[str]] = {part: set() for part in ("train", "public", "private")}
    for path, row in known.items():
        if "#" in path:
            fer[official_part(corpus, path)].add(row["subject"])
    assert not fer["public"] & fer["private"]


@pytest.mark.parametrize(("images", "subjects"), [(100, 25), (117, 20)])
def test_tiny_corpora_have_every_part_and_every_trap(tmp_path: Path, images: int, subjects: int) -> None:
    counts = write_corpus(tmp_path / "corpus", seed=0, subjects=subjects, images=images, annotators=3, sharpness=2.0)
    assert counts["images"] == images
    listed = planted(tmp_path / "corpus")
    assert all(listed[kind] for kind in ("exact", "exact_across_parts", "reencoded", "mirrored", "conflicts"))
    known = truth(tmp_path / "corpus")
    assert len({row["subject"] for row in known.values()}) == subjects
    shown = {
        (row["subject"], path.split("/")[0], official_part(tmp_path / "corpus", path)) for path, row in known.items()
    }
    for subject, *_ in listed["subjects_in_two_sources"]:
        assert {(subject, "rafdb", "train"), (subject, "folders", "test")} <= shown


def test_ties_are_settled_among_the_tied() -> None:
    q = np.array([0.45, 0.0, 0.0, 0.45, 0.1, 0.0, 0.0])
    rng = np.random.Generator(np.random.PCG64(0))
    settled = [label for votes, label in (vote(q, 2, rng) for _ in range(300)) if votes[0] == votes[3] == 1]
    assert set(settled) == {"angry", "happy"}
    assert 0.35 < settled.count("happy") / len(settled) < 0.65


def test_expressions_follow_the_prior_and_stay_in_range() -> None:
    rng = np.random.Generator(np.random.PCG64(0))
    drawn = [draw_expression(rng) for _ in range(3000)]
    units = np.array([aus for _, aus in drawn])
    assert units.min() >= 0
    assert units.max() <= 1
    share = {emotion: np.mean([intended == emotion for intended, _ in drawn]) for emotion in CLASSES}
    assert share["happy"] == pytest.approx(0.25, abs=0.03)
    assert share["disgust"] == pytest.approx(0.055, abs=0.02)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"subjects": 19},
        {"images": 99, "subjects": 20},
        {"images": 119},
        {"annotators": 0},
        {"sharpness": 0.0},
        {"sharpness": float("nan")},
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        write_corpus(tmp_path / "corpus", **{**ARGUMENTS, **wrong})
    assert not list(tmp_path.iterdir())


def test_a_directory_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="overwrite"):
        write_corpus(tmp_path, **ARGUMENTS)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_corpus_that_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(synthetic, "_write_notes", fail)
    with pytest.raises(OSError, match="disk full"):
        write_corpus(tmp_path / "corpus", seed=0, subjects=20, images=100, annotators=3, sharpness=2.0)
    assert not list(tmp_path.iterdir())


def test_a_test_set_has_other_people_and_nothing_planted(tmp_path: Path) -> None:
    made = write_corpus(tmp_path / "fresh", **{**ARGUMENTS, "seed": 12}, plant=False)
    assert (
        made["images"] == 120
        and made["subjects_in_two_sources"] == 0
        and planted(tmp_path / "fresh") == {"subjects_in_two_sources": []}
    )
    pictures = [grey(tmp_path / "fresh", path).tobytes() for path in truth(tmp_path / "fresh")]
    assert len(set(pictures)) == len(pictures) == 120
    parts: dict[str, set[str]] = defaultdict(set)
    for path, row in truth(tmp_path / "fresh").items():
        parts[row["subject"]].add(official_part(tmp_path / "fresh", path))
    assert all(len(of) == 1 for of in parts.values())
