"""Hostile input: every reader of files that others may have written, see `support.hostile`."""

import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import CLASSES
from ferdistill import files, params, yaml_file
from ferdistill.errors import CheckError, FerdistillError, UsageError
from ferdistill.evaluation import predictions
from ferdistill.faces import server
from ferdistill.runtime.classifier import Classifier
from ferdistill.study import audit, grid, results, schema, tables
from support.bundles import write_bundle
from support.hostile import (
    EXAMPLES,
    FEW,
    NPYS,
    OUTSIDE,
    PICKLE,
    WHOLE,
    YAML_CODE,
    Case,
    attack,
    limited,
    npy_of_shape,
    odd_arrays,
    odd_columns,
    watched,
)
from support.serving import ask

ROOT = Path(__file__).parent.parent


def params_yaml(root):
    (root / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    return Case(
        root,
        lambda: params.load(root / "params.yaml").model_dump(),
        ["params.yaml"],
        lambda found: json.dumps(found, allow_nan=False),
    )


def study_yaml(root):
    (root / "study.yaml").write_bytes((ROOT / "conf" / "study.yaml").read_bytes())
    known = yaml_file.read(ROOT / "params.yaml")

    def well_formed(runs):
        assert len({run.name for run in runs}) == len(runs)
        assert all("/" not in run.name and ".." not in run.name for run in runs)

    return Case(root, lambda: grid.load(root / "study.yaml", known), ["study.yaml"], well_formed)


def scored(form):
    def case(root):
        rng = np.random.default_rng(0)
        frame = pd.DataFrame({f"logit_{name}": rng.normal(size=20) for name in CLASSES})
        frame.insert(0, "label", [CLASSES[i % 7] for i in range(20)])
        frame["split"], frame["subject"], frame["path"] = (
            "test",
            [f"s{i}" for i in range(20)],
            [f"{i}.png" for i in range(20)],
        )
        file = root / f"predictions.{form}"
        if form == "csv":
            frame.to_csv(file, index=False)
        elif form == "parquet":
            frame.to_parquet(file)
        else:
            np.savez_compressed(
                file, **{name: frame[name].to_numpy(str if name in predictions.KEYS else float) for name in frame}
            )

        def load():
            found = predictions.read(file)
            return found.logits.tolist(), found.labels.tolist(), found.classes, found.clusters.tolist()

        def well_formed(found):
            logits, labels, classes, people = found
            assert (
                np.isfinite(logits).all()
                and np.shape(logits) == (len(labels), len(classes))
                and len(people) == len(labels)
            )
            assert len(set(classes)) == len(classes) >= 2 and set(labels) <= set(range(len(classes)))

        return Case(root, load, [file.name], well_formed)

    return case


def results_csv(root):
    rows = [
        ("6E", "kd", seed, lam, 0.7 + seed / 1000, 0.7, "embedded", "x", "false")
        for seed in (1, 2, 3)
        for lam in (0.5, 0.7)
    ]
    header = ["family", "mode", "seed", "lambda", "macro_f1", "f1_happy", "scale", "index_digest", "misaligned"]
    pd.DataFrame(rows, columns=header).to_csv(root / "results.csv", index=False)

    def well_formed(found):
        assert all(0 <= row["macro_f1"] <= 1 and row["seed"] >= 0 and row["mode"] in schema.MODES for row in found)

    return Case(
        root, lambda: results.read(root / "results.csv").fillna(-1).to_dict("records"), ["results.csv"], well_formed
    )


def audited(form):
    def case(root):
        rows = [
            [f"6E kd s{n}", *(0.7 + n / 100 + k / 1000 for k in range(7)), 0.723, "70.19 – 70.76 (KD)"]
            for n in range(3)
        ]
        header = ["run", *(f"f1_{name}" for name in CLASSES), "macro_f1", "note"]
        file = root / f"table.{form}"
        if form == "csv":
            pd.DataFrame(rows, columns=header).to_csv(file, index=False)
        elif form == "md":
            lines = ["# Results", "", "| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
            file.write_text("\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]) + "\n")
        else:
            file.write_bytes((ROOT / "metrics" / "evaluation.json").read_bytes())
        return Case(root, lambda: audit.audit([file]), [file.name], lambda found: json.dumps([str(f) for f in found]))

    return case


def whole_bundle(root):
    write_bundle(root)

    def agree():
        try:
            info = files.read_json(root / "bundle.json", "files")
        except FerdistillError:
            return
        digest = files.sha256_file(root / "model.onnx")
        if isinstance(info["files"], dict) and "model.onnx" in info["files"]:
            files.write_json(root / "bundle.json", info | {"files": info["files"] | {"model.onnx": digest}})

    def load():
        found = Classifier(root, threads=1, device="cpu")
        return found.classes, found.predict(np.full((2, 8, 8, 1), 9, np.uint8)).tolist()

    def well_formed(found):
        classes, values = found
        assert len(set(classes)) == len(classes) and np.shape(values) == (2, len(classes))

    return Case(root, load, ["bundle.json", "model.onnx"], well_formed, agree)


CASES = {
    "bundle": whole_bundle,
    "params.yaml": params_yaml,
    "study.yaml": study_yaml,
    **{f"predictions.{form}": scored(form) for form in ("csv", "parquet", "npz")},
    "results.csv": results_csv,
    **{f"audit.{form}": audited(form) for form in ("csv", "md", "json")},
}


@pytest.mark.parametrize("examples", EXAMPLES)
@pytest.mark.parametrize("name", CASES)
def test_a_spoilt_file_is_read_right_or_refused(name, examples, tmp_path):
    (tmp_path / "root").mkdir()
    attack(CASES[name](tmp_path / "root"), examples)


@pytest.mark.parametrize("location", ["../secret-outside-the-root.txt", "/etc/passwd", "/dev/zero"])
def test_a_model_does_not_reach_out_of_its_bundle(tmp_path, location):
    (tmp_path / "secret-outside-the-root.txt").write_bytes(bytes(12))
    root = tmp_path / "root"
    root.mkdir()
    write_bundle(root)
    model = onnx.load(root / "model.onnx")
    weights = model.graph.initializer[0]
    weights.ClearField("raw_data")
    weights.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "12")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    (root / "model.onnx").write_bytes(model.SerializeToString())
    info = files.read_json(root / "bundle.json")
    files.write_json(root / "bundle.json", info | {"files": {"model.onnx": files.sha256_file(root / "model.onnx")}})
    with watched(root), pytest.raises(CheckError, match="cannot load the model"):
        Classifier(root, device="cpu")


@pytest.mark.parametrize("name", ["classes", "files", "image", "t_star", "thresholds", "variants"])
@pytest.mark.parametrize("value", [[], "x", 0, None, [[]], {"fp32": [3]}, {"fp32": None}, ["a", "a"], True])
def test_a_bundle_whose_description_cannot_be_one_is_refused(tmp_path, name, value):
    write_bundle(tmp_path)
    files.write_json(tmp_path / "bundle.json", files.read_json(tmp_path / "bundle.json") | {name: value})
    with watched(tmp_path / "x"), pytest.raises(CheckError, match=f"{name} cannot be so"):
        Classifier(tmp_path, device="cpu")


PATHS = st.one_of(
    st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40),
    st.lists(
        st.sampled_from(["..", "%2e%2e", ".", "", "etc", "passwd", "bundle", "%00", "%2f", "\\", "model.onnx", "~"]),
        max_size=8,
    ).map("/".join),
)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_no_path_leads_out_of_the_pages_list(examples, running):
    """`running` is the server of `test_serve`; every answer of 200 is the file of exactly that name."""

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=examples == FEW,
        suppress_health_check=list(HealthCheck),
    )
    @given(path=PATHS.map(lambda text: f"/{text}"))
    def one(path):
        answer, body = ask(running, path)
        # Python's server takes several slashes at the front for one.
        files = running.files | server.bundle_files(running.bundle)
        file = files.get("/" + path.partition("?")[0].lstrip("/"))
        if file:
            assert (answer.status, body) == (200, file.read_bytes())
        else:
            assert answer.status in (400, 404)

    one()


