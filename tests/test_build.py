"""What the index keeps, leaves out and says of it: policies, quarantine, leaks, and the same bytes everywhere."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from conftest import THREE, face, write_fer2013
from ferdistill.data import diff, index
from ferdistill.data.build import build, write_index
from ferdistill.data.reader import read_rows
from ferdistill.data.sheets import write_sheets
from ferdistill.data.verify import verify
from ferdistill.errors import CheckError, UsageError
from ferdistill.image_files import read_image
from support.corpora import SETTINGS, make


def copy_face(corpus, seed, target, change=lambda pixels: pixels, **options):
    file = corpus / "folders" / target
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(change(face(seed))).save(file, **options)
    return f"folders/{target}"


def listed(corpus):
    return [row for _, row in read_rows(corpus, THREE)]


def test_near_and_mirrored_copies_go_and_are_named_by_kind(corpus):
    near = copy_face(corpus, 3, "train/angry/near.jpg", quality=75)
    mirrored = copy_face(corpus, 4, "train/angry/mirrored.png", lambda pixels: pixels[:, ::-1])
    both = copy_face(
        corpus, 5, "train/angry/both.jpg", lambda pixels: np.kron(pixels[:, ::-1], np.ones((2, 2), np.uint8))
    )
    rows, report = make(corpus)
    found = {copy["dropped"]: (copy["kept"], copy["kind"]) for copy in report["duplicates"]}
    assert found == {
        near: ("fer2013/fer2013.csv#3", "near"),
        mirrored: ("fer2013/fer2013.csv#4", "mirrored"),
        both: ("fer2013/fer2013.csv#5", "mirrored"),
    }
    assert not set(found) & set(rows["path"])


def test_every_row_is_in_the_index_or_listed_with_its_reason(corpus):
    copy_face(corpus, 1, "train/angry/exact.png")
    copy_face(corpus, 2, "train/neutral/conflict.png")
    (corpus / "folders/train/angry/broken.png").write_text("no picture")
    rows, report = make(corpus, classes=["angry", "neutral"], unreadable="quarantine")
    gone = report["left_out_rows"]
    assert len(rows) + len(gone) == report["rows_listed"] == len(listed(corpus))
    assert not set(gone["path"]) & set(rows["path"])
    assert set(gone["step"]) == {"dropped", "duplicate", "conflict", "quarantined"}
    assert set(gone.loc[gone["step"] == "dropped", "reason"]) == {"happy", "happiness"}
    assert (gone["reason"] != "").all()


def test_where_nothing_is_left_the_steps_and_reasons_are_named(corpus):
    table = corpus / "rafdb/EmoLabel/list_patition_label.txt"
    rows = [line.split()[0] for line in table.read_text().splitlines()]
    table.write_text("".join(f"{name} 9\n" for name in rows))
    (corpus / "corpus.yaml").write_text("sources:\n  - {name: rafdb, adapter: rafdb, path: rafdb}\n")
    message = r"(?s)of 6 rows none is left.*6 quarantined: unknown label '9'.*corpus\.yaml which class"
    with pytest.raises(CheckError, match=message):
        make(corpus, unreadable="quarantine")


def test_strict_stops_at_what_quarantine_sets_aside(corpus):
    (corpus / "folders/train/angry/broken.png").write_text("no picture")
    lines = (corpus / "rafdb/EmoLabel/list_patition_label.txt").read_text()
    (corpus / "rafdb/EmoLabel/list_patition_label.txt").write_text(lines + "train_00099.jpg 9\n")
    named = r"(?s)2 rows cannot be read.*unknown label '9'.*line 7.*not an image.*broken\.png.*unreadable: quarantine"
    with pytest.raises(CheckError, match=named):
        make(corpus)
    rows, report = make(corpus, unreadable="quarantine")
    gone = report["left_out_rows"].set_index("step")["reason"]["quarantined"]
    assert len(gone) == 2
    assert any("broken.png" in reason and "not an image" in reason for reason in gone)
    assert any("unknown label '9'" in reason and "line 7" in reason for reason in gone)
    assert len(rows) == len(make_without(corpus)) > 0


def make_without(corpus):
    (corpus / "folders/train/angry/broken.png").unlink()
    file = corpus / "rafdb/EmoLabel/list_patition_label.txt"
    file.write_text("\n".join(file.read_text().splitlines()[:-1]) + "\n")
    return make(corpus)[0]


@pytest.mark.parametrize(
    ("policy", "labels", "kept"),
    [
        ("drop", ["happy"], None),
        ("precedence", ["happy", "happy"], "angry"),
        ("majority", ["happy"], None),
        ("majority", ["happy", "happy"], "happy"),
        ("majority", ["happy", "angry"], "angry"),
    ],
)
def test_copies_that_disagree_follow_the_policy_and_are_listed(corpus, policy, labels, kept):
    copies = [copy_face(corpus, 2, f"train/{label}/copy{i}.png") for i, label in enumerate(labels)]
    rows, report = make(corpus, conflicts=policy)
    (conflict,) = report["conflicts"]
    assert conflict["kept"] == "fer2013/fer2013.csv#2" and conflict["label"] == kept
    assert set(conflict["labels"]) == {"fer2013/fer2013.csv#2", *copies}
    found = dict(zip(rows["path"], rows["label"], strict=True))
    assert found.get("fer2013/fer2013.csv#2") == kept and not set(copies) & set(found)
    gone = report["left_out_rows"].set_index("path")["reason"]
    if policy == "drop":
        assert gone["fer2013/fer2013.csv#2"] == f"labelled angry, copies happy {copies[0]}"
        assert gone[copies[0]] == "labelled happy, copies angry fer2013/fer2013.csv#2"


def test_copies_tie_their_subjects_together(corpus):
    """The training image of p1 is a copy of one of p2, who is in the official test part: p1's other images leak."""
    (corpus / "subjects.csv").write_text(
        "path,subject\nfer2013/fer2013.csv#0,p1\nfer2013/fer2013.csv#1,p1\nfer2013/fer2013.csv#40,p2\n"
        "folders/train/angry/copy.png,p2\n"
    )
    copy_face(corpus, 0, "train/angry/copy.png")
    with (corpus / "corpus.yaml").open("a") as file:
        file.write("subjects: subjects.csv\n")
    rows, report = make(corpus)
    assert {leak["dropped"] for leak in report["leaks"]} == {"fer2013/fer2013.csv#0", "fer2013/fer2013.csv#1"}
    assert dict(zip(rows["path"], rows["group"], strict=True))["fer2013/fer2013.csv#40"] == "p1"


