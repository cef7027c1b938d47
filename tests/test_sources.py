"""Adapters: tiny trees in each public layout, with the traps of each."""

import csv
import importlib
import io
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conftest import CLASSES, face, write_fer2013
from ferdistill.data import sources
from ferdistill.data.containers import CsvCell, read_inside
from ferdistill.data.description import adapters, stays_inside
from ferdistill.data.labels import Labels
from ferdistill.data.sources import Dropped
from ferdistill.errors import CheckError
from ferdistill.faces.corpora import affectnet, affectnet_npy, affectnet_yolo, ferplus
from support.corpora import (
    YOLO_NAMES,
    one_error,
    picture,
    read,
    text,
    votes,
    write_affectnet,
    write_ckplus,
    write_ferplus,
    write_kaggle_rafdb,
    write_npy,
    write_rafdb,
    write_yolo,
)


def labels(records):
    return {record.path: record.label for record in records}


def dropped(drops):
    return {drop.path: drop.reason for drop in drops}


def decodable(root, records):
    return all(sources.decode(root, record).dtype == np.uint8 for record in records)


def test_every_adapter_has_the_contract():
    assert len(adapters()) == 16
    for name in adapters():
        module = importlib.import_module(adapters()[name])
        assert issubclass(module.Options, sources.Options) and callable(module.rows)


# FER2013


def test_fer2013_maps_its_codes_and_parts(tmp_path):
    usage = ["Training", "PublicTest", "PrivateTest"]
    write_fer2013(tmp_path / "f" / "fer2013.csv", [(code, face(code), usage[code % 3]) for code in range(7)])
    records, drops, errors = read("fer2013", tmp_path, "f/fer2013.csv")
    assert [record.label for record in records] == ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    assert [record.split for record in records[:3]] == ["train", "val", "test"]
    assert records[6].path == "f/fer2013.csv#6" and not drops and not errors
    np.testing.assert_array_equal(sources.decode(tmp_path, records[3])[..., 1], face(3))


def test_fer2013_survives_a_byte_order_mark_crlf_and_blanks_in_the_first_line(tmp_path):
    pixels = " ".join(["7"] * 2304)
    for start, end in (("\ufeff", "\r\n"), ("", "\n")):
        (tmp_path / "icml_face_data.csv").write_bytes(
            (
                start + end.join(["emotion, Usage, pixels", f"3,Training,{pixels}", f"6,PrivateTest,{pixels}", ""])
            ).encode()
        )
        records, _, errors = read("fer2013", tmp_path, "icml_face_data.csv")
        assert [(record.label, record.split) for record in records] == [("happy", "train"), ("neutral", "test")]
        assert not errors and decodable(tmp_path, records)


def test_kaggles_train_and_test_tables(tmp_path):
    text(tmp_path / "train.csv", "emotion,pixels", "0,1 2 3")
    text(tmp_path / "test.csv", "pixels", "1 2 3", "4 5 6")
    text(tmp_path / "more.csv", "emotion,pixels", "0,1 2 3")
    assert [(record.label, record.split) for record in read("fer2013", tmp_path, "train.csv")[0]] == [
        ("angry", "train")
    ]
    _, drops, _ = read("fer2013", tmp_path, "test.csv")
    assert dropped(drops) == {"test.csv#0": "unlabelled", "test.csv#1": "unlabelled"}
    with pytest.raises(CheckError, match="which part it is"):
        read("fer2013", tmp_path, "more.csv")
    text(tmp_path / "other.csv", "label,pixels", "0,1 2 3")
    with pytest.raises(CheckError, match="not a FER2013 table"):
        read("fer2013", tmp_path, "other.csv")


@given(st.text(alphabet='ab,"\r\n é', max_size=30))
@settings(deadline=None, max_examples=300)
def test_the_quick_reader_of_tables_yields_what_csv_does(content):
    assert list(sources.csv_fields(io.StringIO(content, newline=""))) == list(
        csv.reader(io.StringIO(content, newline=""))
    )


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("7,1 2,Training", "unknown label '7'"),
        ("-1,1 2,Training", "unknown label '-1'"),
        ("3.0,1 2,Training", "unknown label '3.0'"),
        ("²,1 2,Training", "unknown label '²'"),
        (",1 2,Training", "unknown label ''"),
        ("3,1 2,Practice", "unknown Usage 'Practice'"),
        ("3,1 2", "a row of 2 fields"),
        ("3,1 2,Training,4", "a row of 4 fields"),
    ],
)
def test_a_bad_row_of_fer2013_is_an_error_and_the_next_is_read(tmp_path, row, message):
    text(tmp_path / "fer2013.csv", "emotion,pixels,Usage", row, "3,1 2,Training")
    records, _, errors = read("fer2013", tmp_path, "fer2013.csv")
    one_error(errors, message, "data row 0")
    assert labels(records) == {"fer2013.csv#1": "happy"}


def test_a_class_that_is_not_ours_is_dropped_by_its_name(tmp_path):
    text(tmp_path / "fer2013.csv", "emotion,pixels,Usage", "1,1 2,Training", "3,1 2,Training")
    records, drops, _ = read("fer2013", tmp_path, "fer2013.csv", classes=["happy"])
    assert labels(records) == {"fer2013.csv#1": "happy"} and dropped(drops) == {"fer2013.csv#0": "disgust"}


