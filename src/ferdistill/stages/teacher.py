"""Train one teacher by its recipe, or take one that was brought: a network, or soft labels alone."""

import numpy as np

from .. import workspace
from ..data import images, index
from ..data.memo import memo
from ..distill import frozen, models, teacher, weights
from ..distill.answers import answers, identity_of
from ..distill.data import splits_of
from ..distill.inference import evaluate, final_metrics
from ..distill.loop import is_main_process
from ..files import write_json
from ..params import FrozenTeacher, Params, TableTeacher, TeacherParams
from ..softlabels import brought


def run(params: Params, name: str) -> None:
    """Index and images -> models/teachers/NAME, metrics/teachers/NAME.json, plots/teachers/NAME."""
    rows = index.read(workspace.index_csv(params.index_tag))
    recipe, image = params.scale_.teachers[name], params.scale_.image
    start = weights.require(recipe, workspace.checked_weights(name))
    directory = workspace.teacher(name)
    if not isinstance(recipe, TeacherParams):
        # An out of every teacher; this one has no curves.
        (workspace.PLOTS / "teachers" / name).mkdir(parents=True, exist_ok=True)
    if isinstance(recipe, TableTeacher):
        partial = recipe.covers == "partial"
        table = brought.table_of(recipe, rows, params.classes)
        brought.save(table, directory, rows, params.classes, teacher=name, partial=partial)
        metrics = {"best_epoch": None, "parameters": None, "covered": table.provenance["covered"]}
        metrics |= teacher.table_metrics(table.logits, rows, params.classes)
        write_json(workspace.METRICS / "teachers" / f"{name}.json", metrics)
        return
    packed = images.load(workspace.images(params.index_tag), rows)
    if isinstance(recipe, FrozenTeacher):
        frozen.save(recipe, directory, params.classes, image, teacher=name, index_digest=rows.digest)
        network, config = frozen.load_teacher(directory)
        judged = np.concatenate([rows.positions("val"), rows.positions("test")])
        logits = np.full((len(rows.rows), len(params.classes)), np.nan, np.float32)
        with memo(workspace.memo()) as known:
            logits[judged] = answers(network, packed, identity_of(config), known, judged)
        metrics = {"best_epoch": None, "parameters": models.size(network)}
        metrics |= teacher.table_metrics(logits, rows, params.classes)
        write_json(workspace.METRICS / "teachers" / f"{name}.json", metrics)
        return
    train, val, test = splits_of(rows, packed, params.classes)
    facts = {"weights": start, "index_digest": rows.digest}
    network, best_epoch = teacher.train(params, name, recipe, (train, val), facts)
    if not is_main_process():
        return
    models.save_network(network, directory, recipe, params.classes, image, teacher=name, index_digest=rows.digest)
    metrics = {"best_epoch": best_epoch, "parameters": models.size(network)}
    metrics |= final_metrics(evaluate(network, val, "val"), evaluate(network, test, "test"), params.classes)
    write_json(workspace.METRICS / "teachers" / f"{name}.json", metrics)