def test_a_source_without_official_parts_fills_every_split(tmp_path):
    root = tmp_path / "mine"
    for number in range(120):
        file = root / THREE[number % 3] / f"{number}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face(number)).save(file)
    with pytest.raises(UsageError, match=r"no description(.|\n)*ferdistill corpus describe .*mine --write"):
        make(root)
    (root / "corpus.yaml").write_text("sources: [{name: f, adapter: folders, path: .}]\n")
    with pytest.raises(UsageError, match=r"no corpus `other`(.|\n)*as mine(.|\n)*commit .*other\.dvc"):
        make(tmp_path / "other")
    rows, report = make(root)
    assert report["rows_listed"] == 120  # corpus.yaml, which lies in the source, is none of its rows
    assert set(rows["split"]) == {"train", "val", "calib", "test"}
    assert (rows["official_split"] == "").all()


SCRIPT = """
import sys
from pathlib import Path
from ferdistill.data.build import build, write_index as write
from support.corpora import SETTINGS
from conftest import THREE
if __name__ == "__main__":
    if sys.argv[3] == "shuffled":
        import os, random
        scan, listdir = os.scandir, os.listdir
        class Shuffled:
            def __init__(self, found): self.found = iter(found)
            def __iter__(self): return self
            def __next__(self): return next(self.found)
            def __enter__(self): return self
            def __exit__(self, *_): pass
            def close(self): pass
        def mix(found): random.Random(5).shuffle(found); return found
        os.listdir = lambda *a: mix(listdir(*a))
        os.scandir = lambda *a: Shuffled(mix(list(scan(*a))))
    built = build(Path(sys.argv[1]), THREE, SETTINGS, int(sys.argv[4]))
    write(Path(sys.argv[2]), built.rows, THREE, "mine")
"""