@given(st.text(max_size=5))
@settings(deadline=None, max_examples=200)
def test_no_code_outside_a_table_becomes_a_class(code):
    record = sources.Record("a.jpg", code, None)
    found = Labels(CLASSES, {}, affectnet.CODES, {}).row(record, "here")
    name = affectnet.CODES.get(code.strip())
    if name in CLASSES:
        assert found.label == name
    elif name:
        assert found == Dropped("a.jpg", name)
    else:
        assert isinstance(found, CheckError) and "10 no face" in found.expected


# FER+


def test_ferplus_takes_the_majority_as_microsofts_reader_does(tmp_path):
    rows = [
        (0, votes(happiness=10)),
        (0, votes(neutral=4, happiness=1, surprise=1, sadness=1, anger=3)),  # single votes aside: 4 of 7
        (0, votes(neutral=5, sadness=5)),
        (0, votes(contempt=9, fear=1)),
        (0, votes(unknown=8, fear=2)),
        (0, votes(NF=9, fear=1)),
        (0, None),
        (
            0,
            votes(
                neutral=1, happiness=1, surprise=1, sadness=1, anger=1, disgust=1, fear=1, contempt=1, unknown=1, NF=1
            ),
        ),
    ]
    write_ferplus(tmp_path, rows)
    records, drops, errors = read("ferplus", tmp_path, "fer2013new.csv", fer2013="fer2013.csv")
    assert labels(records) == {"fer2013new.csv#0": "happy", "fer2013new.csv#1": "neutral"} and not errors
    reasons = ["no majority", "contempt", "unknown", "no face", "no face", "no majority"]
    assert list(dropped(drops).values()) == reasons
    np.testing.assert_array_equal(sources.decode(tmp_path, records[1])[..., 0], face(1))
    assert list(records[1].votes) == CLASSES
    assert list(records[1].votes.values()) == pytest.approx([0.3, 0, 0, 0.1, 0.4, 0.1, 0.1])


def test_ferplus_breaks_a_tie_by_fer2013s_own_label(tmp_path):
    tie = votes(neutral=4, sadness=4, fear=2)
    rows = [(6, tie), (4, tie), (2, tie), (3, votes(neutral=3, fear=3, happiness=4)), (0, votes())]
    write_ferplus(tmp_path, rows)
    records, drops, _ = read("ferplus", tmp_path, "fer2013new.csv", fer2013="fer2013.csv", label="plurality")
    assert [record.label for record in records] == ["neutral", "sad", "happy"]
    assert list(dropped(drops).values()) == ["tie", "no votes"]


def microsoft_majority(raw):
    """The rule of the reference reader, written anew."""
    kept = [0 if count <= 1 else count for count in raw]
    top = max(kept)
    return list(ferplus.CODES)[kept.index(top)] if top > 0.5 * sum(kept) else "no majority"


@given(st.lists(st.integers(0, 10), min_size=10, max_size=10))
@settings(deadline=None, max_examples=200)
def test_the_majority_is_microsofts_for_all_votes(raw):
    found = ferplus._label(dict(zip(ferplus.CODES, raw, strict=True)), "majority", "anger")
    assert found == microsoft_majority(raw)


@pytest.mark.parametrize("lost", ["first of the votes", "last of the votes", "first of the pixels"])
def test_ferplus_out_of_step_is_refused(tmp_path, lost):
    write_ferplus(tmp_path, [(0, votes(happiness=10))] * 4, ["Training", "Training", "PublicTest", "PrivateTest"])
    file = tmp_path / ("fer2013.csv" if "pixels" in lost else "fer2013new.csv")
    header, *rows = file.read_text().splitlines()
    text(file, header, *(rows[1:] if "first" in lost else rows[:-1]))
    with pytest.raises(CheckError, match="out of step"):
        read("ferplus", tmp_path, "fer2013new.csv", fer2013="fer2013.csv")


def test_ferplus_shifted_by_one_at_equal_length_is_refused(tmp_path):
    write_ferplus(tmp_path, [(0, votes(happiness=10))] * 4, ["Training", "Training", "PublicTest", "PrivateTest"])
    header, *rows = (tmp_path / "fer2013new.csv").read_text().splitlines()
    text(tmp_path / "fer2013new.csv", header, *rows[1:], rows[-1].replace("0003", "0004"))
    with pytest.raises(CheckError, match=r"(?s)Usage PublicTest beside Training.*data row 1"):
        read("ferplus", tmp_path, "fer2013new.csv", fer2013="fer2013.csv")


def test_ferplus_refuses_a_name_twice_and_votes_that_are_none(tmp_path):
    write_ferplus(tmp_path, [(0, votes(happiness=10))] * 3)
    header, first, second, third = (tmp_path / "fer2013new.csv").read_text().splitlines()
    text(tmp_path / "fer2013new.csv", header, first, second.replace("0001", "0000"), third.replace(",10,", ",-3,"))
    records, _, errors = read("ferplus", tmp_path, "fer2013new.csv", fer2013="fer2013.csv")
    assert len(records) == 1 and len(errors) == 2
    one_error(errors[:1], "a row twice: fer0000000.png", "data row 1; first at data row 0")
    one_error(errors[1:], "not a row of votes", "data row 2")
    with pytest.raises(ValueError, match="below the corpus directory"):
        read("ferplus", tmp_path, "fer2013new.csv", fer2013="../fer2013.csv")


# RAF-DB


