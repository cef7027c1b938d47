"""Hostile corpora: descriptions, label files of every adapter, images, and the index; see `support.hostile`."""

import os

import numpy as np
import pytest
from PIL import Image

from conftest import CLASSES, face, make_index, write_fer2013
from ferdistill import image_files
from ferdistill.data import images, index, reader, sources, survey
from ferdistill.errors import CheckError, FerdistillError
from ferdistill.files import read_json, sha256_file, write_json
from support import corpora as trees
from support.hostile import EXAMPLES, NPYS, Case, attack, limited, watched
from support.images import pack

VOTES = trees.votes(happiness=10)


def fer2013(root):
    write_fer2013(root / "fer2013.csv", [(n % 7, face(n), "Training") for n in range(3)])
    return "fer2013.csv", "", ["fer2013.csv"]


def ferplus(root):
    trees.write_ferplus(root, [(0, VOTES)] * 3)
    return "fer2013new.csv", "{fer2013: fer2013.csv}", ["fer2013new.csv"]


def rafdb(root):
    trees.write_rafdb(root, ["train_00001.jpg 5", "train_00002.jpg 1", "test_0001.jpg 7"])
    return ".", "", ["EmoLabel/list_patition_label.txt"]


def kaggle_rafdb(root):
    trees.write_kaggle_rafdb(root)
    return ".", "", ["train_labels.csv"]


def affectnet(root):
    trees.write_affectnet(root, [("0/a.jpg", 0, 0, 12, 10, 5), ("b.jpg", 1, 1, 6, 6, 1)], [("c.jpg", 0, 0, 3, 3, 2)])
    return ".", "", ["training.csv"]


def affectnet_npy(root):
    trees.write_npy(root, "train_set", {0: np.array("3"), 1: np.array([4])})
    return ".", "", ["train_set/annotations/0_exp.npy", "train_set/annotations/1_exp.npy"]


def affectnet_yolo(root):
    trees.write_yolo(root, {"train/a": ["3 0.5 0.5 0.5 0.5", "1 0.2 0.2 0.1 0.1"], "test/b": ["4 0.5 0.5 1 1"]})
    trees.text(root / "data.yaml", f"names: {trees.YOLO_NAMES}")
    return ".", "", ["train/labels/a.txt", "data.yaml"]


def expw(root):
    trees.picture(root / "origin" / "a.jpg", (20, 16))
    trees.text(root / "label.lst", "a.jpg 0 2 3 9 7 60.5 3", "a.jpg 1 0 10 20 16 12 6")
    return ".", "", ["label.lst"]


def ckplus(root):
    trees.write_ckplus(root, {"S005/001": (3, 3), "S010/002": (2, 5)})
    return ".", "", ["Emotion/S005/001/S005_001_00000003_emotion.txt"]


ADAPTERS = {make.__name__: make for make in (
    fer2013, ferplus, rafdb, kaggle_rafdb, affectnet, affectnet_npy, affectnet_yolo, expw, ckplus
)}  # fmt: skip


def rows_of(root):
    """What a corpus lists, decoded where it can be; errors as their texts."""
    rows = []
    for source, row in reader.read_rows(root, CLASSES):
        if isinstance(row, CheckError):
            rows.append((source, "error", str(row)))
            continue
        rows.append((source, type(row).__name__, row.path))
        if isinstance(row, sources.Record):
            try:
                pixels = sources.decode(root, row)
                assert pixels.dtype == np.uint8 and pixels.shape[2] == 3 and pixels.size
            except CheckError as error:
                rows.append((source, "error", str(error)))
    survey.survey(root, CLASSES)
    return rows


def listed_well(rows):
    for _, kind, path in rows:
        assert kind == "error" or (path and "\n" not in path and ".." not in path.split("/") and path[0] != "/")


def corpus(make):
    def case(root):
        path, options, files = make(root)
        adapter = "rafdb" if "rafdb" in make.__name__ else make.__name__
        options = f", options: {options}" if options else ""
        trees.text(root / "corpus.yaml", f"sources: [{{name: s, adapter: {adapter}, path: {path}{options}}}]")
        return Case(root, lambda: rows_of(root), files, listed_well)

    return case


