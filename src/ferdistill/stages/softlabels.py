"""Write one teacher's logits for every image of the index."""

from pathlib import Path

import numpy as np

from ..corpus import images, index
from ..errors import CheckError
from ..files import write_json
from ..params import Params
from ..softlabels import store
from ..training import models
from ..training.loop import Split, make_deterministic, predict


def run(params: Params, name: str) -> None:
    """Teacher, index and images -> data/softlabels/NAME_TAG, metrics/softlabels/NAME.json."""
    rows = index.read(params.index_csv)
    packed = images.load(params.images_npy, rows)
    directory = Path("models/teachers") / name
    network, config = models.load_network(directory)
    for what, expected in (("classes", params.classes), ("index_digest", rows.digest)):
        if config[what] != expected:
            raise CheckError(
                f"the teacher was trained with other {what}: {config[what]}",
                where=str(directory / "config.json"),
                expected=str(expected),
                hint=f"run `dvc repro teacher@{name}`",
            )
    make_deterministic(0)
    logits = predict(network, Split(packed, np.arange(len(rows.rows)), rows.codes(params.classes)))
    manifest = store.write(
        params.softlabels_dir(name),
        rows,
        logits,
        params.classes,
        teacher=name,
        checkpoint_sha256=config["sha256"],
    )
    agrees = logits.argmax(1) == rows.codes(params.classes)
    write_json(
        Path("metrics/softlabels") / f"{name}.json",
        {
            "table_sha256": manifest["table_sha256"],
            "agreement": {split: float(agrees[rows.positions(split)].mean()) for split in index.SPLITS},
        },
    )