def test_rafdb_maps_its_codes_from_one(tmp_path):
    write_rafdb(
        tmp_path / "r", [f"train_{code:05d}.jpg {code}" for code in range(1, 8)] + ["test_0001.jpg 4"], "utf-8-sig"
    )
    records, _, errors = read("rafdb", tmp_path, "r")
    names = ["surprise", "fear", "disgust", "happy", "sad", "angry", "neutral", "happy"]
    assert [record.label for record in records] == names and not errors
    assert records[7].split == "test" and records[7].path == "r/Image/aligned/test_0001_aligned.jpg"
    assert decodable(tmp_path, records)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train_00002.jpg 0", "unknown label '0'"),
        ("train_00002.jpg 8", "unknown label '8'"),
        ("train_00001.jpg 5", "a row twice: train_00001.jpg"),
        ("val_00002.jpg 5", "not a RAF-DB row"),
        ("garbage", "not a RAF-DB row: 'garbage'"),
        ("train_00002.png 5", "not a RAF-DB row"),
        ("train_/../../x.jpg 5", "leaves its folder"),
        ("/train_00002.jpg 5", "leaves its folder"),
        (r"train_\00002.jpg 5", "leaves its folder"),
    ],
)
def test_a_bad_line_of_rafdb_is_named(tmp_path, line, message):
    text(tmp_path / "EmoLabel" / "list_patition_label.txt", "train_00001.jpg 4", "", line)
    records, _, errors = read("rafdb", tmp_path, ".")
    one_error(errors, message, "line 3")
    assert labels(records) == {"Image/aligned/train_00001_aligned.jpg": "happy"}


def test_a_source_without_its_list_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="list_patition_label"):
        read("rafdb", tmp_path, "nothing")


def test_kaggles_rafdb_reads_numbered_folders_that_agree_with_its_tables(tmp_path):
    write_kaggle_rafdb(tmp_path / "raf")
    picture(tmp_path / "raf" / "DATASET" / "train" / "4" / ".DS_Store.png")
    for path in ("raf", "raf/DATASET"):
        records, drops, errors = read("rafdb", tmp_path, path)
        assert [(record.split, record.label) for record in records] == [
            (part, label) for part in ("train", "test") for label in ("surprise", "happy", "neutral")
        ]
        assert records[0].path == "raf/DATASET/train/1/train_00001_aligned.jpg" and not errors
        assert dropped(drops) == {"raf/DATASET/train/4/.DS_Store.png": "not an image"}


def test_kaggles_rafdb_refuses_folders_and_tables_that_disagree(tmp_path):
    write_kaggle_rafdb(tmp_path)
    table = tmp_path / "train_labels.csv"
    wrong = (
        table.read_text().replace("00004_aligned.jpg,4", "00004_aligned.jpg,5").replace("train_00007", "train_00008")
    )
    table.write_text(wrong + "train_00001_aligned.jpg,1\n")
    picture(tmp_path / "DATASET" / "test" / "8" / "test_00018_aligned.jpg")
    records, _, errors = read("rafdb", tmp_path, ".")
    assert len(records) == 4 and len(errors) == 5
    messages = [str(error) for error in errors]
    assert "a row twice: train_00001_aligned.jpg" in messages[0] and "data row 3; first at data row 0" in messages[0]
    assert "the folder says 4" in messages[1] and "data row 1, says 5" in messages[1]
    assert "the folder says 7" in messages[2] and "has no row for it" in messages[2]
    assert "a listed image is missing: train_00008_aligned.jpg" in messages[3]
    assert "unknown label '8'" in messages[4]


# AffectNet


def test_affectnet_cuts_out_the_face_and_uses_validation_as_test(tmp_path):
    write_affectnet(
        tmp_path / "a",
        [(f"{code}/é {code}.jpg", 1, 2, 5, 6, code) for code in range(11)] + [("11/neg.jpg", -1, -1, -1, -1, 1)],
        [("12/v.jpg", 0, 0, 12, 10, 6)],
        lists="Manually_Annotated_file_lists",
    )
    records, drops, errors = read("affectnet", tmp_path, "a")
    names = ["neutral", "happy", "sad", "surprise", "fear", "disgust", "angry", "angry"]
    assert [record.label for record in records] == names and not errors
    assert list(dropped(drops).values()) == ["contempt", "none", "uncertain", "no face", "no face"]
    assert records[0].box == (1, 2, 6, 8) and sources.decode(tmp_path, records[0]).shape == (6, 5, 3)
    assert records[0].path == "a/Manually_Annotated_Images/0/é 0.jpg"
    assert [record.split for record in records[-2:]] == ["train", "test"]

    records, _, _ = read("affectnet", tmp_path, "a", crop=False, validation="val")
    assert sources.decode(tmp_path, records[0]).shape == (10, 12, 3) and records[-1].split == "val"


@pytest.mark.parametrize("images", ["", "Manually_Annotated/Manually_Annotated_Images"])
def test_affectnet_finds_its_images(tmp_path, images):
    write_affectnet(tmp_path, [("0/a.jpg", 0, 0, 3, 3, 0)], images=images)
    records, _, _ = read("affectnet", tmp_path, ".")
    assert len(records) == 1 and decodable(tmp_path, records)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (("1/b.jpg", 0, 0, 3, 3, 11), "unknown label '11'"),
        (("1/b.jpg", 0, 0, 3, 3, -1), "unknown label '-1'"),
        (("1/b.jpg", 0, "NULL", 3, 3, 1), "not a face box: 0, NULL, 3, 3"),
        (("1/b.jpg", 0, 0, 3.5, 3, 1), "not a face box"),
        (("0/a.jpg", 0, 0, 3, 3, 1), "a row twice: 0/a.jpg"),
        (("/1/b.jpg", 0, 0, 3, 3, 1), "leaves its folder"),
        (("../b.jpg", 0, 0, 3, 3, 1), "leaves its folder"),
    ],
)
def test_a_bad_row_of_affectnet_is_named(tmp_path, row, message):
    write_affectnet(tmp_path, [("0/a.jpg", 0, 0, 3, 3, 0), row])
    records, _, errors = read("affectnet", tmp_path, ".")
    one_error(errors, message, "training.csv, data row 1")
    assert len(records) == 1


