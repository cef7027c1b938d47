"""What lies in a corpus directory: every layout alone, several together, nested, and what is better left out."""

import importlib

import numpy as np
import pytest
import yaml

from conftest import CLASSES, face, write_fer2013
from ferdistill.data import description, reader, sources
from ferdistill.data.survey import survey, to_yaml
from ferdistill.errors import CheckError, UsageError
from support.corpora import (
    YOLO_NAMES,
    picture,
    text,
    votes,
    write_affectnet,
    write_ckplus,
    write_ferplus,
    write_kaggle_rafdb,
    write_npy,
    write_parquet,
    write_rafdb,
    write_tar,
    write_yolo,
)


def fer2013_table(root):
    write_fer2013(root / "fer2013.csv", [(3, face(1), "Training"), (6, face(2), "PrivateTest")])


def ferplus_table(root):
    write_ferplus(root, [(3, votes(happiness=10)), (6, votes(neutral=10))])


def rafdb_list(root):
    write_rafdb(root, ["train_00001.jpg 5", "test_0001.jpg 4"])


def affectnet_tables(root):
    write_affectnet(root, [("0/a.jpg", 0, 0, 9, 9, 1)], [("1/b.jpg", 0, 0, 9, 9, 0)], "Manually_Annotated_file_lists")


def affectnet_arrays(root):
    write_npy(root, "train_set", {1: np.array("1")})
    write_npy(root, "val_set", {2: np.array("0")})


def yolo(root):
    write_yolo(root / "YOLO_format", {"train/a": ["4 0.5 0.5 1 1"], "test/b": ["5 0.5 0.5 1 1"]})
    text(root / "YOLO_format" / "data.yaml", f"names: {YOLO_NAMES}")


def expw_list(root):
    for name in ("a.jpg", "b.jpg"):
        picture(root / "origin" / name)
    text(root / "label.lst", "a.jpg 0 0 0 9 9 60 3", "b.jpg 0 0 0 9 9 60 6")


def ckplus_sequences(root):
    write_ckplus(root, {"S005/001": (3, 1), "S006/001": (3, 5), "S007/001": (3, None)})


def ckplus48_folders(root):
    picture(root / "CK+48" / "anger" / "S005_001_00000003.png")
    picture(root / "CK+48" / "happy" / "S006_001_00000003.png")


def jaffe_files(root):
    picture(root / "KA.AN1.39.tiff")
    picture(root / "KA.HA1.40.tiff")
    text(root / "README", "")


def kdef_folders(root):
    picture(root / "KDEF" / "AF01" / "AF01HAS.JPG")
    picture(root / "KDEF" / "BF01" / "BF01NES.JPG")
    picture(root / "KDEF" / "AF31" / "AF31V.JPG")


def class_folders(root):
    picture(root / "train" / "happy" / "a.png")
    picture(root / "test" / "anger" / "b.png")


def table_of_paths(root):
    picture(root / "pictures" / "a.png")
    picture(root / "pictures" / "b.png")
    text(root / "labels.csv", "file,class", "pictures/a.png,happy", "pictures/b.png,Anger")


def parquet_table(root):
    write_parquet(root / "x.parquet", range(2))


def tar_of_images(root):
    write_tar(root / "x.tar", range(2), "json")


# The writer, the adapter, and the source's path below the folder that was written to.
LAYOUTS = {
    "fer2013": (fer2013_table, "fer2013.csv"),
    "ferplus": (ferplus_table, "fer2013new.csv"),
    "rafdb": (rafdb_list, ""),
    "affectnet": (affectnet_tables, ""),
    "affectnet_npy": (affectnet_arrays, ""),
    "affectnet_yolo": (yolo, "YOLO_format"),
    "expw": (expw_list, ""),
    "ckplus": (ckplus_sequences, ""),
    "ckplus48": (ckplus48_folders, "CK+48"),
    "jaffe": (jaffe_files, ""),
    "kdef": (kdef_folders, "KDEF"),
    "table": (table_of_paths, "labels.csv"),
    "parquet": (parquet_table, "x.parquet"),
    "webdataset": (tar_of_images, "x.tar"),
    "folders": (class_folders, ""),
}
PRECEDENCE = (
    "kdef", "ckplus", "ckplus48", "jaffe", "rafdb", "ferplus", "affectnet", "affectnet_npy", "affectnet_yolo", "expw",
    "fer2013", "table", "parquet", "webdataset", "folders",
)  # fmt: skip


def guess(root):
    return survey(root, CLASSES)