def test_the_index_has_the_same_bytes_in_any_order_place_locale_and_number_of_workers(corpus, tmp_path):
    for name in ("Z", "a", "é", "b c", "10", "9"):
        copy_face(corpus, sum(map(ord, name)) + 700, f"train/angry/{name}.png")
    script = tmp_path / "build.py"
    script.write_text(SCRIPT)
    made = []
    for number, (locale, order, workers, cwd) in enumerate(
        [("C", "plain", 1, corpus), ("C.UTF-8", "shuffled", 2, tmp_path), ("POSIX", "shuffled", 1, "/")]
    ):
        out = tmp_path / f"i{number}.csv"
        env = os.environ | {"LC_ALL": locale, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": str(number)}
        command = [sys.executable, str(script), str(corpus), str(out), order, str(workers)]
        subprocess.run(command, check=True, cwd=cwd, env=env)
        made.append(out.read_bytes())
    assert made[0] == made[1] == made[2]


@pytest.fixture
def indexed(corpus, tmp_path):
    csv = tmp_path / "i" / "x.csv"
    return corpus, csv, index_of(corpus, csv)


def index_of(corpus, csv):
    built = build(corpus, THREE, SETTINGS, 1)
    write_index(csv, built.rows, THREE, "mine")
    csv.with_suffix(".report.json").write_text(json.dumps(built.report))
    return index.read(csv)


def test_verify_finds_what_changed_under_an_index(indexed):
    corpus, csv, read = indexed
    assert verify(read, csv, corpus, THREE) == {"ok": True, "checked": len(read.rows), "counts": {}, "problems": []}
    (corpus / "folders/test/neutral/a b é.png").unlink()
    copy_face(corpus, 4321, "train/angry/a b é.png")
    (corpus / "folders/train/happiness/a b é.png").write_text("no picture")
    rows = [(4 if code == 0 and i == 7 else code, pixels, use) for i, (code, pixels, use) in enumerate(fer_rows())]
    write_fer2013(corpus / "fer2013/fer2013.csv", rows)
    report = verify(read, csv, corpus, THREE)
    # A row relabelled sad is no longer one of the three classes, so its source lists no face there.
    found = {(problem["kind"], problem["path"]) for problem in report["problems"]}
    assert found == {
        ("missing", "folders/test/neutral/a b é.png"),
        ("pixels", "folders/train/angry/a b é.png"),
        ("unreadable", "folders/train/happiness/a b é.png"),
        ("missing", "fer2013/fer2013.csv#7"),
    }
    rows[8] = (3, *rows[8][1:])
    write_fer2013(corpus / "fer2013/fer2013.csv", rows)
    problems = verify(read, csv, corpus, THREE)["problems"]
    (label,) = [problem for problem in problems if problem["kind"] == "label"]
    assert (label["path"], label["expected"], label["found"]) == ("fer2013/fer2013.csv#8", "angry", "happy")


def fer_rows():
    usage = ["Training"] * 30 + ["PublicTest"] * 5 + ["PrivateTest"] * 10
    return [(code, face(100 * code + i), use) for code in (0, 3, 6) for i, use in enumerate(usage)]


def test_diff_says_what_came_went_and_changed(indexed, tmp_path):
    corpus, _, before = indexed
    assert diff.sentence(diff.diff(before.rows, before.rows)).startswith("No image changed")
    (corpus / "folders/train/angry/a b é.png").rename(corpus / "folders/train/angry/renamed.png")
    came = copy_face(corpus, 999, "train/happy/new.png")
    (corpus / "folders/test/neutral/a b é.png").unlink()
    rows = fer_rows()
    rows[1] = (6, *rows[1][1:])
    rows[2] = (0, face(31337), "Training")
    write_fer2013(corpus / "fer2013/fer2013.csv", rows)
    after = index_of(corpus, tmp_path / "j" / "x.csv")
    changes = diff.diff(before.rows, after.rows)
    assert [change["path"] for change in changes["came"]] == [came]
    assert [change["path"] for change in changes["went"]] == ["folders/test/neutral/a b é.png"]
    assert changes["renamed"] == [
        {"before": "folders/train/angry/a b é.png", "after": "folders/train/angry/renamed.png"}
    ]
    assert changes["relabelled"] == [{"path": "fer2013/fer2013.csv#1", "before": "angry", "after": "neutral"}]
    assert changes["redrawn"] == ["fer2013/fer2013.csv#2"]
    sentence = diff.sentence(changes)
    assert "1 came, 1 went, 1 were renamed, 1 changed label" in sentence
    total = changes["images"]
    assert total["after"]["all"] == total["before"]["all"] + len(changes["came"]) - len(changes["went"])


def test_diff_refuses_a_version_that_is_not_there(indexed):
    with pytest.raises(UsageError, match="no index"):
        diff.read_rows_at("nowhere.csv", indexed[1])
    with pytest.raises(UsageError, match="no index CSV"):
        diff.read_rows_at(__file__, indexed[1])


def test_sheets_are_drawn_and_hold_the_groups(corpus, tmp_path):
    copy_face(corpus, 1, "train/angry/exact.png")
    copy_face(corpus, 2, "train/neutral/conflict.png")
    csv = tmp_path / "i" / "x.csv"
    read = index_of(corpus, csv)
    report = json.loads(csv.with_suffix(".report.json").read_text())
    write_sheets(tmp_path / "sheets", read, report, corpus, THREE)
    with Image.open(tmp_path / "sheets/duplicates.png") as sheet:
        assert sheet.height > 2 * 72 and np.asarray(sheet).std() > 20
    with Image.open(tmp_path / "sheets/classes.png") as sheet:
        assert sheet.width > 16 * 72
    once = (tmp_path / "sheets/duplicates.png").read_bytes()
    write_sheets(tmp_path / "sheets", read, report, corpus, THREE)
    assert (tmp_path / "sheets/duplicates.png").read_bytes() == once


def save_16_bit(path):
    Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1040).save(path)
    return np.rint(np.arange(64).reshape(8, 8) * 1040 / 257)