def test_an_image_in_both_parts_of_affectnet_is_an_error_naming_both_rows(tmp_path):
    write_affectnet(tmp_path, [("0/a.jpg", 0, 0, 3, 3, 0)], [("0/a.jpg", 0, 0, 3, 3, 0)])
    _, _, errors = read("affectnet", tmp_path, ".")
    one_error(errors, "validation.csv, data row 0; first at training.csv, data row 0")


@pytest.mark.parametrize("box", [(0, 0, 13, 10), (5, 5, 3, 6), (-1, 0, 3, 3), (2, 2, 0, 3)])
def test_a_box_outside_its_image_is_refused_when_it_is_decoded(tmp_path, box):
    write_affectnet(tmp_path, [("0/a.jpg", *box, 0)])
    records, _, errors = read("affectnet", tmp_path, ".")
    assert not errors
    with pytest.raises(CheckError, match=r"(?s)a box outside its image.*0/a\.jpg.*12 x 10"):
        sources.decode(tmp_path, records[0])


def test_affectnet_without_a_header_is_refused(tmp_path):
    write_affectnet(tmp_path, [("0/a.jpg", 0, 0, 3, 3, 0)])
    text(tmp_path / "validation.csv", "1/b.jpg,0,0,3,3,1;2,0,0,0")
    with pytest.raises(CheckError, match=r"(?s)columns of its layout.*validation\.csv"):
        read("affectnet", tmp_path, ".")


# AffectNet as .npy


def test_affectnet_npy_reads_strings_and_numbers(tmp_path):
    write_npy(tmp_path / "a", "train_set", {0: np.array("3"), 1: np.array([4]), 2: np.int64(5), 3: np.array(b"7")})
    write_npy(tmp_path / "a", "valid_set", {9: np.array("0")})
    picture(tmp_path / "a" / "train_set" / "images" / "5.jpg")
    (tmp_path / "a" / "train_set" / "annotations" / "._0_exp.npy").write_bytes(b"")
    records, drops, errors = read("affectnet_npy", tmp_path, "a")
    assert [record.label for record in records] == ["surprise", "fear", "disgust", "neutral"] and not errors
    assert [record.split for record in records] == ["train"] * 3 + ["test"]
    assert dropped(drops) == {
        "a/train_set/images/3.jpg": "contempt",
        "a/train_set/images/5.jpg": "unlabelled",
    }
    assert read("affectnet_npy", tmp_path, "a", validation="val")[0][-1].split == "val"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.array("11"), "unknown label '11'"),
        (np.array(3.0), "one string or whole number is expected"),
        (np.array([1, 2]), "one string or whole number is expected"),
        (np.array([{"code": 3}], dtype=object), "Object arrays cannot be loaded"),
    ],
)
def test_a_label_file_that_is_no_label_is_an_error(tmp_path, value, message):
    write_npy(tmp_path, "train_set", {0: value})
    _, _, errors = read("affectnet_npy", tmp_path, ".")
    one_error(errors, message, "0_exp.npy")


def test_affectnet_npy_pairs_every_image_with_one_annotation(tmp_path):
    write_npy(tmp_path, "train_set", {0: np.array("1"), 1: np.array("1")})
    picture(tmp_path / "train_set" / "images" / "0.png")
    (tmp_path / "train_set" / "images" / "1.jpg").unlink()
    _, _, errors = read("affectnet_npy", tmp_path, ".")
    assert ["two images" in str(errors[0]), "without its image" in str(errors[1])] == [True, True]


# AffectNet as YOLO


def test_the_code_orders_of_affectnet_and_yolo_differ(tmp_path):
    shared = affectnet.CODES.keys() & affectnet_yolo.CODES.keys()
    assert {code for code in shared if affectnet.CODES[code] == affectnet_yolo.CODES[code]} == set()
    assert affectnet_npy.CODES is affectnet.CODES
    write_affectnet(tmp_path / "a", [("0/a.jpg", 0, 0, 12, 10, 5)])
    write_yolo(tmp_path / "y", {"train/a": ["5 0.5 0.5 1 1"]})
    assert read("affectnet", tmp_path, "a")[0][0].label == "disgust"
    assert read("affectnet_yolo", tmp_path, "y")[0][0].label == "neutral"


