"""Adapters, deduplication, leaks and splits, on tiny trees in the public layouts."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import THREE, face, write_fer2013
from ferdistill.data import images, index, packing
from ferdistill.data.build import assign_splits, build, choose_seed, stratification, write_index
from ferdistill.data.reader import read_rows
from ferdistill.data.sources import Record
from ferdistill.errors import CheckError, UsageError
from ferdistill.params import ImageParams
from support.corpora import SETTINGS, make, settings_with


def test_every_layout_is_read_with_its_own_codes_and_split(corpus):
    found = {record.path: (record.label, record.split) for _, record in read_rows(corpus, THREE)}
    assert len(found) == 3 * 45 + 6 + 3
    assert found["fer2013/fer2013.csv#0"] == ("angry", "train")
    assert found["fer2013/fer2013.csv#30"] == ("angry", "val")
    assert found["fer2013/fer2013.csv#134"] == ("neutral", "test")
    assert found["rafdb/Image/aligned/train_00001_aligned.jpg"] == ("happy", "train")
    assert found["rafdb/Image/aligned/test_00003_aligned.jpg"] == ("angry", "test")
    assert found["folders/train/happiness/a b é.png"] == ("happy", "train")
    assert found["folders/test/neutral/a b é.png"] == ("neutral", "test")


def test_official_parts_are_kept_and_the_rest_is_shared_out(corpus, tmp_path):
    rows, _ = make(corpus)
    assert list(rows["path"]) == sorted(rows["path"])
    by_path = dict(zip(rows["path"], rows["split"], strict=True))
    assert {by_path[f"fer2013/fer2013.csv#{45 * k + i}"] for k in range(3) for i in range(35, 45)} == {"test"}
    assert {by_path[f"fer2013/fer2013.csv#{45 * k + i}"] for k in range(3) for i in range(30, 35)} == {"val"}
    assert {by_path[f"fer2013/fer2013.csv#{45 * k + i}"] for k in range(3) for i in range(30)} == {
        "train",
        "val",
        "calib",
    }
    description = write_index(tmp_path / "index" / "x.csv", rows, THREE, "mine")
    assert index.read(tmp_path / "index" / "x.csv").digest == description["digest"]
    assert sum(part["length"] for part in description["splits"].values()) == len(rows)


def test_a_new_image_moves_no_old_one(corpus):
    before, _ = make(corpus)
    Image.fromarray(face(77)).save(corpus / "folders" / "train" / "angry" / "0.png")
    after, _ = make(corpus)
    assert len(after) == len(before) + 1
    places = dict(zip(after["path"], after["split"], strict=True))
    assert all(places[path] == split for path, split in zip(before["path"], before["split"], strict=True))


def test_of_exact_copies_the_official_test_keeps_its_own_and_conflicts_go(corpus):
    def copy(row_seed, target):
        (corpus / "folders" / target).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face(row_seed)).save(corpus / "folders" / target)

    copy(40, "train/angry/of_a_test_row.png")  # fer row 40 is an angry PrivateTest row
    copy(1, "train/angry/of_a_train_row.png")
    copy(2, "train/neutral/in_conflict.png")
    rows, report = make(corpus)
    paths = set(rows["path"])
    assert "fer2013/fer2013.csv#40" in paths and "folders/train/angry/of_a_test_row.png" not in paths
    copy_of_a_train_row = {
        "dropped": "folders/train/angry/of_a_train_row.png", "kept": "fer2013/fer2013.csv#1", "kind": "exact",
    }  # fmt: skip
    assert copy_of_a_train_row in report["duplicates"]
    assert len(report["duplicates"]) == 2
    labels = {"fer2013/fer2013.csv#2": "angry", "folders/train/neutral/in_conflict.png": "neutral"}
    assert [conflict["labels"] for conflict in report["conflicts"]] == [labels]
    assert not paths & set(labels)


def test_a_mirrored_image_is_a_copy_only_if_params_say_so(corpus):
    Image.fromarray(face(4)[:, ::-1]).save(corpus / "folders" / "train" / "angry" / "mirrored.png")
    Image.fromarray(face(5)).save(corpus / "folders" / "train" / "angry" / "near.jpg", quality=75)
    for mirrored in (True, False):
        rows, report = make(corpus, mirrored=mirrored)
        assert {copy["kind"] for copy in report["duplicates"]} == ({"mirrored", "near"} if mirrored else {"near"})
        assert ("folders/train/angry/mirrored.png" in set(rows["path"])) != mirrored


ODD = ["très heureux", "悲しい", 'a,b "c"', "7"]


def test_classes_of_any_name_come_back_from_the_index_with_their_votes(tmp_path):
    lines = ["path,label," + ",".join(f'"{name}"'.replace('a,b "c"', 'a,b ""c""') for name in ODD)]
    for number in range(120):
        Image.fromarray(face(number)).save(tmp_path / f"{number}.png")
        votes = [2 + (place == number % 4) for place in range(4)]
        lines.append(f'{number}.png,"{ODD[number % 4]}",'.replace('b "c"', 'b ""c""') + ",".join(map(str, votes)))
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = {"name": "t", "adapter": "table", "path": "t.csv", "options": {"votes": ODD}}
    (tmp_path / "corpus.yaml").write_text(yaml.safe_dump({"sources": [source]}, allow_unicode=True), encoding="utf-8")
    built = build(tmp_path, ODD, settings_with(), 1)
    write_index(tmp_path / "i.csv", built.rows, ODD, "odd")
    read = index.read(tmp_path / "i.csv")
    assert list(read.rows["label"]) == [ODD[int(path.removesuffix(".png")) % 4] for path in read.rows["path"]]
    votes = read.rows[[f"vote_{name}" for name in ODD]].to_numpy(float)
    assert (votes.argmax(1) == read.codes(ODD)).all() and np.allclose(votes.sum(1), 1)
    packing.pack(read, tmp_path, tmp_path / "i", ODD, ImageParams(size=48, channels=1))
    assert len(images.load(tmp_path / "i", read)) == 120


def test_a_corpus_whose_labels_are_no_class_says_what_to_write(corpus):
    with pytest.raises(CheckError) as error:
        make(corpus, classes=["cat", "dog"])
    message = str(error.value)
    assert "none of the labels of the corpus is a class" in message
    assert "source `fer2013`: 0 (angry) 45, 3 (happy) 45, 6 (neutral) 45" in message
    assert "classes: {'0': CLASS, '3': CLASS, '6': CLASS}" in message and "angry 1, happiness 1" in message


def test_the_map_of_a_source_makes_classes_of_codes_and_names(corpus):
    file = corpus / "corpus.yaml"
    described = yaml.safe_load(file.read_text())
    for source, mapped in zip(
        described["sources"],
        ({0: "cat", "happy": "dog"}, {6: "cat", "4": "dog"}, {"happiness": "dog"}),
        strict=True,
    ):
        source["classes"] = mapped
    file.write_text(yaml.safe_dump(described))
    records = [row for _, row in read_rows(corpus, ["cat", "dog"]) if isinstance(row, Record)]
    found = {record.path: record.label for record in records}
    assert found["fer2013/fer2013.csv#0"] == "cat" and found["fer2013/fer2013.csv#45"] == "dog"
    assert found["rafdb/Image/aligned/train_00000_aligned.jpg"] == "cat"
    assert found["folders/train/happiness/a b é.png"] == "dog" and len(found) == 90 + 4 + 1
    described["sources"][0]["classes"] = {0: "cow"}
    file.write_text(yaml.safe_dump(described))
    with pytest.raises(UsageError, match=r"(?s)`fer2013` has labels for `cow`, which is no class.*cat, dog"):
        make(corpus, classes=["cat", "dog"])


def test_a_subject_never_straddles_splits(corpus):
    rows = ["path,subject"] + [f"fer2013/fer2013.csv#{i},p{i % 9}" for i in range(45)]
    (corpus / "subjects.csv").write_text("\n".join(rows) + "\n")
    with (corpus / "corpus.yaml").open("a") as file:
        file.write("subjects: subjects.csv\n")
    found, report = make(corpus)
    known = found[found["subject"] != ""]
    assert known.groupby("subject")["split"].nunique().max() == 1
    assert len(report["leaks"]) == 45 - len(known) > 0


def test_the_embedded_corpus_is_cleaned_as_its_truth_says(tmp_path):
    from conftest import CLASSES
    from ferdistill.faces.rendered import write_corpus

    root = tmp_path / "embedded"
    write_corpus(root, seed=3, subjects=50, images=240, annotators=5, sharpness=1.7)
    planted = json.loads((root / "truth" / "planted.json").read_text())
    rows, report = make(root, CLASSES)
    assert {frozenset(c["labels"]) for c in report["conflicts"]} == {frozenset(pair) for pair in planted["conflicts"]}
    found = {kind: set() for kind in ("exact", "near", "mirrored")}
    for copy in report["duplicates"]:
        found[copy["kind"]].add(frozenset((copy["dropped"], copy["kept"])))
    for kind, name in (("exact", "exact"), ("near", "reencoded"), ("mirrored", "mirrored")):
        assert found[kind] == {frozenset(pair) for pair in planted[name]}
    assert rows.groupby("group")["split"].nunique().max() == 1
    assert rows.groupby("subject")["split"].nunique().max() == 1
    assert rows["sample_id"].is_unique


@given(seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_the_shares_of_splits_are_near_what_was_asked(seed):
    rows = frame(2000, official=["train"] * 1000 + [""] * 1000)
    found = stratification(rows.assign(split=assign_splits(rows, settings_with(seed=seed))), settings_with(seed=seed))
    assert found["largest_deviation"] < 0.08
    assert found["expected"]["all"] == pytest.approx({"train": 0.5, "val": 0.2, "calib": 0.2, "test": 0.1})


def test_a_chosen_seed_stratifies_better_and_is_one_that_assign_splits_agrees_with():
    rows = frame(300, groups=60)
    seed, deviation, absent = choose_seed(rows, SETTINGS, 200)
    assert absent == 0
    with_it = settings_with(seed=seed)
    found = stratification(rows.assign(split=assign_splits(rows, with_it)), with_it)
    assert found["largest_deviation"] == pytest.approx(deviation)
    others = [settings_with(seed=other) for other in range(20)]
    deviations = [stratification(rows.assign(split=assign_splits(rows, s)), s)["largest_deviation"] for s in others]
    assert deviation < np.median(deviations) / 2
    few = frame(40)
    seed, _, absent = choose_seed(few, SETTINGS, 200)
    split = assign_splits(few, settings_with(seed=seed))
    assert absent == 0 and (pd.crosstab(few["label"], split)[["val", "calib"]] > 0).all(axis=None)


@given(seed=st.integers(0, 1000), extra=st.integers(1, 40))
@settings(max_examples=15, deadline=None)
def test_rows_that_are_added_move_no_old_one(seed, extra):
    rows, more = frame(100, groups=30), frame(100 + extra, groups=30 + extra)
    before, after = (assign_splits(r, settings_with(seed=seed)) for r in (rows, more))
    old = dict(zip(rows["group"], before, strict=True))
    assert all(old[group] == split for group, split in zip(more["group"], after, strict=True) if group in old)


def frame(count, groups=None, official="train"):
    """Rows as `assign_splits` takes them."""
    return pd.DataFrame(
        {
            "group": [f"g{i % (groups or count)}" for i in range(count)],
            "label": [THREE[i * i % 3] for i in range(count)],
            "official_split": official,
        }
    )


def test_images_are_packed_in_the_order_of_the_index(corpus, tmp_path):
    rows, _ = make(corpus)
    write_index(tmp_path / "i.csv", rows, THREE, "mine")
    read = index.read(tmp_path / "i.csv")
    packing.pack(read, corpus, tmp_path / "i", THREE, ImageParams(size=48, channels=1))
    packed = images.load(tmp_path / "i", read)
    row = list(rows["path"]).index("fer2013/fer2013.csv#7")
    np.testing.assert_array_equal(packed[row][..., 0], face(7))

    Image.fromarray(face(1234)).save(corpus / "folders" / "train" / "angry" / "a b é.png")
    with pytest.raises(CheckError, match="not the one that was indexed"):
        packing.pack(read, corpus, tmp_path / "j", THREE, ImageParams(size=48, channels=1))
    assert not (tmp_path / "j" / images.MANIFEST).exists()


def spoil_pixels(root):
    write_fer2013(root / "fer2013" / "fer2013.csv", [(0, face(1), "Training"), (0, face(2, 47), "Training")])


def spoil_code(root):
    write_fer2013(root / "fer2013" / "fer2013.csv", [(0, face(1), "Training"), (7, face(2), "Training")])


def spoil_image(root):
    (root / "folders" / "train" / "angry" / "a b é.png").write_text("no picture")


def truncate_image(root):
    file = root / "rafdb" / "Image" / "aligned" / "train_00001_aligned.jpg"
    file.write_bytes(file.read_bytes()[:400])


def lose_image(root):
    (root / "rafdb" / "Image" / "aligned" / "train_00001_aligned.jpg").unlink()


def stray_folder(root):
    (root / "folders" / "train" / "bored" / "deeper").mkdir(parents=True)
    Image.fromarray(face(1)).save(root / "folders" / "train" / "bored" / "deeper" / "x.png")


def spoil_list(root):
    (root / "rafdb" / "EmoLabel" / "list_patition_label.txt").write_text("train_00001.jpg 9\n")


def odd_digit(root):
    (root / "rafdb" / "EmoLabel" / "list_patition_label.txt").write_text("train_00001.jpg ²\n", encoding="utf-8")


def other_encoding(root):
    (root / "rafdb" / "EmoLabel" / "list_patition_label.txt").write_bytes("train_é.jpg 5\n".encode("latin-1"))


def huge_pixel(root):
    file = root / "fer2013" / "fer2013.csv"
    file.write_text("emotion,pixels,Usage\n0,99999999999999999999,Training\n")


def directory_for_a_table(root):
    file = root / "corpus.yaml"
    file.write_text(file.read_text().replace("fer2013/fer2013.csv", "fer2013"))


def empty_source(root):
    shutil.rmtree(root / "folders")
    (root / "folders").mkdir()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_pixels, "2209 pixel values.*data row 1.*2304 whole"),
        (spoil_code, "unknown label '7'.*data row 1"),
        (spoil_image, "not an image.*a b é.png"),
        (truncate_image, "cannot be decoded.*train_00001_aligned.jpg"),
        (lose_image, "a listed image is missing.*train_00001_aligned.jpg"),
        (stray_folder, "outside the class folders.*bored"),
        (spoil_list, "unknown label '9'.*line 1"),
        (empty_source, "source `folders` is empty"),
        (odd_digit, "unknown label '²'.*7 neutral"),
        (other_encoding, "source `rafdb` cannot be read.*mine.rafdb.*UTF-8"),
        (huge_pixel, "not whole numbers.*data row 0"),
        (directory_for_a_table, "source `fer2013` has not the fer2013 layout"),
    ],
)
def test_bad_input_is_named_with_its_place(corpus, spoil, message):
    spoil(corpus)
    with pytest.raises(CheckError, match=f"(?s){message}"):
        make(corpus)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sources: []", "at least 1"),
        ("sources: [{name: a, adapter: nope, path: folders}]", "unknown adapter `nope`.*fer2013"),
        ("sources: [{name: a, adapter: folders, path: ../..}]", "below the corpus directory"),
        ("sources: [{name: a, adapter: folders, path: /etc}]", "below the corpus directory"),
        (
            "sources: [{name: a, adapter: folders, path: folders, speed: 1}]",
            "speed: unknown parameter; known here: name, adapter, path",
        ),
        ("sources: [{name: a, adaptor: folders, path: folders}]", "did you mean `adapter`.*adapters: .*fer2013"),
        ("sources: [", "not valid YAML"),
        (
            "sources: [{name: a, adapter: folders, path: folders, classes: {yes: angry}}]",
            "YAML reads this as True.*put it in quotes",
        ),
        ("sources: [{name: a, adapter: folders, path: folders, classes: {a: 7}}]", "YAML reads this as 7.*in quotes"),
    ],
)
def test_a_bad_description_is_refused(corpus, text, message):
    (corpus / "corpus.yaml").write_text(text)
    with pytest.raises(UsageError, match=f"(?s){message}"):
        make(corpus)


def test_a_link_that_leaves_the_corpus_is_refused(corpus, tmp_path):
    Image.fromarray(face(1)).save(tmp_path / "outside.png")
    (corpus / "folders" / "train" / "angry" / "link.png").symlink_to(tmp_path / "outside.png")
    with pytest.raises(CheckError, match="leaves the corpus directory"):
        make(corpus)


def test_an_empty_split_an_absent_class_and_an_edited_index_are_refused(corpus, tmp_path):
    rows, _ = make(corpus)
    with pytest.raises(CheckError, match="split `train` is empty"):
        write_index(tmp_path / "i.csv", rows[rows["split"] != "train"], THREE, "mine")
    with pytest.raises(CheckError, match="split `val` has no image of angry"):
        write_index(tmp_path / "i.csv", rows[(rows["split"] != "val") | (rows["label"] != "angry")], THREE, "mine")
    with pytest.raises(CheckError, match="the corpus has no image of disgust, fear"):
        write_index(tmp_path / "i.csv", rows, [*THREE, "disgust", "fear"], "mine")
    write_index(tmp_path / "i.csv", rows, THREE, "mine")
    text = (tmp_path / "i.csv").read_text()
    (tmp_path / "i.csv").write_text(text.replace("angry", "happy", 1))
    with pytest.raises(CheckError, match="changed after it was written"):
        index.read(tmp_path / "i.csv")
