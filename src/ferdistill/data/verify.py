"""Does the corpus still hold what its index says? Every file is read again."""

from collections import Counter
from pathlib import Path
from typing import Any

from ..errors import CheckError
from ..files import read_json
from .index import Index, sample_id
from .reader import map_images, records_by_path


def verify(index: Index, index_csv: Path, corpus_dir: Path, classes: list[str]) -> dict[str, Any]:
    """Read every image of an index again and compare its digest, its label and its official split.

    Returns
    -------
    dict
        `ok`, `checked` (images), `counts` by kind, and `problems`: a list of {kind, row, path, expected, found} with
        kinds missing, unreadable, pixels, label, official split.
    """
    problems: list[dict[str, Any]] = []

    def problem(kind: str, row: int, expected: str, found: str) -> None:
        path = index.rows["path"][row]
        problems.append({"kind": kind, "row": row, "path": path, "expected": expected, "found": found})

    listed = records_by_path(corpus_dir, classes)
    # Where copies disagreed, the policy may have given the copy that stayed another label than its own.
    conflicts = read_json(index_csv.with_suffix(".report.json"), "conflicts")["conflicts"]
    settled = {conflict["kept"] for conflict in conflicts if conflict["label"] is not None}
    present = []
    for row, (path, label, official) in enumerate(index.rows[["path", "label", "official_split"]].to_numpy()):
        record = listed.get(path)
        if record is None:
            problem("missing", row, "a row of its source", "none")
            continue
        present.append((row, record))
        if record.label != label and path not in settled:
            problem("label", row, label, record.label)
        if (record.split or "") != official:
            problem("official split", row, official or "none", record.split or "none")
    digests = map_images(sample_id, corpus_dir, [record for _, record in present], "reading images again")
    for (row, _), digest in zip(present, digests, strict=True):
        expected = index.rows["sample_id"][row]
        if isinstance(digest, CheckError):
            problem("unreadable", row, f"pixels of digest {expected[:12]}", digest.what)
        elif digest != expected:
            problem("pixels", row, f"digest {expected[:12]}", f"digest {digest[:12]}")
    problems.sort(key=lambda found: (found["row"], found["kind"]))
    return {
        "ok": not problems,
        "checked": len(index.rows),
        "counts": dict(sorted(Counter(found["kind"] for found in problems).items())),
        "problems": problems,
    }