def test_yolo_counts_faces_and_crops_them(tmp_path):
    write_yolo(
        tmp_path / "y",
        {
            "train/one": ["4 0.5 0.5 0.5 0.6"],
            "valid/two": ["0 0.25 0.5 0.5 1", "7 0.75 0.5 0.5 1"],
            "test/none": [],
            "test/c": ["1 0.5 0.5 1 1"],
        },
    )
    text(tmp_path / "y" / "data.yaml", f"names: {YOLO_NAMES}")
    picture(tmp_path / "y" / "test" / "images" / "z.png")
    records, drops, errors = read("affectnet_yolo", tmp_path, "y")
    assert {record.path: (record.label, record.split, record.box) for record in records} == {
        "y/train/images/one.png": ("happy", "train", (3, 2, 9, 8)),
        "y/valid/images/two.png#0": ("angry", "val", (0, 0, 6, 10)),
        "y/valid/images/two.png#1": ("surprise", "val", (6, 0, 12, 10)),
    }
    assert dropped(drops) == {
        "y/test/images/none.png": "no face",
        "y/test/images/c.png": "contempt",
        "y/test/images/z.png": "unlabelled",
    }
    assert not errors and sources.decode(tmp_path, records[2]).shape == (10, 6, 3)
    records, drops, _ = read("affectnet_yolo", tmp_path, "y", crop=False)
    assert [record.box for record in records] == [None]
    assert dropped(drops)["y/valid/images/two.png"] == "several faces"


def test_a_yolo_box_lies_in_the_upright_image(tmp_path):
    write_yolo(tmp_path, {"train/a": ["4 0.5 0.5 1 1"]}, (12, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    (tmp_path / "train" / "images" / "a.png").unlink()
    Image.new("RGB", (12, 10)).save(tmp_path / "train" / "images" / "a.jpg", exif=exif)
    records, _, _ = read("affectnet_yolo", tmp_path, ".")
    assert records[0].box == (0, 0, 10, 12) and sources.decode(tmp_path, records[0]).shape == (12, 10, 3)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("8 0.5 0.5 1 1", "unknown label '8'"),
        ("4 0.5 0.5 1", "not a YOLO line"),
        ("4 0.5 0.5 1 1 0.9", "not a YOLO line"),
        ("4 48 48 96 96", "not a YOLO line"),
        ("4 0.5 0.5 0 1", "not a YOLO line"),
        ("4 nan 0.5 1 1", "not a YOLO line"),
        ("3 0.5 0.5 1 1", "a row twice"),
    ],
)
def test_a_bad_line_of_yolo_is_named(tmp_path, line, message):
    write_yolo(tmp_path, {"train/a": ["3 0.5 0.5 1 1", line]})
    records, _, errors = read("affectnet_yolo", tmp_path, ".")
    one_error(errors, message, "a.txt, line 2")
    assert labels(records) == {"train/images/a.png#0": "fear"}


def test_yolo_pairs_and_class_names_are_checked(tmp_path):
    write_yolo(tmp_path, {"train/a": ["3 0.5 0.5 1 1"]})
    text(tmp_path / "train" / "labels" / "b.txt", "3 0.5 0.5 1 1")
    picture(tmp_path / "train" / "images" / "a.jpg")
    _, _, errors = read("affectnet_yolo", tmp_path, ".")
    assert ["two images" in str(errors[0]), "without its image" in str(errors[1])] == [True, True]
    text(tmp_path / "data.yaml", "names: {0: neutral, 1: happy}")
    with pytest.raises(CheckError, match=r"(?s)alphabetical order.*data\.yaml"):
        read("affectnet_yolo", tmp_path, ".")
    names = dict(enumerate(affectnet_yolo.CODES.values()))
    text(tmp_path / "data.yaml", f"names: {names}")
    assert len(read("affectnet_yolo", tmp_path, ".")[0]) == 1


@given(st.tuples(*[st.floats(0, 1)] * 4), st.integers(1, 300), st.integers(1, 300))
@settings(deadline=None, max_examples=40)
def test_a_yolo_box_within_its_image_stays_within_it(tmp_path_factory, corners, width, height):
    root = tmp_path_factory.mktemp("yolo")
    (left, right), (top, bottom) = sorted(corners[:2]), sorted(corners[2:])
    line = f"4 {(left + right) / 2:.6f} {(top + bottom) / 2:.6f} {right - left:.6f} {bottom - top:.6f}"
    Image.new("L", (width, height)).save(root / "a.png")
    box = affectnet_yolo._box(root, "a.png", line, "here")
    if isinstance(box, CheckError):
        assert "0.000000" in line
    else:
        assert 0 <= box[0] <= box[2] <= width and 0 <= box[1] <= box[3] <= height


# ExpW


def test_expw_reads_several_faces_and_its_box_order(tmp_path):
    for name in ("angry actor_1.jpg", "b.jpg"):
        picture(tmp_path / "e" / "origin" / name, (20, 16))
    lines = ["angry actor_1.jpg 0 2 3 9 7 60.5 3", "angry actor_1.jpg 1 0 10 20 16 12 6", "b.jpg 0 0 0 20 16 90 0"]
    text(tmp_path / "e" / "label.lst", *lines)
    records, _, errors = read("expw", tmp_path, "e")
    assert {record.path: (record.label, record.box, record.split) for record in records} == {
        "e/origin/angry actor_1.jpg#0": ("happy", (3, 2, 9, 7), None),
        "e/origin/angry actor_1.jpg#1": ("neutral", (10, 0, 20, 16), None),
        "e/origin/b.jpg#0": ("angry", (0, 0, 20, 16), None),
    }
    assert not errors and sources.decode(tmp_path, records[0]).shape == (5, 6, 3)
    _, drops, _ = read("expw", tmp_path, "e", min_confidence=60)
    assert dropped(drops) == {"e/origin/angry actor_1.jpg#1": "low confidence"}


