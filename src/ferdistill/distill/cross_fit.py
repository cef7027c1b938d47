"""A teacher's answers for images that it was not trained on: trained in folds, by person."""

from pathlib import Path
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold

from ..data.images import Pixels
from ..data.index import Index
from ..errors import UsageError
from ..params import Params, TeacherParams
from .data import Split, splits_of
from .inference import predict
from .teacher import train


def cross_fit(
    params: Params,
    name: str,
    recipe: TeacherParams,
    rows: Index,
    packed: Pixels,
    folds: int,
    start: dict[str, Any],
    plots: Path,
) -> np.ndarray:
    """Logits (n, K) of the n images of train, each of a network that was trained without any of its group's images.

    A group of the index is a person, or all copies of an image, and lies in one fold. Each network is trained by the
    recipe on the other folds, and its epoch chosen on val. `start` says what weights it starts from; `plots` is where
    the curves go. Raises a UsageError if there are fewer groups than folds.
    """
    whole, val, _ = splits_of(rows, packed, params.classes)
    groups = rows.rows["group"].to_numpy(str)[whole.rows]
    if len(np.unique(groups)) < folds:
        raise UsageError(
            f"{len(np.unique(groups))} people in train, and {folds} folds", where="--folds", expected="fewer folds"
        )
    logits = np.full((len(whole.rows), len(params.classes)), np.nan, np.float32)
    parts = GroupKFold(folds, shuffle=True, random_state=recipe.seed)
    for fold, (kept, held) in enumerate(parts.split(groups, groups=groups)):
        facts = start | {"index_digest": rows.digest, "fold": [fold, folds]}
        part = Split(packed, whole.rows[kept], whole.labels[kept])
        network, _ = train(params, f"{name}, fold {fold + 1} of {folds}", recipe, (part, val), facts, plots / f"{fold}")
        logits[held] = predict(network, Split(packed, whole.rows[held], whole.labels[held]))
    return logits
