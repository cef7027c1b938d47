"""Licences of sources: what corpus.yaml may say, which binds most; and Croissant metadata of an index."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from conftest import THREE
from ferdistill import params, workspace
from ferdistill.cli import cli
from ferdistill.data import croissant, index, licences
from ferdistill.data.build import build, write_index
from ferdistill.data.description import read_description, told_licences
from ferdistill.errors import UsageError
from ferdistill.files import write_json

ROOT = Path(__file__).parents[1]
PARAMS = params.load(ROOT / "params.yaml")


def licensed(corpus: Path, **of: dict[str, str]) -> None:
    file = corpus / "corpus.yaml"
    described = yaml.safe_load(file.read_text())
    for source in described["sources"]:
        source |= of.get(source["name"], {})
    file.write_text(yaml.safe_dump(described))


def test_the_strictest_is_by_what_it_binds_to_and_unknown_is_the_strictest() -> None:
    rising = ["CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-ND-4.0", "CC-BY-NC-4.0", "LicenseRef-Own", "unknown"]
    assert [licences.rank(name) for name in rising] == list(range(7))
    for place, name in enumerate(rising):
        assert licences.strictest([*rising[:place], name, "MIT" if place else name]) == name
    assert licences.rank("CC-BY-NC-SA-3.0") == licences.rank("CC-BY-NC-ND-4.0") == licences.rank("CC-BY-NC-4.0")
    assert licences.rank("GPL-3.0-only") == licences.rank("AGPL-3.0-only") == licences.rank("ODbL-1.0")
    assert licences.rank("EUPL-1.2") == licences.rank("LicenseRef-research-only")  # another's terms, not ranked here
    assert licences.strictest(["MIT", "Apache-2.0"]) == "Apache-2.0"


def test_a_corpus_says_the_licence_of_each_source(corpus: Path) -> None:
    before = build(corpus, THREE, PARAMS.index).rows
    assert told_licences(corpus)["strictest"] == "unknown"
    rafdb = {"licence": "LicenseRef-RAF-DB", "url": "http://www.whdeld.cn/RAF"}
    licensed(corpus, fer2013={"licence": "odbl-1.0"}, rafdb=rafdb)
    told = told_licences(corpus)
    assert told["sources"] == {
        "fer2013": {"licence": "ODbL-1.0", "url": None},
        "rafdb": rafdb,
        "folders": {"licence": "unknown", "url": None},
    }
    assert told["strictest"] == "unknown"
    licensed(corpus, folders={"licence": "CC0-1.0"})
    assert told_licences(corpus)["strictest"] == "LicenseRef-RAF-DB"
    assert build(corpus, THREE, PARAMS.index).rows.equals(before)


@pytest.mark.parametrize(
    "wrong",
    [
        {"licence": "free"},
        {"licence": "MIT OR Apache-2.0"},
        {"licence": ""},
        {"url": "javascript:alert(1)"},
        {"url": "x"},
    ],
)
def test_what_is_no_licence_is_refused(corpus: Path, wrong: dict[str, str]) -> None:
    licensed(corpus, fer2013=wrong)
    with pytest.raises(UsageError, match=r"corpus\.yaml does not fit(.|\n)*sources\.0"):
        read_description(corpus)


@pytest.fixture
def indexed(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The index of the small corpus with attributes, in a project."""
    root = corpus.parents[2]
    monkeypatch.chdir(root)
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    (root / "params.yaml").write_text(yaml.safe_dump(raw | {"corpus": "mine", "classes": THREE}, sort_keys=False))
    licensed(
        corpus, fer2013={"licence": "CC0-1.0"}, rafdb={"licence": "LicenseRef-RAF-DB", "url": "http://raf.example/"}
    )
    described = yaml.safe_load((corpus / "corpus.yaml").read_text()) | {"attributes": "attributes.csv"}
    (corpus / "corpus.yaml").write_text(yaml.safe_dump(described))
    (corpus / "attributes.csv").write_text("path,attribute,value\nfer2013/fer2013.csv#0,sex,female\n")
    built = build(corpus, THREE, PARAMS.index)
    csv = workspace.index_csv(PARAMS.index_tag)
    csv.parent.mkdir(parents=True)
    write_index(csv, built.rows, THREE, "mine")
    write_json(csv.with_suffix(".report.json"), built.report | {"licences": told_licences(corpus)})
    return csv


def run(*words: str) -> Any:
    return CliRunner().invoke(cli, ["index", "croissant", *words])


def test_croissant_says_what_is_known_and_no_more(indexed: Path) -> None:
    done = run()
    assert done.exit_code == 0 and "the strictest licence: unknown" in done.stdout
    found = json.loads(indexed.with_suffix(".croissant.json").read_text())
    assert found == json.loads(run("--json").stdout)
    rows = index.read(indexed)
    assert found["distribution"][0]["sha256"] == rows.digest
    fields = {field["@id"] for field in found["recordSet"][2]["field"]}
    assert fields == {f"images/{name}" for name in rows.rows}
    assert found["license"] == ["LicenseRef-RAF-DB", "https://spdx.org/licenses/CC0-1.0.html", "unknown"]
    assert found["isBasedOn"] == ["http://raf.example/"]
    assert found["rai:dataBiases"][1] == f"Images by sex: female 1, not known {len(rows.rows) - 1}."
    assert any("these have: folders." in text for text in found["rai:dataLimitations"])
    assert "research on distillation" in found["rai:dataUseCases"]
    report = json.loads(indexed.with_suffix(".report.json").read_text())
    other = params.TaskParams(thing="scan", things="scans", label="digit", labels="digits", detector=None)
    text = json.dumps(croissant.describe(rows, indexed, report, other, None))
    assert "face" not in text.replace("surface", "") and "expression" not in text and "UseCases" not in text
    assert run("--out", "elsewhere.json").exit_code != 0
    shown = CliRunner().invoke(cli, ["index", "show"]).stdout
    assert "Licences: fer2013 CC0-1.0, rafdb LicenseRef-RAF-DB, folders unknown; the strictest: unknown" in shown


def test_mlcroissant_takes_it_for_croissant_and_reads_the_index_by_it(indexed: Path) -> None:
    import mlcroissant

    assert run().exit_code == 0
    data = mlcroissant.Dataset(jsonld=indexed.with_suffix(".croissant.json"))
    issues = data.metadata.ctx.issues
    assert not issues.errors
    assert all("is recommended" in warning for warning in issues.warnings), issues.warnings
    rows = index.read(indexed).rows
    records = list(data.records("images"))
    assert len(records) == len(rows)
    for key in ("path", "label", "split", "attribute_sex"):
        read = [one[f"images/{key}"] for one in records]
        assert ["" if not isinstance(v, bytes) else v.decode() for v in read] == rows[key].tolist(), key
    indexed.write_bytes(indexed.read_bytes() + b"\n")
    with pytest.raises(Exception, match=r"Download\(index\)"):
        list(mlcroissant.Dataset(jsonld=indexed.with_suffix(".croissant.json")).records("images"))
