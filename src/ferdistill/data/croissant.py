"""An index as Croissant 1.1 metadata with its RAI vocabulary, JSON-LD that data set searches and loaders read.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html and croissant-rai-spec.html. Nothing is said that is
not in the index, its report, corpus.yaml or params.yaml.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..params import TaskParams
from .index import Index
from .licences import UNKNOWN

CONFORMS = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
# The context of the specification: what its words stand for.
OWN = (
    "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "extract", "field", "fileProperty",
    "fileObject", "fileSet", "format", "includes", "isArray", "isLiveDataset", "jsonPath", "key", "md5", "parentField",
    "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator", "source",
    "subField", "transform",
)  # fmt: skip
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    **{word: f"cr:{word}" for word in OWN},
}
KIND_OF_SPLIT = {"train": "cr:TrainingSplit", "val": "cr:ValidationSplit", "test": "cr:TestSplit"}
COLUMNS = {
    "sample_id": "Digest of the decoded pixels",
    "path": "Of the image, below the corpus directory; FILE#ROW within a table",
    "label": "Its class; empty where it has none",
    "split": "Which part it is in",
    "official_split": "Which part its source puts it in",
    "source": "Where it comes from",
    "subject": "Who is shown, where that is known",
    "group": "Images of one group are in one split: of one person, or copies of each other",
    "box": "What is cropped: left, top, right, bottom, in pixels",
    "votes": "How many annotators voted",
}


def describe(
    rows: Index, csv: Path, report: Mapping[str, Any], task: TaskParams, use: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The metadata of an index, the JSON of a file that is to lie beside `csv`.

    `report` is that of the stage `index`, with `licences`; `use` is what a card says of use, where it says anything.
    """
    classes, licences = rows.description["classes"], report["licences"]
    addresses = sorted({of["url"] for of in licences["sources"].values() if of["url"]})
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": f"{rows.description['corpus']}-{csv.stem}",
        "description": f"{len(rows.rows)} {task.things} by {task.label}: {', '.join(classes)}; without copies, label "
        "conflicts and leaks, in splits by person.",
        "conformsTo": CONFORMS,
        "identifier": f"sha256:{rows.digest}",
        "url": f"urn:sha256:{rows.digest}",
        "license": sorted({_address(of["licence"]) for of in licences["sources"].values()}),
        **({"isBasedOn": addresses} if addresses else {}),
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "index",
                "name": csv.name,
                "description": "A row an image",
                "contentUrl": csv.name,
                "encodingFormat": "text/csv",
                "sha256": rows.digest,
            }
        ],
        "recordSet": [
            _enumeration("splits", "cr:Split", [{"name": s, "url": KIND_OF_SPLIT.get(s, "")} for s in rows.splits]),
            _enumeration("classes", "sc:Enumeration", [{"name": name} for name in classes]),
            {
                "@type": "cr:RecordSet",
                "@id": "images",
                "key": {"@id": "images/path"},
                "field": [_field(str(name)) for name in rows.rows],
            },
        ],
        **_responsible(rows, report, task, use),
    }


def _address(licence: str) -> str:
    own = licence == UNKNOWN or licence.startswith("LicenseRef-")
    return licence if own else f"https://spdx.org/licenses/{licence}.html"


def _enumeration(name: str, kind: str, values: list[dict[str, str]]) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "dataType": kind,
        "key": {"@id": f"{name}/name"},
        "field": [
            {"@type": "cr:Field", "@id": f"{name}/{key}", "dataType": "sc:Text" if key == "name" else "sc:URL"}
            for key in values[0]
        ],
        "data": [{f"{name}/{key}": text for key, text in value.items()} for value in values],
    }


def _field(name: str) -> dict[str, Any]:
    """A column of the index."""
    attribute, vote = name.removeprefix("attribute_"), name.removeprefix("vote_")
    described = COLUMNS.get(name) or (
        f"Share of the annotators' votes for {vote}" if vote != name else f"What its source says of it: {attribute}"
    )
    refers = {"label": "classes", "split": "splits"}.get(name)
    kind: Any = "sc:Float" if vote != name else "sc:Text"
    return {
        "@type": "cr:Field",
        "@id": f"images/{name}",
        "description": described,
        "dataType": {"label": ["sc:Text", "cr:Label"], "split": ["sc:Text", "cr:Split"]}.get(name, kind),
        **({"references": {"field": {"@id": f"{refers}/name"}}} if refers else {}),
        "source": {"fileObject": {"@id": "index"}, "extract": {"column": name}},
    }


def _responsible(
    rows: Index, report: Mapping[str, Any], task: TaskParams, use: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The RAI properties that can be told."""
    told, voters = rows.attributes(), rows.voters()
    voted = rows.votes(rows.description["classes"])
    subjects = rows.rows.loc[rows.rows["subject"] != "", "subject"].nunique()
    unknown = [name for name, of in report["licences"]["sources"].items() if of["licence"] == UNKNOWN]
    left_out = ", ".join(f"{count} {step}" for step, count in report["left_out"].items()) or "none"
    known = voters[np.isfinite(voters)]
    found: dict[str, Any] = {
        "rai:dataCollection": f"Sources and their images in the index: {_counts(rows.rows['source'])}.",
        "rai:dataPreprocessingProtocol": [
            f"{report['rows_listed']} rows listed; left out: {left_out}.",
            "Copies are found by equal pixels and by perceptual hashes and correlation; of those that disagree on the "
            "label, `index.conflicts` of params.yaml says which stay.",
            "Splits go by person and by copies, from a digest of each group's name.",
        ],
        "rai:dataAnnotationProtocol": "Labels are those of the sources, under the classes of params.yaml"
        + (f"; {len(report['relabelled'])} were corrected by a person." if report.get("relabelled") else "."),
        "rai:dataBiases": [f"Images by {task.label}: {_counts(rows.rows['label'])}."]
        + [f"Images by {name}: {_counts(told[name])}." for name in map(str, told)],
        "rai:dataLimitations": [f"The strictest licence of a source: {report['licences']['strictest']}."]
        + ([f"Nobody said which licence these have: {', '.join(unknown)}."] if unknown else []),
        "rai:personalSensitiveInformation": [f"`subject` names {subjects} persons."]
        + [f"`attribute_{name}` is what sources say; nothing is inferred from an image." for name in map(str, told)],
    }
    if voted is not None:
        found["rai:annotationsPerItem"] = f"{int(known.min())} to {int(known.max())}" if len(known) else "shares alone"
    if use is not None:
        found["rai:dataUseCases"] = list(use["intended"])
        found["rai:dataSocialImpact"] = " ".join(f"Not to be used for {what}." for what in use["prohibited"])
    return found


def _counts(values: pd.Series) -> str:
    counts = values.replace("", "not known").value_counts().sort_index()
    return ", ".join(f"{name} {count}" for name, count in counts.items())
