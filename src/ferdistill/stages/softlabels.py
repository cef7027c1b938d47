"""Write one teacher's logits for every image of the index, and for recorded views of the training images.

Of one range of shards, where it is told which, it writes them apart (`distill.ranges`).
"""

from typing import Any

from .. import workspace
from ..data import images, index, truth
from ..data.description import told_licences
from ..data.memo import memo
from ..distill import frozen, labelling, ranges
from ..distill.answers import answers, identity_of
from ..distill.augment import VIEW_SEED
from ..errors import require_same
from ..files import read_json, write_json
from ..params import Params
from ..softlabels import brought, parts, store, views


def run(params: Params, name: str, part: str = "", of: str = "") -> None:
    """Teacher, index and images -> data/softlabels/NAME_TAG, metrics/softlabels/NAME.json.

    With `part` and `of`, range PART of OF: -> data/ranges/NAME~PART~OF.safetensors.
    """
    rows = index.read(workspace.index_csv(params.index_tag))
    directory, out = workspace.teacher(name), workspace.softlabels(name, params.index_tag)
    config = read_json(directory / "config.json", "classes", "index_digest", "sha256")
    require_same(
        [("classes", params.classes, config["classes"]), ("index digest", rows.digest, config["index_digest"])],
        "the teacher was trained on other data",
        where=str(directory / "config.json"),
        hint=f"run `dvc repro teacher@{name}`",
    )
    if part:
        _label_range(params, name, rows, config, int(part), int(of))
        return
    corpus = workspace.corpus(params.corpus)
    provenance: dict[str, Any] = {"licences": told_licences(corpus)}
    seen, partial = None, bool(config.get("partial"))
    if (directory / brought.TENSORS).is_file():
        logits, _ = brought.load(directory)
        provenance |= config["provenance"]
    elif (waiting := workspace.ranges(name)).is_dir():
        packed = images.load(workspace.images(params.index_tag), rows)
        logits = ranges.join(waiting, rows, packed.image_bytes, config)
    else:
        network, _ = frozen.load_teacher(directory)
        packed = images.load(workspace.images(params.index_tag), rows)
        identity = identity_of(config)
        with memo(workspace.memo()) as known:
            logits, seen = labelling.label_images(
                network, rows, packed, params.classes, params.views, params.view_augment, identity, known
            )
    manifest = store.write(
        out,
        rows,
        logits,
        params.classes,
        teacher=name,
        checkpoint_sha256=config["sha256"],
        provenance=provenance,
        partial=partial,
        top_k=params.top_k,
    )
    digest = manifest["table_sha256"]
    metrics: dict[str, Any] = {
        "table_sha256": digest,
        "agreement": labelling.agreement(logits, rows, params.classes),
    }
    if seen is not None:
        metrics["views_sha256"] = views.write(out, rows, seen, VIEW_SEED, params.view_augment, digest)["sha256"]
    if params.top_k is not None:
        metrics["top_k_divergence"] = manifest["top_k_divergence"]
    if partial:
        metrics["covered"] = manifest["covered"]
    test = rows.positions("test")
    test = test[parts.covered(logits[test])]
    true = truth.distribution(corpus, rows.rows["path"].iloc[test].tolist(), params.classes)
    if true is not None and len(test):
        metrics["distance_to_truth_on_test"] = labelling.distance_to_truth(true, logits[test])
    write_json(workspace.METRICS / "softlabels" / f"{name}.json", metrics)


def _label_range(params: Params, name: str, rows: index.Index, config: dict[str, Any], part: int, of: int) -> None:
    network, _ = frozen.load_teacher(workspace.teacher(name))
    packed = images.load(workspace.images(params.index_tag), rows)
    mine = ranges.rows_of(rows, packed.image_bytes, of)[part - 1]
    with memo(workspace.memo()) as known:
        logits = answers(network, packed, identity_of(config), known, mine)
    file = workspace.range_made(f"{name}~{part}~{of}")
    ranges.write(file, logits.reshape(len(mine), len(params.classes)), ranges.facts_of(rows, mine, config, part, of))
