"""Hostile soft labels: our own stores, what other scripts left behind, and targets; see `support.hostile`."""

import io
import json
import re
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from conftest import CLASSES, make_index
from ferdistill.errors import CheckError, FerdistillError
from ferdistill.files import read_json, sha256_file, write_json
from ferdistill.softlabels import alignment, store
from support.hostile import EXAMPLES, NPYS, Case, attack, limited, npy_of_shape, odd_arrays, odd_columns, watched
from support.softlabels import FORMS, make_store


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return make_index(
        tmp_path_factory.mktemp("index") / "a.csv", {"train": 9, "val": 7, "calib": 7, "test": 7}, CLASSES
    )


def checked(root, index):
    """The gate's report, which must be JSON; what it let through must be finite and of the index."""
    report = alignment.check([root], index, CLASSES)
    json.dumps(report, allow_nan=False)
    return {name: report[name] for name in ("ok", "problems")}


def sound(report):
    assert report["ok"] == (not report["problems"])
    assert all(problem["kind"] and problem["hint"] for problem in report["problems"])


def own(agree):
    def case(root, index):
        make_store(root, index)

        def make_digest_anew():
            try:
                manifest = read_json(root / store.MANIFEST)
            except FerdistillError:
                return
            write_json(root / store.MANIFEST, manifest | {"table_sha256": sha256_file(root / store.TABLE)})

        files = [store.TABLE, store.MANIFEST]
        return Case(root, lambda: checked(root, index), files, sound, make_digest_anew if agree else None)

    return case


def of_others(write):
    def case(root, index):
        make_store(root.parent / "own", index)
        write(root, store.read(root.parent / "own")[0])
        files = sorted(path.name for path in root.iterdir())
        return Case(root, lambda: checked(root, index), files[:4], sound)

    return case


CASES = {
    "store": own(False),
    "store, digest anew": own(True),
    **{write.__name__.removeprefix("write_"): of_others(write) for write in FORMS},
}


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", CASES)
def test_a_spoilt_file_is_read_right_or_refused(name, examples, tmp_path, index):
    (tmp_path / "root").mkdir()
    attack(CASES[name](tmp_path / "root", index), examples)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("name", ["path", "label", "split", "logit_angry"])
@pytest.mark.parametrize("kind", odd_columns(1))
def test_odd_columns_are_refused_by_the_gate(tmp_path, index, kind, name, own):
    make_store(tmp_path, index)
    table = pq.read_table(tmp_path / store.TABLE)
    table = table.set_column(table.column_names.index(name), name, odd_columns(len(table))[kind])
    file = tmp_path / store.TABLE
    if not own:
        for path in (file, tmp_path / store.MANIFEST):
            path.unlink()
        file = tmp_path / "t.parquet"
    pq.write_table(table, file)
    with watched(tmp_path / "x"):
        try:
            assert not checked(tmp_path, index)["ok"]
        except CheckError as error:
            assert name in str(error)


@pytest.mark.parametrize("name", ["paths", "labels", "classes", "temperature", "logits"])
@pytest.mark.parametrize("kind", odd_arrays(1))
def test_odd_arrays_are_refused_by_the_gate(tmp_path, index, kind, name):
    rows = len(index.rows)
    count = {"classes": len(CLASSES), "temperature": 1}.get(name, rows)
    good = {"logits": np.ones((rows, len(CLASSES)), np.float32), "paths": index.rows["path"].to_numpy(str)}
    np.savez(tmp_path / "softlabels.npz", **(good | {name: odd_arrays(count)[kind]}))
    with watched(tmp_path / "x"), pytest.raises(CheckError, match=r"softlabels\.npz"):
        checked(tmp_path, index)


@pytest.mark.parametrize("content", NPYS)
def test_npy_files_that_claim_too_much_or_are_none_are_refused(tmp_path, index, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("npy", "npz", "entry"):
        (tmp_path / folder).mkdir()
    (tmp_path / "npy" / "logits.npy").write_bytes(content)
    (tmp_path / "npz" / "softlabels.npz").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "entry" / "softlabels.npz", "w") as archive:
        archive.writestr("logits.npy", content)
    for folder in ("npy", "npz", "entry"):
        with watched(tmp_path / "x"), pytest.raises(CheckError, match=folder):
            checked(tmp_path / folder, index)