@pytest.mark.parametrize(("listing", "images"), [("label/label.lst", "image/origin"), ("label.lst", "origin/origin")])
def test_expw_is_found_as_it_unpacks(tmp_path, listing, images):
    picture(tmp_path / images / "a.jpg", (20, 16))
    text(tmp_path / listing, "a.jpg 0 2 3 9 7 60.5 3")
    records, _, _ = read("expw", tmp_path, ".")
    assert len(records) == 1 and decodable(tmp_path, records)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b.jpg 0 2 3 9 7 60.5 7", "unknown label '7'"),
        ("a.jpg 0 2 3 9 7 60.5 3", "a row twice: a.jpg, face 0"),
        ("b.jpg 0 2 3 9 60.5 3", "not an ExpW row"),
        ("b.jpg 0 2 3 9.5 7 60.5 3", "not an ExpW row"),
        ("b.jpg 0 2 3 9 7 nan 3", "not an ExpW row"),
        ("../b.jpg 0 2 3 9 7 60.5 3", "leaves its folder"),
        ("/b.jpg 0 2 3 9 7 60.5 3", "leaves its folder"),
    ],
)
def test_a_bad_line_of_expw_is_named(tmp_path, line, message):
    text(tmp_path / "label.lst", "a.jpg 0 2 3 9 7 60.5 3", line)
    records, _, errors = read("expw", tmp_path, ".")
    one_error(errors, message, "label.lst, line 2")
    assert labels(records) == {"origin/a.jpg#0": "happy"}


# CK+ and CK+48


def test_ckplus_takes_the_peaks_and_drops_unlabelled_sequences_once(tmp_path):
    write_ckplus(tmp_path / "ck", {"S005/001": (11, 3), "S005/002": (5, None), "S010/001": (4, 2), "S011/001": (4, 7)})
    (tmp_path / "ck" / "cohn-kanade-images" / ".DS_Store").write_bytes(b"")
    records, drops, errors = read("ckplus", tmp_path, "ck")
    images = "ck/cohn-kanade-images"
    assert {record.path: (record.label, record.subject, record.split) for record in records} == {
        f"{images}/S005/001/S005_001_00000011.png": ("disgust", "ckplus:S005", None),
        f"{images}/S011/001/S011_001_00000004.png": ("surprise", "ckplus:S011", None),
    }
    assert dropped(drops) == {
        f"{images}/.DS_Store": "not an image",
        f"{images}/S005/002": "unlabelled",
        f"{images}/S010/001/S010_001_00000004.png": "contempt",
    }
    assert not errors and decodable(tmp_path, records)


def test_ckplus_takes_more_frames_and_the_first_as_neutral(tmp_path):
    write_ckplus(tmp_path, {"S005/001": (4, 5), "S006/001": (3, 5)})
    records, _, errors = read("ckplus", tmp_path, ".", frames=3, neutral_first=True)
    assert [(record.path[-8:-4], record.label) for record in records] == [
        ("0001", "neutral"), ("0002", "happy"), ("0003", "happy"), ("0004", "happy"),
    ]  # fmt: skip
    one_error(errors, "a sequence of 3 frames", "S006/001", "at least 4")


@pytest.mark.parametrize(
    ("content", "message"),
    [("8.0", "unknown label '8'"), ("2.5", "unknown label '2.5'"), ("", "unknown label ''"), ("nan", "label 'nan'")],
)
def test_a_bad_label_of_ckplus_is_named(tmp_path, content, message):
    write_ckplus(tmp_path, {"S005/001": (3, 1)})
    text(tmp_path / "Emotion" / "S005" / "001" / "S005_001_00000003_emotion.txt", content)
    records, _, errors = read("ckplus", tmp_path, ".")
    one_error(errors, message, "S005_001_00000003_emotion.txt")
    assert not records


def test_ckplus_names_strays_and_labels_without_images(tmp_path):
    write_ckplus(tmp_path, {"S005/001": (3, 1), "S006/001": (3, 1), "S007/001": (3, 1)})
    picture(tmp_path / "cohn-kanade-images" / "S005" / "001" / "S006_001_00000009.png")
    (tmp_path / "cohn-kanade-images" / "S006" / "001" / "S006_001_00000003.png").unlink()
    shutil.rmtree(tmp_path / "cohn-kanade-images" / "S007")
    records, _, errors = read("ckplus", tmp_path, ".")
    assert len(records) == 1
    messages = ["a file that does not fit CK+", "a listed image is missing", "a label without its images"]
    assert [error.what for error in errors] == messages


def test_ckplus48_shares_its_people_with_ckplus(tmp_path):
    for frame in (15, 16, 17):
        picture(tmp_path / "CK+48" / "happy" / f"S010_004_000000{frame}.png")
    picture(tmp_path / "CK+48" / "contempt" / "S011_004_00000017.png")
    (tmp_path / "CK+48" / "README.txt").write_text("")
    write_ckplus(tmp_path / "ck", {"S010/001": (3, 1)})
    records, drops, errors = read("ckplus48", tmp_path, "CK+48")
    assert [(record.label, record.subject) for record in records] == [("happy", "ckplus:S010")] * 3
    assert read("ckplus", tmp_path, "ck")[0][0].subject == records[0].subject
    assert dropped(drops) == {
        "CK+48/README.txt": "not an image",
        "CK+48/contempt/S011_004_00000017.png": "contempt",
    }
    assert not errors
    picture(tmp_path / "CK+48" / "happy" / "a.png")
    picture(tmp_path / "CK+48" / "bored" / "S010_004_00000017.png")
    _, _, errors = read("ckplus48", tmp_path, "CK+48")
    assert [error.what for error in errors] == ["a file that does not fit CK+48"] * 2