def corpus_yaml(root):
    corpus(rafdb)(root)
    trees.text(root / "subjects.csv", "path,subject", "Image/aligned/train_00001_aligned.jpg,s1")
    (root / "corpus.yaml").write_text((root / "corpus.yaml").read_text() + "subjects: subjects.csv\n")

    def read():
        return rows_of(root), reader.read_subjects(root)

    return Case(root, read, ["corpus.yaml", "subjects.csv"], lambda found: listed_well(found[0]))


def index_files(root):
    make_index(root / "a.csv", {"train": 9, "val": 4, "calib": 4, "test": 4}, CLASSES[:3])
    return root / "a.csv"


def guarded_index(root):
    file = index_files(root)
    return Case(root, lambda: index.read(file).rows.to_dict("records"), ["a.csv"])


def index_with_its_digest_made_anew(root):
    file = index_files(root)

    def agree():
        try:
            description = read_json(root / "a.json")
        except FerdistillError:
            return
        write_json(root / "a.json", description | {"digest": sha256_file(file)})

    def read():
        found = index.read(file)
        return found.rows.to_dict("records"), found.digest, [found.positions(split).tolist() for split in index.SPLITS]

    def well_formed(found):
        rows, digest, positions = found
        assert isinstance(digest, str) and sum(map(len, positions)) == len(rows)
        assert all(set(index.COLUMNS) <= set(row) and row["label"] in CLASSES[:3] for row in rows)

    return Case(root, read, ["a.csv", "a.json"], well_formed, agree)


def packed_images(root):
    found = index.read(index_files(root))
    pack(root / "a", found, np.zeros((len(found.rows), 4, 4, 1), np.uint8))

    def well_formed(shape):
        assert len(shape) == 4 and shape[0] == len(found.rows)

    return Case(root, lambda: images.load(root / "a", found).shape, ["a/images.npy", "a/manifest.json"], well_formed)


def pictures(root):
    drawn = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    for name, options in (
        ("a.jpg", {"exif": exif}), ("a.png", {"exif": exif}), ("a.tif", {"compression": "tiff_lzw"}), ("a.bmp", {})
    ):  # fmt: skip
        drawn.save(root / name, **options)
    drawn.quantize(16).save(root / "palette.png", transparency=3)
    Image.fromarray(np.arange(99, dtype=np.uint16).reshape(9, 11) * 600).save(root / "grey16.png")
    names = ["a.jpg", "a.png", "a.tif", "a.bmp", "palette.png", "grey16.png"]

    def read():
        found = []
        for name in names:
            try:
                assert image_files.image_size(root, name)
                pixels = image_files.read_image(root, name)
                found.append((pixels.dtype == np.uint8, pixels.ndim, pixels.shape[2], pixels.tobytes()))
            except FerdistillError as error:
                assert error.what and error.where
                found.append(str(error))
        return found

    def well_formed(found):
        assert all(isinstance(one, str) or one[:3] == (True, 3, 3) for one in found)

    return Case(root, read, names, well_formed)


CASES = {
    "corpus.yaml": corpus_yaml,
    **{name: corpus(make) for name, make in ADAPTERS.items()},
    "index": guarded_index,
    "index, digest anew": index_with_its_digest_made_anew,
    "packed images": packed_images,
    "images": pictures,
}


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", CASES)
def test_a_spoilt_file_is_read_right_or_refused(name, examples, tmp_path):
    (tmp_path / "root").mkdir()
    attack(CASES[name](tmp_path / "root"), examples)


def test_what_is_no_image_by_its_bytes_is_not_opened_whatever_its_name(tmp_path):
    """Pillow hands PostScript to Ghostscript, a program."""
    drawn = Image.new("RGB", (8, 8))
    for kind in ("EPS", "GIF", "PPM"):
        drawn.save(tmp_path / "a.png", format=kind)
        with watched(tmp_path), pytest.raises(CheckError, match="not an image"):
            image_files.read_image(tmp_path, "a.png")


def test_paths_that_lead_nowhere_or_never_end_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "out.png").symlink_to("/etc/passwd")
    for name in ("pipe.png", "loop.png", "out.png", "a\0b.png", "a" * 5000, "\udcff.png", "."):
        with watched(tmp_path / "x"), pytest.raises(CheckError):
            image_files.read_image(tmp_path, name)