BASE = {"label": ["a", "b", "a"], "logit_a": [1.0, 2.0, 3.0], "logit_b": [2.0, 1.0, 0.0]}


@pytest.mark.parametrize("name", ["label", "logit_a", "split"])
@pytest.mark.parametrize("kind", odd_columns(3))
def test_predictions_in_odd_columns_are_refused(tmp_path, kind, name):
    column = odd_columns(3)[kind]
    pq.write_table(pa.table(BASE | {name: column}), tmp_path / "a.parquet")
    with watched(tmp_path):
        if (kind, name) == ("null", "split"):
            assert len(predictions.read(tmp_path / "a.parquet").labels) == 3
            return
        with pytest.raises(CheckError, match=r"a\.parquet"):
            predictions.read(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    "metadata",
    [
        b"[]",
        b'{"index_columns": [5]}',
        b'{"index_columns": [], "columns": [{"name": "label", "field_name": "label", "pandas_type": "datetimetz", '
        b'"numpy_type": "evil", "metadata": null}], "column_indexes": []}',
    ],
)
def test_what_pandas_wrote_about_a_parquet_file_is_not_believed(tmp_path, metadata):
    pq.write_table(pa.table(BASE).replace_schema_metadata({b"pandas": metadata}), tmp_path / "a.parquet")
    assert predictions.read(tmp_path / "a.parquet").classes == ["a", "b"]