# JAFFE and KDEF


def test_jaffe_tells_who_is_shown(tmp_path):
    codes = {
        "NE": "neutral",
        "AN": "angry",
        "DI": "disgust",
        "FE": "fear",
        "HA": "happy",
        "SA": "sad",
        "SU": "surprise",
    }
    for number, code in enumerate(codes):
        picture(tmp_path / "jaffe" / f"KA.{code}1.{number}.tiff")
    (tmp_path / "jaffe" / "README").write_text("")
    records, drops, errors = read("jaffe", tmp_path, "jaffe")
    found = {record.path.split(".")[1][:2]: (record.label, record.subject) for record in records}
    assert found == {code: (label, "jaffe:KA") for code, label in codes.items()}
    assert dropped(drops) == {"jaffe/README": "not an image"} and not errors and decodable(tmp_path, records)
    picture(tmp_path / "jaffe" / "KA.XX1.9.tiff")
    picture(tmp_path / "jaffe" / "someone.tiff")
    _, _, errors = read("jaffe", tmp_path, "jaffe")
    assert [error.what for error in errors] == ["unknown label 'XX'", "an image that is not named as JAFFE's are"]


def test_kdef_knows_that_two_sessions_show_one_person(tmp_path):
    for name in ("AF01AFS", "BF01ANS", "AM01HAS", "AF01NEHL", "BF01SAFR"):
        picture(tmp_path / "KDEF" / name[:4] / f"{name}.JPG")
    picture(tmp_path / "KDEF" / "AF31" / "AF31V.JPG")
    (tmp_path / "KDEF" / "Thumbs.db").write_text("")
    records, drops, errors = read("kdef", tmp_path, "KDEF")
    assert {record.path: (record.label, record.subject) for record in records} == {
        "KDEF/AF01/AF01AFS.JPG": ("fear", "kdef:F01"),
        "KDEF/AM01/AM01HAS.JPG": ("happy", "kdef:M01"),
        "KDEF/BF01/BF01ANS.JPG": ("angry", "kdef:F01"),
    }
    assert dropped(drops) == {
        "KDEF/AF01/AF01NEHL.JPG": "angle",
        "KDEF/AF31/AF31V.JPG": "misnamed in the release",
        "KDEF/BF01/BF01SAFR.JPG": "angle",
        "KDEF/Thumbs.db": "not an image",
    }
    assert not errors
    assert len(read("kdef", tmp_path, "KDEF", angles=["S", "HL", "FR"])[0]) == 5
    with pytest.raises(ValueError, match="angles"):
        read("kdef", tmp_path, "KDEF", angles=["up"])
    picture(tmp_path / "KDEF" / "AF01" / "AF01XXS.JPG")
    picture(tmp_path / "KDEF" / "AF01" / "AF01.JPG")
    _, _, errors = read("kdef", tmp_path, "KDEF")
    assert [error.what for error in errors] == ["an image that is not named as KDEF's are", "unknown label 'XX'"]


# Tables


def test_a_table_says_path_label_part_subject_and_votes(tmp_path):
    for name in "abcd":
        picture(tmp_path / "t" / "in" / f"{name}.png")
    lines = ["in/a.png,Happy,train,p1,3,1", "in/b.png,sadness,Valid,,0,2", "in/c.png,,,p1,0,0", "in/d.png,bored,,,1,1"]
    text(tmp_path / "t" / "all.csv", "file,label,set,who,happy,sadness", *lines)
    columns = {"image": "file", "split": "set", "subject": "who", "votes": ["happy", "sadness"]}
    records, drops, errors = read("table", tmp_path, "t/all.csv", **columns)
    assert [(one.path, one.label, one.split, one.subject) for one in records] == [
        ("t/in/a.png", "happy", "train", "p1"), ("t/in/b.png", "sad", "val", ""),
    ]  # fmt: skip
    assert records[0].votes["happy"] == 0.75 and records[1].votes["sad"] == 1 and decodable(tmp_path, records)
    assert dropped(drops) == {"t/in/c.png": "unlabelled", "t/in/d.png": "bored"} and not errors
    with pytest.raises(CheckError, match="columns of its layout"):
        read("table", tmp_path, "t/all.csv")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a.png,happy,train,1", "a row twice: a.png"),
        ("../b.png,happy,train,1", "leaves its folder"),
        ("b.png,happy,practice,1", "not a row of this table"),
        ("b.png,happy,train,-1", "not a row of this table"),
        ("b.png,happy,train,1.5", "not a row of this table"),
        ("b.png,happy,train", "a row of 3 fields"),
    ],
)
def test_a_bad_row_of_a_table_is_named(tmp_path, row, message):
    text(tmp_path / "t.csv", "path,label,split,happy", "a.png,happy,test,2", row)
    records, _, errors = read("table", tmp_path, "t.csv", split="split", votes=["happy"])
    one_error(errors, message, "data row 1")
    assert len(records) == 1


# What labels mean