@pytest.mark.parametrize(
    "odd",
    [
        {"paths": [["a"], ["b", "c"]]},
        {"paths": "abc"},
        {"paths": ["\ud800"] * 30},
        {"temperature": [["a"], ["b", "c"]]},
        {"temperature": 10**400},
        {"temperature": float("nan")},
        {"temperature": -1.0},
        {3: 4},
        {"logits": torch.zeros(1, 1).expand(10**6, 10**5)},
        {"logits": torch.eye(3).to_sparse()},
        {"logits": {"a": torch.eye(3)}},
    ],
)
def test_odd_entries_of_a_pt_file_are_refused(tmp_path, index, odd):
    torch.save({"logits": torch.ones(30, len(CLASSES))} | odd, tmp_path / "softlabels.pt")
    with watched(tmp_path / "x"), pytest.raises(CheckError, match=r"softlabels\.pt"):
        checked(tmp_path, index)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("provenance", ["damaged"]), ("provenance", "x"), ("splits", []), ("temperature", "1"), ("teacher", {}),
        ("classes", [1, 2]), ("checkpoint_sha256", 3),
    ],
)  # fmt: skip
def test_a_manifest_with_an_entry_of_another_kind_is_refused(tmp_path, index, entry, value):
    make_store(tmp_path, index)
    write_json(tmp_path / store.MANIFEST, read_json(tmp_path / store.MANIFEST) | {entry: value})
    with pytest.raises(CheckError, match=rf"(?s)manifest whose {entry}.*manifest\.json"):
        checked(tmp_path, index)


def test_bombs_meet_a_limit_or_the_end_of_memory_with_a_message(tmp_path, index):
    """An npz that says 5 GiB, one whose array says 3, and 8 GB of one repeated text in a Parquet file of 2 MB."""
    for name, shape, claim in (("over", (8,), 5 << 30), ("under", (3 << 27,), None)):
        (tmp_path / name).mkdir()
        with zipfile.ZipFile(tmp_path / name / "softlabels.npz", "w") as archive:
            archive.writestr("logits.npy", npy_of_shape(shape))
            archive.infolist()[0].file_size = claim or archive.infolist()[0].file_size
    (tmp_path / "rows").mkdir()
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(8000, np.int32)), pa.array(["x" * 1_000_000]))
    bomb = pa.table({"path": text, **{f"logit_{name}": np.zeros(8000) for name in CLASSES}})
    pq.write_table(bomb, tmp_path / "rows" / "t.parquet", store_schema=False, dictionary_pagesize_limit=1 << 30)
    code = """
from pathlib import Path
from ferdistill.errors import CheckError
from ferdistill.softlabels import foreign
for name in ("over", "under", "rows"):
    try:
        foreign.read_any(Path(name))
    except CheckError as error:
        print(name, error.what)
"""
    said = limited(code, tmp_path).splitlines()
    assert [line.split()[0] for line in said] == ["over", "under", "rows"] and "unfolds to" in said[0], said


def wide_csv(folder):
    (folder / "t.csv").write_text(",".join(["path,label", *(f"logit_{i}" for i in range(60_000))]) + "\n")
    return folder / "t.csv"


def wide_parquet(folder):
    pq.write_table(pa.table({"path": ["a"], **{f"logit_{i}": [0.5] for i in range(5_000)}}), folder / "t.parquet")
    return folder / "t.parquet"


def wide_npz(folder):
    np.savez_compressed(folder / "softlabels.npz", logits=np.zeros((2, 60_000), np.float16))
    return folder / "softlabels.npz"


def text_that_unfolds(folder):
    """As Python's strings, 300 million letters would be far more than the 1.2 GB that the header speaks of."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<U1", "fortran_order": False, "shape": (300_000_000,)})
    with zipfile.ZipFile(folder / "softlabels.npz", "w") as archive:
        archive.writestr("paths.npy", header.getvalue() + b"a\0\0\0" * 1000)
    return folder / "softlabels.npz"


def numbers_that_unfold(folder):
    """Runs of equal numbers take no room in a Parquet file."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1 << 26, np.int8)), pa.array([0.5]))
    pq.write_table(pa.table(dict.fromkeys(["logit_a", "logit_b", "logit_c"], column)), folder / "t.parquet")
    return folder / "t.parquet"


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (wide_csv, "60,00. columns"),
        (wide_parquet, "5,00. columns"),
        (wide_npz, "60,000 columns"),
        (text_that_unfolds, "unfolds to"),
        (numbers_that_unfold, "unfolds to"),
    ],
)
def test_too_many_columns_and_what_unfolds_to_too_much_are_refused_by_the_header(tmp_path, write, what):
    file = write(tmp_path)
    assert file.stat().st_size < 10_000_000
    code = f"""
from pathlib import Path
from ferdistill.errors import CheckError
from ferdistill.evaluation import predictions
from ferdistill.softlabels import foreign
for read, path in ((foreign.read_any, {str(tmp_path)!r}), (predictions.read, {str(file)!r})):
    try:
        read(Path(path))
    except CheckError as error:
        print(error.what)
"""
    said = limited(code, tmp_path, gigabytes=2).splitlines()
    assert len(said) == 2 and all(re.search(what, line) for line in said), said
