"""Soft labels of train by networks that have not seen the images: `ferdistill labels cross-fit` writes them."""

from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import CheckError
from ..files import atomic
from . import probability_files


def write(file: Path, told: pd.DataFrame, logits: np.ndarray, classes: list[str]) -> None:
    """Write `path`, `split` and `label` of `told` (n rows) with a `logit_<class>` each, as Parquet; atomically."""
    table = pd.concat([told, pd.DataFrame(logits, columns=[f"logit_{name}" for name in classes])], axis=1)
    with atomic(file) as temporary:
        table.to_parquet(temporary, index=False)


def read(file: Path, told: pd.DataFrame, classes: list[str]) -> np.ndarray:
    """Its logits (n, K), in the order of `told` (path and label of each), which it must have been made for.

    Raises a CheckError if it is damaged, or its classes, images or labels are others: a network that learnt another
    label says nothing of this one.
    """
    found = probability_files.read(file)
    columns = [f"logit_{name}" for name in classes]
    wanted = {"path", "label", *columns}
    if not wanted <= found.keys():
        what = f"it lacks {', '.join(sorted(wanted - found.keys())[:5])}"
    elif {name for name in found if name.startswith("logit_")} != set(columns):
        what = "it is for other classes"
    else:
        if all(found[name].tolist() == told[name].tolist() for name in ("path", "label")):
            return np.column_stack([found[name] for name in columns]).astype(np.float64)
        what = "it is for other images or labels than those of train"
    raise CheckError(
        what,
        where=str(file),
        expected=f"path, label and {', '.join(columns)} of {len(told)} images, in the order of the index",
        hint="run `ferdistill labels cross-fit` again",
    )