def test_a_label_is_mapped_else_named_else_alike_in_case_and_accents_else_a_synonym():
    labels_ = Labels(["Colère", "happiness", "7"], {"3": "7", "x": "happiness"}, {}, {"anger": "angry"})
    assert [labels_.class_of(one) for one in ("3", "x", "COLE\u0300RE", "7", "07", "happy")] == [
        "7", "happiness", "Colère", "7", None, None,
    ]  # fmt: skip
    assert Labels(["anger"], {}, {"0": "angry"}, {"anger": "angry"}).class_of("0") == "anger"
    both = Labels(["anger", "angry"], {}, {}, {"anger": "angry", "mad": "angry"})
    assert [both.class_of(one) for one in ("anger", "angry", "mad")] == ["anger", "angry", None]


# Class folders


def test_class_folders_know_synonyms_and_parts(tmp_path):
    places = [
        "train/Anger",
        "validation/happiness",
        "PrivateTest/sadness",
        "fearful",
        "disgusted",
        "surprised",
        "contempt",
    ]
    for number, place in enumerate(places):
        picture(tmp_path / "f" / place / f"{number} é.PNG")
    records, drops, errors = read("folders", tmp_path, "f")
    assert {(record.label, record.split) for record in records} == {
        ("angry", "train"), ("happy", "val"), ("sad", "test"), ("fear", None), ("disgust", None), ("surprise", None),
    }  # fmt: skip
    assert dropped(drops) == {"f/contempt/6 é.PNG": "contempt"} and not errors
    assert decodable(tmp_path, records)


def test_what_a_desktop_leaves_behind_is_dropped_and_the_rest_is_named(tmp_path):
    picture(tmp_path / "train" / "happy" / "a.png")
    clutter = [
        ".DS_Store",
        "train/happy/Thumbs.db",
        "train/happy/desktop.ini",
        "__MACOSX/train/happy/._a.png",
        "README",
    ]
    for name in clutter:
        text(tmp_path / name, "")
    for name in ("train/bored/deeper/b.png", "train/c.png", "x/train/happy/d.png", "train/happy/e.webp"):
        picture(tmp_path / name)
    records, drops, errors = read("folders", tmp_path, ".")
    assert labels(records) == {"train/happy/a.png": "happy"}
    assert dropped(drops) == dict.fromkeys(clutter, "not an image")
    assert [error.what for error in errors] == [
        "a file outside the class folders", "a file outside the class folders",
        "not an image by its name", "a file outside the class folders",
    ]  # fmt: skip


def test_the_order_is_that_of_the_paths_as_text(tmp_path):
    names = ["b.png", "B.png", "a/../é.png", "_.png", "10.png", "9.png"]
    for name in names:
        picture(tmp_path / "happy" / name.removeprefix("a/../"))
    records, _, _ = read("folders", tmp_path, ".")
    paths = [record.path for record in records]
    assert len(paths) == 6 and paths == sorted(paths) and paths[0] == "happy/10.png" and paths[-1] == "happy/é.png"


def test_links_that_leave_the_corpus_are_refused(tmp_path):
    picture(tmp_path / "outside" / "happy" / "a.png")
    root = tmp_path / "corpus"
    (root / "f" / "happy").mkdir(parents=True)
    (root / "f" / "happy" / "a.png").symlink_to(tmp_path / "outside" / "happy" / "a.png")
    records, _, _ = read("folders", root, "f")
    with pytest.raises(CheckError, match="leaves the corpus directory"):
        sources.decode(root, records[0])
    (root / "f" / "sad").symlink_to(tmp_path / "outside" / "happy")
    with pytest.raises(CheckError, match="a link to a folder"):
        read("folders", root, "f")


def test_a_name_that_no_table_can_hold_is_refused(tmp_path):
    picture(tmp_path / "happy" / "a\nb.png")
    with pytest.raises(CheckError, match=r"not text: 'happy/a\\nb.png'"):
        read("folders", tmp_path, ".")


def test_a_missing_folder_is_an_error_of_the_whole_source(tmp_path):
    for adapter in ("folders", "jaffe", "kdef", "ckplus", "ckplus48", "affectnet_npy"):
        with pytest.raises(OSError, match="nowhere"):
            read(adapter, tmp_path, "nowhere")


@given(st.text(alphabet="ab./\\:", min_size=0, max_size=8))
@settings(deadline=None, max_examples=200)
def test_a_listed_path_that_stays_inside_has_no_way_out(name):
    if stays_inside(name):
        assert name and not name.startswith("/") and ".." not in name.split("/") and not set(name) & set("\\:")


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_a_cell_is_read_again_from_where_its_row_begins(tmp_path, bom, end):
    cells = ["1 2", "ü 3", "a,b", "", "two\nlines", 'a "quote"', "last"]
    lines = ["é,pixels,x", *(f'7,"{cell.replace(chr(34), chr(34) * 2)}",y' for cell in cells[:3]), "", "7,,y"]
    lines += [f'7,"{cell.replace(chr(34), chr(34) * 2)}",y' for cell in cells[4:6]] + ["7,last,y"]
    file = tmp_path / "t.csv"
    file.write_bytes((bom + end.join(lines)).encode())
    found = list(sources.located_rows(file, ("pixels",)))
    assert [(row, fields) for _, row, fields in found] == [(row, [cell]) for row, cell in enumerate(cells)]
    for start, row, _ in found:
        assert read_inside(tmp_path, "t.csv", CsvCell(start, 1)).decode() == cells[row]
    for cell in (CsvCell(10**9, 1), CsvCell(0, 9)):
        with pytest.raises(CheckError, match="cannot be read"):
            read_inside(tmp_path, "t.csv", cell)
