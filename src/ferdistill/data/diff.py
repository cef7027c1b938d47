"""What changed between two versions of an index: the sentence a reviewer needs after a data change."""

import csv
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import UsageError, clipped
from ..files import require_few_columns
from ..tracking.experiments import baselines
from .index import SPLITS, TRANSFER, read, splits_of

COMPARED = ("sample_id", "path", "label", "split")
FETCH = "`dvc fetch --all-commits` brings older versions where there is a remote"


def read_rows_at(version: str, default_csv: Path) -> pd.DataFrame:
    """The rows of an index at a path, or of `default_csv` at a git revision, out of the DVC cache.

    Raises
    ------
    UsageError
        If there is neither such a file nor such a revision, or the revision's index is not in the cache.
    """
    path = Path(version)
    if path.suffix == ".csv":
        return read(path).rows
    if path.is_file():
        raise UsageError("no index CSV", where=version, expected="the path of an index CSV, or a git revision")
    import dvc.api
    from dvc.exceptions import DvcException
    from scmrepo.exceptions import SCMError

    try:
        (commit,) = baselines([version])
        with dvc.api.open(default_csv.as_posix(), rev=commit) as file:
            names = next(csv.reader(file), [])
            require_few_columns(len(names), default_csv, UsageError)
            if lacking := [name for name in COMPARED if name not in names]:
                raise UsageError(f"it has no column {', '.join(lacking)}")
            return pd.read_csv(file, names=names, header=None, dtype=str, keep_default_na=False)
    except (DvcException, SCMError, OSError, UsageError, csv.Error, ValueError) as error:
        what, hint = (error.what, error.hint) if isinstance(error, UsageError) else (error, FETCH)
        raise UsageError(
            f"no index `{clipped(version)}`: {what}",
            where=f"{default_csv} at revision {clipped(version)}",
            expected="the path of an index CSV, or a git revision whose index is in the DVC cache",
            hint=hint,
        ) from None


def diff(before: pd.DataFrame, after: pd.DataFrame) -> dict[str, Any]:
    """Compare the rows of two indices, image by image.

    An image is known by its path; one that came under a new path with the pixels of one that went was renamed.

    Returns
    -------
    dict
        Lists, each ordered by path: `came` and `went` (path, label, split), `renamed` (before, after), `relabelled`
        and `moved` (path, before, after: label or split), `redrawn` (paths whose pixels changed), of images in both;
        and `images` (before and after, in all, by split and by label).
    """
    joined = before.merge(after, on="path", how="outer", suffixes=("_before", "_after"), indicator=True)
    joined = joined.sort_values("path")
    both = joined[joined["_merge"] == "both"]
    went, came = joined[joined["_merge"] == "left_only"], joined[joined["_merge"] == "right_only"]
    went, came = went.filter(regex="^path$|_before$"), came.filter(regex="^path$|_after$")
    renamed = went.merge(came, left_on="sample_id_before", right_on="sample_id_after", suffixes=("_old", "_new"))
    went = went[~went["path"].isin(renamed["path_old"])]
    came = came[~came["path"].isin(renamed["path_new"])]
    # What was renamed may have changed label or split on the way.
    same = pd.concat([both, renamed.rename(columns={"path_new": "path"})]).sort_values("path")

    def listed(rows: pd.DataFrame, **columns: str) -> list[dict[str, str]]:
        return [dict(zip(columns, row, strict=True)) for row in rows[[*columns.values()]].to_numpy()]

    def changes(column: str) -> list[dict[str, str]]:
        changed = same[same[f"{column}_before"] != same[f"{column}_after"]]
        return listed(changed, path="path", before=f"{column}_before", after=f"{column}_after")

    return {
        "images": {"before": _counts(before), "after": _counts(after)},
        "came": listed(came, path="path", label="label_after", split="split_after"),
        "went": listed(went, path="path", label="label_before", split="split_before"),
        "renamed": listed(renamed.sort_values("path_new"), before="path_old", after="path_new"),
        "relabelled": changes("label"),
        "moved": changes("split"),
        "redrawn": both.loc[both["sample_id_before"] != both["sample_id_after"], "path"].tolist(),
    }


def _counts(rows: pd.DataFrame) -> dict[str, Any]:
    return {
        "all": len(rows),
        "by_split": {split: int((rows["split"] == split).sum()) for split in splits_of(rows)},
        "by_label": {str(label): int(n) for label, n in rows["label"].value_counts().sort_index().items()},
    }


def sentence(changes: dict[str, Any]) -> str:
    """The difference in one sentence."""
    words = {
        "came": "came", "went": "went", "renamed": "were renamed", "relabelled": "changed label",
        "moved": "changed split", "redrawn": "changed pixels",
    }  # fmt: skip
    parts = [f"{len(changes[kind])} {verb}" for kind, verb in words.items() if changes[kind]]
    before, after = changes["images"]["before"], changes["images"]["after"]
    if not parts:
        return f"No image changed: {after['all']} images in both indexes."
    splits = ", ".join(
        f"{split} {before['by_split'].get(split, 0)} → {after['by_split'].get(split, 0)}"
        for split in (*SPLITS, TRANSFER)
        if before["by_split"].get(split, 0) != after["by_split"].get(split, 0)
    )
    total = f"{before['all']} → {after['all']} images" + (f" ({splits})" if splits else "")
    return f"Of the images, {', '.join(parts)}: {total}."