def save_palette(path):
    picture = Image.fromarray(face(3)).convert("P")
    picture.save(path)
    return np.asarray(picture.convert("L"))


def save_turned(path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    Image.fromarray(face(4)).save(path, exif=exif)
    return np.rot90(face(4), -1)


def save_with_alpha(path):
    Image.fromarray(np.dstack([face(5)] * 3 + [np.full((48, 48), 7, np.uint8)])).save(path)
    return face(5)


@pytest.mark.parametrize("save", [save_16_bit, save_palette, save_turned, save_with_alpha])
def test_unusual_images_are_decoded_as_people_see_them(tmp_path, save):
    expected = save(tmp_path / "x.png")
    pixels = read_image(tmp_path, "x.png")
    assert pixels.dtype == np.uint8 and pixels.shape == (*expected.shape, 3)
    np.testing.assert_array_equal(pixels[..., 0], expected)


def test_a_decompression_bomb_and_32_bit_numbers_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (10_000, 6_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 20_000
    with pytest.raises(CheckError, match=r"(?s)10000 x 6000 pixels.*bomb\.png"):
        read_image(tmp_path, "bomb.png")
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(CheckError, match="32-bit"):
        read_image(tmp_path, "float.tif")


def test_a_source_named_twice_lists_its_faces_twice_and_is_refused(corpus):
    text = (corpus / "corpus.yaml").read_text()
    (corpus / "corpus.yaml").write_text(text + "  - {name: again, adapter: folders, path: folders}\n")
    with pytest.raises(CheckError, match=r"(?s)listed twice.*`folders` and `again`"):
        make(corpus)