def test_a_list_that_is_a_link_out_of_the_corpus_or_a_pipe_is_not_opened(tmp_path):
    root = tmp_path / "root"
    corpus(rafdb)(root)
    listing = root / "EmoLabel" / "list_patition_label.txt"
    (tmp_path / "secret.txt").write_text("the line of a secret")
    listing.unlink()
    listing.symlink_to(tmp_path / "secret.txt")
    with pytest.raises(CheckError, match="leaves the corpus directory"):
        rows_of(root)
    listing.unlink()
    os.mkfifo(listing)
    with pytest.raises(CheckError, match="neither a file nor a folder"):
        rows_of(root)
    listing.unlink()
    (root / "EmoLabel").rmdir()
    (root / "EmoLabel").symlink_to(tmp_path)
    with pytest.raises(CheckError, match="leaves the corpus directory"):
        rows_of(root)


@pytest.mark.parametrize("name", ["a\nb.jpg", "a\0b.jpg", "a\u2028b.jpg"])
def test_a_listed_name_that_no_table_can_hold_is_refused(tmp_path, name):
    """A line feed in a name would let two lists of paths have one digest."""
    trees.text(tmp_path / "training.csv", trees.AFFECTNET, f'"{name}",0,0,3,3,1;2;3,1,-2,-2')
    trees.text(tmp_path / "validation.csv", trees.AFFECTNET)
    _, _, errors = trees.read("affectnet", tmp_path, ".")
    trees.one_error(errors, "a listed path leaves its folder, or is not POSIX", "data row 0")


@pytest.mark.parametrize("content", NPYS)
def test_label_files_and_packed_images_that_are_no_arrays_are_refused(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    affectnet_npy(tmp_path)
    (tmp_path / "train_set" / "annotations" / "0_exp.npy").write_bytes(content)
    known = index.read(index_files(tmp_path))
    pack(tmp_path / "a", known, np.zeros((len(known.rows), 4, 4, 1), np.uint8))
    (tmp_path / "a" / "images.npy").write_bytes(content)
    with watched(tmp_path / "x"):
        _, _, errors = trees.read("affectnet_npy", tmp_path, ".")
        trees.one_error(errors, "a label cannot be read", "0_exp.npy")
        with pytest.raises(CheckError, match=r"images\.npy"):
            images.load(tmp_path / "a", known)


@pytest.mark.parametrize(
    "content", [b"path\na\n", b"path,subject\na\n", b"path,subject\n\xff,s\n", b'path,subject\n"a', b""]
)
def test_a_table_of_subjects_that_is_none_is_refused(tmp_path, content):
    corpus(rafdb)(tmp_path)
    (tmp_path / "corpus.yaml").write_text((tmp_path / "corpus.yaml").read_text() + "subjects: s.csv\n")
    (tmp_path / "s.csv").write_bytes(content)
    with pytest.raises(CheckError, match=r"s\.csv"):
        reader.read_subjects(tmp_path)


def test_an_image_that_unfolds_to_more_than_its_limit_is_refused_in_bounded_memory(tmp_path):
    for name, size in (("over.png", (8_000, 8_000)), ("most.png", (7_000, 7_000))):
        Image.new("L", size).save(tmp_path / name, compress_level=1)
    code = """
from pathlib import Path
from ferdistill import image_files
from ferdistill.errors import CheckError
for name in ("over.png", "most.png"):
    try:
        print(image_files.read_image(Path("."), name).shape)
    except CheckError as error:
        print(error.what)
"""
    assert limited(code, tmp_path, 2).splitlines() == ["an image of 8000 x 8000 pixels", "(7000, 7000, 3)"]


def test_a_table_of_subjects_that_is_a_link_out_of_the_corpus_is_refused_whatever_its_name(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    corpus(rafdb)(root)
    (tmp_path / "outside.csv").write_text("path,subject\na,secret\n")
    (root / "subjects.png").symlink_to("../outside.csv")
    (root / "corpus.yaml").write_text((root / "corpus.yaml").read_text() + "subjects: subjects.png\n")
    with pytest.raises(CheckError, match="a link that leaves the corpus directory"):
        reader.read_subjects(root)