def placed(found):
    """Adapter and path of each source."""
    return [(one.description.adapter, one.description.path) for one in found.sources]


def check_yaml(root):
    """The description is one that the reader takes, and each source yields two faces that can be decoded."""
    (root / "corpus.yaml").write_text(to_yaml(guess(root)), encoding="utf-8")
    described = description.read_description(root, CLASSES)
    for source in described.sources:
        rows = list(reader.source_rows(root, source, reader.labels_of(source, CLASSES)))
        assert not [row for row in rows if isinstance(row, CheckError)], source
        records = [row for row in rows if isinstance(row, sources.Record)]
        assert len(records) == 2, source
        for record in records:
            sources.decode(root, record)
    return described


def test_every_adapter_has_a_layout_here_and_a_place_in_the_order():
    modules = {name: importlib.import_module(module) for name, module in description.adapters().items()}
    recognised = [name for name, module in modules.items() if hasattr(module, "recognise")]
    assert sorted(LAYOUTS) == sorted(PRECEDENCE) == recognised


@pytest.mark.parametrize("place", ["mine", "archive/some where/é", "."])
@pytest.mark.parametrize("adapter", LAYOUTS)
def test_each_layout_is_recognised_alone_at_any_depth(tmp_path, adapter, place):
    write, below = LAYOUTS[adapter]
    write(tmp_path / place)
    found = guess(tmp_path)
    assert [(one.description.name, one.description.adapter, one.description.path) for one in found.sources] == [
        (adapter, adapter, sources.join(place, below))
    ]
    assert found.sources[0].images == 2 and found.sources[0].evidence
    assert not found.unrecognised and found.subjects is None
    assert [item.reason[:20] for item in found.left_out] == (["FER2013; FER+ relabe"] if adapter == "ferplus" else [])
    check_yaml(tmp_path)


def test_all_layouts_together_in_their_order(tmp_path):
    for adapter, (write, _) in LAYOUTS.items():
        write(tmp_path / f"my {adapter}")
    text(tmp_path / "subjects.csv", "path,subject")
    text(tmp_path / "stuff" / "notes.txt", "")
    text(tmp_path / "LICENSE", "")
    (tmp_path / ".hidden").write_text("")
    found = guess(tmp_path)
    # The FER2013 table of its own has as many rows as the one that FER+ relabels: both would conflict with FER+.
    expected = [adapter for adapter in PRECEDENCE if adapter != "fer2013"]
    assert [adapter for adapter, _ in placed(found)] == expected
    assert [item.path for item in found.left_out] == ["my fer2013/fer2013.csv", "my ferplus/fer2013.csv"]
    assert found.sources[PRECEDENCE.index("ferplus")].description.options == {"fer2013": "my ferplus/fer2013.csv"}
    assert found.unrecognised == ("LICENSE", "stuff") and found.subjects == "subjects.csv"
    described = to_yaml(found)
    assert "precedence" in described and "# left out: my fer2013/fer2013.csv: FER2013; FER+" in described
    assert "# not recognised: stuff" in described
    described = check_yaml(tmp_path)
    assert described.subjects == "subjects.csv" and len(described.sources) == 14


def test_the_same_tree_gives_the_same_bytes(tmp_path):
    for adapter in ("rafdb", "folders", "kdef", "fer2013"):
        LAYOUTS[adapter][0](tmp_path / adapter)
    assert to_yaml(guess(tmp_path)) == to_yaml(guess(tmp_path))


def test_two_of_a_kind_are_numbered(tmp_path):
    for folder in ("b", "a"):
        class_folders(tmp_path / folder)
    found = guess(tmp_path)
    assert [(one.description.name, one.description.path) for one in found.sources] == [
        ("folders", "a"),
        ("folders-2", "b"),
    ]
    check_yaml(tmp_path)


@pytest.mark.parametrize("keep", ["tables", "names", "DATASET"])
def test_kaggles_rafdb_is_told_from_other_numbered_folders(tmp_path, keep):
    write_kaggle_rafdb(tmp_path / "archive")
    if keep != "tables":
        for part in ("train", "test"):
            (tmp_path / "archive" / f"{part}_labels.csv").unlink()
    if keep == "names":
        (tmp_path / "archive" / "DATASET").rename(tmp_path / "archive" / "data")
    found = guess(tmp_path)
    path = "archive/data" if keep == "names" else "archive"
    assert [(*place, one.images) for place, one in zip(placed(found), found.sources, strict=True)] == [
        ("rafdb", path, 6)
    ]
    assert ("train_labels.csv" in found.sources[0].evidence) == (keep == "tables")
    for folder in ("train", "test"):
        for code in ("1", "4", "7"):
            picture(tmp_path / "other" / folder / code / "x.png")
    found = guess(tmp_path)
    assert [item.path for item in found.left_out] == ["other"]
    assert "none of whose labels is a class: 1 2, 4 2, 7 2" in found.left_out[0].reason
    assert "classes: {'1': CLASS, '4': CLASS, '7': CLASS}}" in found.left_out[0].reason