@pytest.mark.parametrize("name", ["label", "logit_a", "subject", "other"])
@pytest.mark.parametrize("kind", odd_arrays(3))
def test_predictions_in_odd_arrays_are_refused(tmp_path, kind, name):
    np.savez(tmp_path / "a.npz", **(BASE | {name: odd_arrays(3)[kind]}))
    with watched(tmp_path), pytest.raises(CheckError, match=r"a\.npz"):
        predictions.read(tmp_path / "a.npz")


@pytest.mark.parametrize("content", NPYS)
def test_npy_files_that_claim_too_much_or_are_none_are_refused_as_predictions(tmp_path, content, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "npy.npz").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "entry.npz", "w") as archive:
        archive.writestr("logits.npy", content)
        archive.writestr("label", b"neither")
    for name in ("npy.npz", "entry.npz"):
        with watched(tmp_path / "x"), pytest.raises(CheckError, match=name):
            predictions.read(tmp_path / name)


@pytest.mark.parametrize("classes", [["a", "b", "b"], ["a", "b"], "a", [["a"], ["b"], ["c"]]])
def test_classes_of_an_npz_that_do_not_name_its_columns_are_refused(tmp_path, classes):
    np.savez(tmp_path / "a.npz", logits=np.eye(3), label=np.array(["a", "b", "a"]), classes=np.array(classes))
    with pytest.raises(CheckError, match=r"stands twice|classes of shape"):
        predictions.read(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0,1,1,2", "4 cells in data row 0, not 3"),
        ("0,True,1", "type bool|no finite"),
        (f"0,{'9' * 400},1", "column logit_a"),
        ("0,1e400,1", "no finite"),
    ],
)
def test_a_cell_that_is_no_number_is_not_made_one(tmp_path, row, message):
    (tmp_path / "a.csv").write_text(
        f"label,logit_0,logit_1\n{row}\n{row.replace('0,', '1,', 1)}\n".replace("logit_0", "logit_a")
    )
    with pytest.raises(CheckError, match=message):
        predictions.read(tmp_path / "a.csv")


BOMBS = """
from pathlib import Path
from ferdistill.errors import CheckError
from ferdistill.evaluation import predictions
from ferdistill.faces import server
for name in ("over.npz", "under.npz", "rows.parquet"):
    try:
        predictions.read(Path(name))
    except CheckError as error:
        print(name, error.what)
"""


