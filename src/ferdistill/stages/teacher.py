"""Train one teacher by its recipe, or take a frozen one."""

from .. import workspace
from ..data import images, index
from ..distill import frozen, models, teacher, weights
from ..distill.data import splits_of
from ..distill.inference import final_metrics
from ..distill.loop import is_main_process
from ..files import write_json
from ..params import FrozenTeacher, Params


def run(params: Params, name: str) -> None:
    """Index and images -> models/teachers/NAME, metrics/teachers/NAME.json, plots/teachers/NAME."""
    rows = index.read(workspace.index_csv(params.index_tag))
    train, val, test = splits_of(rows, images.load(workspace.images(params.index_tag), rows), params.classes)
    recipe, image = params.scale_.teachers[name], params.scale_.image
    start = weights.require(recipe, workspace.checked_weights(name))
    directory, best_epoch = workspace.teacher(name), None
    if isinstance(recipe, FrozenTeacher):
        frozen.save(recipe, directory, params.classes, image, teacher=name, index_digest=rows.digest)
        network, _ = frozen.load_teacher(directory)
        # An out of every teacher; this one has no curves.
        (workspace.PLOTS / "teachers" / name).mkdir(parents=True, exist_ok=True)
    else:
        facts = {"weights": start, "index_digest": rows.digest}
        network, best_epoch = teacher.train(params, name, recipe, (train, val), facts)
        if not is_main_process():
            return
        models.save_network(network, directory, recipe, params.classes, image, teacher=name, index_digest=rows.digest)
    metrics = {"best_epoch": best_epoch, "parameters": models.size(network)}
    metrics |= final_metrics(network, val, test, params.classes)
    write_json(workspace.METRICS / "teachers" / f"{name}.json", metrics)