def test_names_that_tell_the_person_are_preferred_to_class_folders(tmp_path):
    picture(tmp_path / "k" / "afraid" / "AF01AFS.JPG")
    picture(tmp_path / "k" / "happy" / "BF01HAS.JPG")
    picture(tmp_path / "j" / "angry" / "KA.AN1.39.tiff")
    picture(tmp_path / "mixed" / "angry" / "KA.AN1.39.tiff")
    picture(tmp_path / "mixed" / "angry" / "someone.tiff")
    found = guess(tmp_path)
    assert placed(found) == [
        ("kdef", "k"), ("jaffe", "j"), ("folders", "mixed"),
    ]  # fmt: skip
    assert "`folders` could read it too" in found.sources[0].evidence


def test_tables_that_hold_the_same_rows_are_left_out(tmp_path):
    fer2013_table(tmp_path)
    rows = (tmp_path / "fer2013.csv").read_text()
    (tmp_path / "icml_face_data.csv").write_text(rows.replace("emotion,pixels,Usage", "emotion, pixels, Usage"))
    text(tmp_path / "train.csv", "emotion,pixels", "0,1 2 3")
    text(tmp_path / "test.csv", "pixels", "1 2 3")
    text(tmp_path / "ckextended.csv", "emotion,pixels,Usage", "7,1 2 3,Training")
    found = guess(tmp_path)
    assert [path for _, path in placed(found)] == ["fer2013.csv"]
    reasons = {item.path: item.reason for item in found.left_out}
    assert "the codes differ" in reasons["ckextended.csv"]
    assert "as many rows as fer2013.csv" in reasons["icml_face_data.csv"]
    assert reasons["train.csv"] == reasons["test.csv"] == "a part of FER2013, which is whole in fer2013.csv"
    check_yaml(tmp_path)


def test_kaggles_parts_of_fer2013_alone(tmp_path):
    text(tmp_path / "train.csv", "emotion,pixels", "0,1 2 3")
    text(tmp_path / "test.csv", "pixels", "1 2 3")
    found = guess(tmp_path)
    assert [(*place, one.images) for place, one in zip(placed(found), found.sources, strict=True)] == [
        ("fer2013", "train.csv", 1)
    ]
    assert [item.reason for item in found.left_out] == ["FER2013's pixels without labels"]


def test_ferplus_needs_a_table_of_as_many_rows(tmp_path):
    ferplus_table(tmp_path)
    with (tmp_path / "fer2013.csv").open("a") as handle:
        handle.write("3,1 2 3,Training\n")
    found = guess(tmp_path)
    assert [adapter for adapter, _ in placed(found)] == ["fer2013"]
    assert "no whole FER2013 table of 2 rows" in found.left_out[0].reason


def test_half_a_layout_is_left_out_with_what_is_missing(tmp_path):
    text(tmp_path / "raf" / "EmoLabel" / "list_patition_label.txt", "train_00001.jpg 5")
    picture(tmp_path / "ck" / "cohn-kanade-images" / "S005" / "001" / "S005_001_00000001.png")
    text(tmp_path / "expw" / "label.lst", "a.jpg 0 0 0 9 9 60 3")
    affectnet_tables(tmp_path / "a")
    (tmp_path / "a" / "Manually_Annotated_file_lists" / "validation.csv").unlink()
    yolo(tmp_path / "y")
    text(tmp_path / "y" / "YOLO_format" / "data.yaml", "names: [cat, dog]")
    picture(tmp_path / "raf2" / "Image" / "aligned" / "train_00001_aligned.jpg")
    for number in (1, 2):
        picture(tmp_path / "classes" / "train_class" / f"class00{number}" / "a.jpg")
    text(tmp_path / "npy" / "train_set" / "annotations" / "1_val.npy")
    found = guess(tmp_path)
    assert not found.sources and not found.unrecognised
    missing = {
        "a": "validation.csv", "ck": "Emotion", "classes/train_class": "{class001: CLASS, class002: CLASS}",
        "expw": "origin", "npy": "_exp.npy", "raf": "Image/aligned", "raf2": "list_patition_label.txt is not there",
    }  # fmt: skip
    reasons = {item.path: item.reason for item in found.left_out}
    assert all(part in reasons[path] for path, part in missing.items()) and "alphabetical" in reasons["y/YOLO_format"]
    with pytest.raises(CheckError, match=r"no corpus layout(.|\n)*raf: RAF-DB without its folder Image/aligned"):
        to_yaml(found)


