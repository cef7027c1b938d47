"""Write one teacher's logits for every image of the index, and for recorded views of the training images."""

import numpy as np
from scipy.special import log_softmax

from .. import workspace
from ..data import images, index, truth
from ..distill import models
from ..distill.augment import recorded
from ..distill.loop import Split, make_deterministic, predict, splits_of
from ..errors import require_same
from ..files import write_json
from ..params import Params
from ..softlabels import store, views


def run(params: Params, name: str) -> None:
    """Teacher, index and images -> data/softlabels/NAME_TAG, metrics/softlabels/NAME.json."""
    rows = index.read(workspace.index_csv(params.index_tag))
    packed = images.load(workspace.images_npy(params.index_tag), rows)
    codes = rows.codes(params.classes)
    directory = workspace.teacher(name)
    network, config = models.load_network(directory)
    require_same(
        [("classes", params.classes, config["classes"]), ("index digest", rows.digest, config["index_digest"])],
        "the teacher was trained on other data",
        where=str(directory / "config.json"),
        hint=f"run `dvc repro teacher@{name}`",
    )
    make_deterministic(0)
    logits = predict(network, Split(packed, np.arange(len(rows.rows)), codes))
    out = workspace.softlabels(name, params.index_tag)
    manifest = store.write(out, rows, logits, params.classes, teacher=name, checkpoint_sha256=config["sha256"])
    agrees = logits.argmax(1) == codes
    metrics = {
        "table_sha256": manifest["table_sha256"],
        "agreement": {split: float(agrees[rows.positions(split)].mean()) for split in index.SPLITS},
    }
    if params.views > 1:
        train, _, _ = splits_of(rows, packed, params.classes)
        drawn = recorded(params.views, len(train.rows), packed.shape[1], views.SEED)
        seen = np.stack([predict(network, train, (params.view_augment, view)) for view in drawn])
        metrics["views_sha256"] = views.write(out, rows, seen, params.view_augment, manifest["table_sha256"])["sha256"]
    test = rows.positions("test")
    known = truth.distribution(workspace.corpus(params.corpus), rows.rows["path"].iloc[test].tolist(), params.classes)
    if known is not None:
        log_probabilities = log_softmax(logits[test].astype(np.float64), axis=1)
        metrics["distance_to_truth_on_test"] = {
            "kl": truth.kl_from_truth(known, log_probabilities),
            "total_variation": truth.total_variation(known, np.exp(log_probabilities)),
        }
    write_json(workspace.METRICS / "softlabels" / f"{name}.json", metrics)