def test_bombs_meet_a_limit_or_the_end_of_memory_with_a_message(tmp_path):
    """An npz that says 5 GiB, one whose array says 3, and 8 GB of one repeated text in a Parquet file of 2 MB."""
    for name, shape, claim in (("over.npz", (8,), 5 << 30), ("under.npz", (3 << 27,), None)):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("logits.npy", npy_of_shape(shape))
            archive.infolist()[0].file_size = claim or archive.infolist()[0].file_size
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(8000, np.int32)), pa.array(["x" * 1_000_000]))
    bomb = pa.table({"label": text, "logit_a": np.zeros(8000), "logit_b": np.ones(8000)})
    pq.write_table(bomb, tmp_path / "rows.parquet", store_schema=False, dictionary_pagesize_limit=1 << 30)
    assert (tmp_path / "rows.parquet").stat().st_size < 3_000_000
    said = limited(BOMBS, tmp_path).splitlines()
    assert [line.split()[0] for line in said] == ["over.npz", "under.npz", "rows.parquet"], said
    assert "unfolds to" in said[0] and "unfolds to" in said[1]


@pytest.mark.parametrize(
    "text",
    [
        "a: 2001-99-99",
        "a: !!bool x",
        "a: !!int x",
        "a: 0x_",
        "a: !!timestamp x",
        "[" * 5000,
        "a: " + "9" * 5000,
        "&a [*a]",
        "a: &a {b: *a}",
        '"\\U00110000"',
        "? [a]\n: b",
        YAML_CODE,
    ],
)
def test_yaml_that_is_none_is_one_clear_message(tmp_path, text, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(text)
    with watched(tmp_path / "x"), pytest.raises(UsageError, match=r"not valid YAML(.|\n)*a\.yaml"):
        yaml_file.read("a.yaml")


def test_yaml_of_a_few_lines_that_stands_for_more_than_memory_is_refused(tmp_path):
    for bomb in WHOLE[-2:]:
        (tmp_path / "a.yaml").write_bytes(bomb)
        with watched(tmp_path / "x"), pytest.raises(UsageError, match="stand for too much"):
            yaml_file.read(tmp_path / "a.yaml")
    (tmp_path / "a.yaml").write_text("base: &base {x: 1}\nother: {<<: *base, y: [*base, *base]}\n")
    assert yaml_file.read(tmp_path / "a.yaml")["other"] == {"x": 1, "y": [{"x": 1}, {"x": 1}]}


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "[]",
        "3",
        "{",
        '{"a": ' + "9" * 5000 + "}",
        "\xff",
        '{"b": 1}',
        '{"a": NaN}',
        '{"a": 1e400}',
        '{"a": "\\ud800"}',
    ],
)
def test_json_that_is_no_object_with_its_keys_is_refused(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(CheckError, match=r"a\.json"):
        files.read_json(tmp_path / "a.json", "a")
    with pytest.raises(CheckError):
        files.read_json(tmp_path)


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e-99999", "1e" + "9" * 5000, "9" * 400])
def test_numbers_beyond_every_float_are_no_results(number):
    assert tables.parse(number) is None


@pytest.mark.parametrize(
    "deed",
    [
        lambda root: (root / "link").read_text(),
        lambda root: pickle.loads(PICKLE),
        lambda root: os.system("true"),
        lambda root: (root / "new.txt").write_text("left behind"),
        lambda root: (root / "old.txt").unlink(),
    ],
)
def test_the_watch_over_these_tests_sees_every_forbidden_deed(tmp_path, monkeypatch, deed):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / OUTSIDE).write_text("no reader opens this")
    (root / "link").symlink_to(tmp_path / OUTSIDE)
    (root / "old.txt").write_text("there before")
    with pytest.raises(AssertionError), watched(root):
        deed(root)
