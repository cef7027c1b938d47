"""Stores of soft labels, ours and those of other programs, and the ways in which they come out of step."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from conftest import CLASSES
from ferdistill.files import sha256, sha256_file
from ferdistill.softlabels import store


def make_store(directory, index, seed=0):
    logits = np.random.default_rng(seed).normal(0, 3, (len(index.rows), len(CLASSES)))
    checkpoint = sha256(f"{directory.name} {seed}")
    store.write(directory, index, logits, CLASSES, teacher=directory.name, checkpoint_sha256=checkpoint)
    return directory


def rewrite(directory, table):
    """As a careless script would: the table replaced, and its digest in the manifest made to agree."""
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False), directory / store.TABLE)
    manifest = json.loads((directory / store.MANIFEST).read_text())
    manifest["table_sha256"] = sha256_file(directory / store.TABLE)
    (directory / store.MANIFEST).write_text(json.dumps(manifest))


LENGTHS = {"train": 60, "val": 20, "calib": 20, "test": 30}


def drop(table, row, other):
    return table.drop(index=row)


def double(table, row, other):
    return pd.concat([table.iloc[: row + 1], table.iloc[row:]])


def swap(table, row, other):
    order = np.arange(len(table))
    order[[row, other]] = order[[other, row]]
    return table.iloc[order]


def relabel(table, row, other):
    table.loc[row, "label"] = CLASSES[(CLASSES.index(table["label"][row]) + 1) % len(CLASSES)]
    return table


def not_a_number(table, row, other):
    table.loc[row, "logit_fear"] = np.nan
    return table


def rename(table, row, other):
    table.loc[row, "path"] = "elsewhere.png"
    return table


DAMAGE = [
    (drop, "missing"), (double, "duplicate"), (swap, "order"), (relabel, "label"), (not_a_number, "non-finite"),
    (rename, "extra"),
]  # fmt: skip


LOGITS = [f"logit_{name}" for name in CLASSES]


def softmax(logits):
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)


def texts(table):
    """Arrays of text that need no pickle."""
    return {
        "paths": table["path"].to_numpy(str),
        "split": table["split"].to_numpy(str),
        "labels": table["label"].to_numpy(str),
    }


def write_npz_probs(directory, table):
    np.savez(directory / "softlabels.npz", probs=softmax(table[LOGITS].to_numpy()), **texts(table))


def write_npz_logits(directory, table):
    np.savez_compressed(directory / "softlabels.npz", logits=table[LOGITS].to_numpy(), **texts(table))


def write_npy(directory, table):
    for split, rows in table.groupby("split"):
        np.save(directory / f"{split}_probs.npy", softmax(rows[LOGITS].to_numpy()))
        (directory / f"{split}_paths.txt").write_text("".join(f"{path}\n" for path in rows["path"]))


def write_csv(directory, table):
    probs = softmax(table[LOGITS].to_numpy())
    table.drop(columns=LOGITS).assign(**dict(zip(CLASSES, probs.T, strict=True))).to_csv(
        directory / "t.csv", index=False
    )


def write_parquet(directory, table):
    table.assign(subject="s").to_parquet(directory / "t.parquet", index=False)


def write_pt(directory, table):
    lists = {name: values.tolist() for name, values in texts(table).items()}
    torch.save({"logits": torch.tensor(table[LOGITS].to_numpy()), **lists}, directory / "softlabels.pt")


FORMS = {
    write_npz_probs: ("probabilities", "named in the file"),
    write_npz_logits: ("logits", "named in the file"),
    write_npy: ("probabilities", "named by the file"),
    write_csv: ("probabilities", "inferred: every row lies in [0, 1] with the sum 1 within 0.001"),
    write_parquet: ("logits", "named by its columns"),
    write_pt: ("logits", "named in the file"),
}