def test_class_folders_around_another_corpus_are_left_out(tmp_path):
    class_folders(tmp_path / "all")
    jaffe_files(tmp_path / "all" / "jaffe")
    fer2013_table(tmp_path / "all")
    found = guess(tmp_path)
    assert placed(found) == [
        ("jaffe", "all/jaffe"), ("fer2013", "all/fer2013.csv"),
    ]  # fmt: skip
    assert [item.path for item in found.left_out] == ["all"] and "jaffe in all/jaffe" in found.left_out[0].reason


def test_evidence_names_what_will_be_refused_and_kaggles_merged_test(tmp_path):
    class_folders(tmp_path)
    picture(tmp_path / "test" / "sad" / "PublicTest_88305.jpg")
    picture(tmp_path / "train" / "bored" / "x.png")
    picture(tmp_path / "train" / "bored" / "deeper" / "x.png")
    evidence = guess(tmp_path).sources[0].evidence
    assert "images of PublicTest lie in another part" in evidence
    assert "left out, being no class: bored 1" in evidence
    assert "1 rows will be refused, the first: a file outside the class folders" in evidence


def test_a_path_that_no_description_can_hold_is_left_out(tmp_path):
    class_folders(tmp_path / "C: drive")
    found = guess(tmp_path)
    assert not found.sources and "rename" in found.left_out[0].reason


def test_labels_are_matched_by_number_and_position_and_not_by_guess(tmp_path):
    for number in (1, 2):
        picture(tmp_path / "f" / f"0{number}" / "a.png", seed=number)
        picture(tmp_path / f"{number}.png", seed=number)
    text(tmp_path / "t.csv", "path,label", "1.png,0", "2.png,1")
    mapped = {one.description.adapter: one.description.classes for one in survey(tmp_path, ["1", "2"]).sources}
    assert mapped == {"folders": {"01": "1", "02": "2"}, "table": {}}
    mapped = {one.description.adapter: one.description.classes for one in survey(tmp_path, ["cat", "dog"]).sources}
    assert mapped == {"table": {"0": "cat", "1": "dog"}}
    found = survey(tmp_path, ["cat", "dog", "cow"])
    assert not found.sources
    with pytest.raises(CheckError, match=r"(?s)f: folders, none of whose labels is a class: 01 1, 02 1.*'0': CLASS"):
        to_yaml(found)


def test_one_of_two_sources_that_list_the_same_images_is_left_out(tmp_path):
    class_folders(tmp_path)
    text(tmp_path / "labels.csv", "path,label", "train/happy/a.png,happy", "test/anger/b.png,angry")
    found = guess(tmp_path)
    assert placed(found) == [("table", "labels.csv")]
    assert [item.reason for item in found.left_out] == ["folders, whose images table lists too"]


def test_text_of_a_table_does_not_break_out_of_its_comment(tmp_path):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png")
    text(tmp_path / "t.csv", "path,label", "a.png,happy", 'b.png,"x\nsources: []"')
    described = yaml.safe_load(to_yaml(guess(tmp_path)))
    assert [source["adapter"] for source in described["sources"]] == ["table"]


def test_nothing_and_nowhere(tmp_path):
    text(tmp_path / "notes" / "a.csv", "\ufeffpath")
    (tmp_path / "notes" / "b.csv").write_bytes(b"\xff\xfe")
    found = guess(tmp_path)
    assert found.unrecognised == ("notes",) and not found.sources and not found.left_out
    with pytest.raises(UsageError, match="no such corpus directory"):
        guess(tmp_path / "nowhere")


def test_the_description_is_yaml_whatever_the_names(tmp_path):
    class_folders(tmp_path / "# a {b}, [c] 'd' \"e\" é")
    described = to_yaml(guess(tmp_path))
    (source,) = yaml.safe_load(described)["sources"]
    assert described.count("\n") == 3 and "é" in described
    assert source["path"] == "# a {b}, [c] 'd' \"e\" é"
    check_yaml(tmp_path)
