"""The students of a table, scored on another corpus: a large test set, or one of other people and cameras."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn

from .. import tensor_files
from ..data.reader import map_images, read_rows, read_subjects
from ..data.sources import Record
from ..distill import models
from ..distill.data import Split
from ..distill.inference import predict
from ..errors import CheckError, UsageError
from ..evaluation import known_truth, summary
from ..evaluation.metrics import Predictions, clusters_of
from ..image_files import resize
from ..params import ImageParams, Params
from ..progress import track
from ..tracking import dvc_private
from . import results
from .schema import EVALUATION, GROUPS, METRICS, said

OF_ITS_TEST_SPLIT = [metric for metric in METRICS if metric.file == GROUPS or metric.at.startswith("report_protocol.")]


def rescore(table: Path, corpus: Path, settings: Params) -> list[dict[str, Any]]:
    """The rows of a table with what its columns say of the test split said of a corpus instead; other columns stay.

    Every labelled image of the corpus is scored, none is left out as a copy, and nothing is fitted: probabilities are
    scaled by each run's own T*. What is measured on val and calib stays; `corpus` becomes the corpus' name.
    `predictions`, groups and what is known of each epoch are empty, for they are of the test split.

    Parameters
    ----------
    table : Path
        A CSV as `study collect` writes it, with columns `model` and `t_star`: the students lie in DVC's cache.
    corpus : Path
        A corpus directory with a corpus.yaml.
    settings : Params
        Whose scale's student the table is of, and whose classes.

    Raises
    ------
    UsageError, CheckError
        As `results.read` and `data.reader.read_rows`; if the table names no student, one is not in DVC's cache or of
        another architecture, an image cannot be read, and if nothing is labelled.
    """
    frame = results.read(table)
    files = stored_models(frame)
    images, test, truth = _read(corpus, settings)
    split = Split(images, np.arange(len(images)), test.labels)
    read = pd.read_csv(table, dtype=str, keep_default_na=False)
    rows: list[dict[str, Any]] = [{str(key): value for key, value in row.items()} for row in read.to_dict("records")]
    for row, file, t_star in track(zip(rows, files, frame["t_star"], strict=True), "scoring students", len(files)):
        scored = test._replace(logits=predict(network_of(row, file, settings), split))
        found = summary.of_test(scored, truth, settings.classes, t_star, settings.calibrate.bins)
        for metric in METRICS:
            if metric.file == EVALUATION:
                row |= metric.of({EVALUATION: {"test": found}}, settings.classes, settings.teachers)
            elif metric in OF_ITS_TEST_SPLIT:
                row |= metric.of({metric.file: {}}, settings.classes, settings.teachers)
        row |= {"corpus": corpus.name, "predictions": ""}
    return rows


def network_of(row: Mapping[str, Any] | pd.Series, file: Path, settings: Params) -> nn.Module:
    """The student of a row of a table, whose weights lie in a file; its options are those of the workspace's."""
    recipe = settings.scale_.student
    model, outputs = said(row, "student") or recipe.model, len(settings.classes)
    network = models.build(model, recipe.options, recipe.stem, outputs, settings.scale_.image, pretrained=False)
    models.load_matching(network, tensor_files.read(file, "pt", expected="a student"), file)
    return network


def stored_models(frame: pd.DataFrame) -> list[Path]:
    """The weights of each row's student in DVC's cache."""
    if "model" not in frame or "t_star" not in frame or (frame["model"] == "").any():
        raise CheckError(
            "the table does not say where its students are",
            expected="columns model and t_star, as `ferdistill study collect` writes them",
        )
    cache = dvc_private.local_cache()
    if cache is None:
        raise UsageError("not in a DVC repository, so there is no cache that students could lie in")
    files = [dvc_private.stored(cache, md5) for md5 in frame["model"]]
    absent = sum(not file.is_file() for file in files)
    if absent:
        raise CheckError(
            f"{absent} of {len(files)} students are not in DVC's cache",
            where=str(cache),
            hint="`dvc pull --all-commits` brings them, or `ferdistill study run` makes them",
        )
    return files


def _read(corpus: Path, settings: Params) -> tuple[np.ndarray, Predictions, dict[str, np.ndarray]]:
    """Images (N, H, W, C) of the student's size, labels and clusters without logits, and the known distributions."""
    records = []
    for _, row in read_rows(corpus, settings.classes):
        if isinstance(row, CheckError):
            raise row
        if isinstance(row, Record) and row.label:
            records.append(row)
    if not records:
        raise UsageError("no image here has a label", where=str(corpus), expected="labels of at least one image")
    paths = [record.path for record in records]
    people = read_subjects(corpus)
    listed = pd.DataFrame({"path": paths, "subject": [people.get(path, "") for path in paths]})
    labels = np.array([settings.classes.index(record.label) for record in records])
    test = Predictions(np.empty(0, np.float32), labels, np.array(paths), clusters_of(listed))
    return _images(corpus, records, settings.scale_.image), test, known_truth.read(corpus, paths, settings.classes)


def _images(corpus: Path, records: Sequence[Record], image: ImageParams) -> np.ndarray:
    look = partial(resize, size=image.size, channels=image.channels)
    images = np.empty((len(records), image.size, image.size, image.channels), np.uint8)
    for row, seen in enumerate(map_images(look, corpus, records, "reading images")):
        if isinstance(seen, CheckError):
            raise seen
        images[row] = seen
    return images
