"""Images inside tars and Parquet tables: read where they lie, by the same rules as files."""

import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from typer.testing import CliRunner

from conftest import THREE, face
from ferdistill.cli import cli
from ferdistill.data import index, packing, sources
from ferdistill.data.build import build
from ferdistill.data.memo import memo
from ferdistill.data.reader import map_images, read_rows
from ferdistill.data.sources import Record
from ferdistill.errors import CheckError
from ferdistill.params import ImageParams
from support.corpora import SETTINGS, png, read, tar_member, write_parquet, write_tar
from support.images import unpack
from support.repository import ROOT

COUNT = 90


def write_both(root, kind):
    parts = {"train": range(60), "validation": range(60, 75), "test": range(75, COUNT)}
    for part, numbers in parts.items():
        if kind == "parquet":
            write_parquet(root / f"mine/data/{part}-00000-of-00001.parquet", numbers)
        else:
            write_tar(root / f"mine/data/{part}-000000.tar", numbers)


@pytest.mark.parametrize("kind", ["parquet", "webdataset"])
def test_described_indexed_and_packed_without_unpacking(tmp_path, monkeypatch, kind):
    monkeypatch.chdir(tmp_path)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    raw |= {"classes": THREE, "corpus": "x"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    root = tmp_path / "data/raw/x"
    write_both(root, kind)
    said = CliRunner().invoke(cli, ["corpus", "describe", "data/raw/x", "--write"])
    assert said.exit_code == 0 and kind in said.output, said.output
    (source,) = yaml.safe_load((root / "corpus.yaml").read_text())["sources"]
    assert source["adapter"] == kind and source["path"] == "mine/data"

    with memo(tmp_path / "memo") as answers:
        rows = build(root, THREE, SETTINGS, 1, answers).rows
        packing.pack(index.Index(rows, {}), root, tmp_path / "i", THREE, ImageParams(size=48, channels=1), answers)
        again = build(root, THREE, SETTINGS, 1, answers).rows
    assert again.equals(rows) and len(rows) == COUNT
    packed = unpack(tmp_path / "i", rows)
    first = {"train": 0, "val": 60, "test": 75}
    for row, (path, label, official) in enumerate(rows[["path", "label", "official_split"]].to_numpy()):
        where = path.partition("#")[2]
        number = int(where) + first[official] if kind == "parquet" else int(where[2:8])
        assert label == THREE[number % 3]
        np.testing.assert_array_equal(packed[row, ..., 0], face(number))


def test_a_json_label_and_a_subject(tmp_path):
    write_tar(tmp_path / "x.tar", range(6), "json")
    records, drops, errors = read("webdataset", tmp_path, "x.tar", THREE, subject="who")
    assert not drops and not errors
    assert [(r.path, r.label, r.subject) for r in records[:4]] == [
        (f"x.tar#a/{number:06d}.png", THREE[number % 3], str(number // 3)) for number in range(4)
    ]
    np.testing.assert_array_equal(sources.decode(tmp_path, records[5])[..., 0], face(5))


def test_columns_of_other_names_and_labels_as_text(tmp_path):
    write_parquet(tmp_path / "x.parquet", range(9), label=lambda code: THREE[code], named=False)
    table = pq.read_table(tmp_path / "x.parquet").rename_columns(["img", "kind"])
    pq.write_table(table.append_column("part", [["train", "test", None] * 3]), tmp_path / "x.parquet")
    records, _, errors = read("parquet", tmp_path, "x.parquet", THREE, image="img", label="kind", split="part")
    assert not errors and [r.label for r in records] == THREE * 3
    assert [r.split for r in records[:3]] == ["train", "test", None]


def test_what_has_no_label_is_dropped(tmp_path):
    write_parquet(tmp_path / "x.parquet", range(6), label=lambda code: code - 1)
    records, drops, _ = read("parquet", tmp_path, "x.parquet", THREE)
    assert len(records) == 4 and {d.reason for d in drops} == {"unlabelled"}
    with tarfile.open(tmp_path / "x.tar", "w:") as archive:
        tar_member(archive, "1.png", png(1))
        tar_member(archive, "2.txt", b"hello")
        tar_member(archive, "3.png", png(3))
        tar_member(archive, "3.cls", b"0")
    records, drops, errors = read("webdataset", tmp_path, "x.tar", THREE)
    assert [r.label for r in records] == ["0"] or records == [], "codes need a map"
    assert {d.path: d.reason for d in drops}["x.tar#1.png"] == "unlabelled" and not errors


def spoil_tar(file, kind):
    content = file.read_bytes()
    if kind == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif kind == "cut at a file's end":
        with tarfile.open(file) as archive:
            file.write_bytes(content[: archive.getmembers()[4].offset])
    elif kind == "two in one":
        file.write_bytes(content * 2)
    elif kind == "compressed":
        import gzip

        file.write_bytes(gzip.compress(content))
    elif kind == "header":
        file.write_bytes(content[:3000].replace(b"ustar", b"xxxxx").replace(b"0", b"9") + content[3000:])
    else:
        file.write_bytes(b"")


@pytest.mark.parametrize("kind", ["cut", "cut at a file's end", "two in one", "compressed", "header", "empty"])
def test_a_damaged_tar_is_refused_by_name(tmp_path, kind):
    write_tar(tmp_path / "x.tar", range(6))
    spoil_tar(tmp_path / "x.tar", kind)
    with pytest.raises(CheckError) as error:
        read("webdataset", tmp_path, "x.tar", THREE)
    assert "x.tar" in error.value.where and error.value.hint


@pytest.mark.parametrize("kind", ["schema", "types", "cut", "text"])
def test_another_parquet_is_refused_by_name(tmp_path, kind):
    file = tmp_path / "x.parquet"
    write_parquet(file, range(6))
    if kind == "schema":
        pq.write_table(pa.table({"picture": [b"x"], "label": [1]}), file)
    elif kind == "types":
        pq.write_table(pa.table({"image": ["x"], "label": [1]}), file)
    else:
        file.write_bytes(b"hello" if kind == "text" else file.read_bytes()[:-20])
    with pytest.raises(CheckError) as error:
        read("parquet", tmp_path, "x.parquet", THREE)
    assert "x.parquet" in error.value.where
    assert kind != "schema" or "found picture, label" in error.value.expected


def test_rows_that_cannot_be_read_are_named(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w:") as archive:
        for name in ("../out.png", "../out.cls", "b.png", "b.jpg", "b.cls", "c.png", "c.json", "d.png", "d.cls"):
            tar_member(archive, name, b"\xff{" if name.endswith((".json", "d.cls")) else b"0")
        link = tarfile.TarInfo("e.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        tar_member(archive, "e.cls", b"0")
    records, _, errors = read("webdataset", tmp_path, "x.tar", THREE)
    assert not records and len(errors) == 5
    assert all("x.tar" in error.where for error in errors)

    write_parquet(tmp_path / "x.parquet", range(6), label=lambda code: code + 2)
    _, _, errors = read("parquet", tmp_path, "x.parquet", THREE)
    assert len(errors) == 4 and "row 1, column label" in errors[0].where and "0 to 2" in errors[0].expected


def test_a_row_without_bytes_is_named(tmp_path):
    pq.write_table(pa.table({"image": [{"bytes": b"", "path": "/etc/passwd"}], "label": ["a"]}), tmp_path / "x.parquet")
    (record,), _, _ = read("parquet", tmp_path, "x.parquet", ["a", "b"])
    with pytest.raises(CheckError, match="without an image"):
        sources.decode(tmp_path, record)


def test_a_row_group_that_is_too_large_is_refused(tmp_path, monkeypatch):
    from ferdistill.data import containers

    monkeypatch.setattr(containers, "MAX_GROUP", 100)
    write_parquet(tmp_path / "y.parquet", range(6))
    records, _, _ = read("parquet", tmp_path, "y.parquet", THREE)
    with pytest.raises(CheckError, match="a row group of"):
        sources.decode(tmp_path, records[0])


def test_worker_processes_read_them_too(tmp_path):
    write_both(tmp_path, "parquet")
    source = {"name": "s", "adapter": "parquet", "path": "mine/data"}
    (tmp_path / "corpus.yaml").write_text(yaml.safe_dump({"sources": [source]}))
    records = [row for _, row in read_rows(tmp_path, THREE) if isinstance(row, Record)]
    for workers in (1, 2):
        assert list(map_images(np.shape, tmp_path, records, "", workers)) == [(48, 48, 3)] * COUNT
