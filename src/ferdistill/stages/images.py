"""Pack the images of the index into shards."""

from .. import workspace
from ..data import index, packing
from ..data.memo import memo
from ..params import Params


def run(params: Params) -> None:
    """data/raw/CORPUS, data/index/TAG -> data/images/TAG."""
    rows = index.read(workspace.index_csv(params.index_tag))
    directory = workspace.images(params.index_tag)
    with memo(workspace.memo()) as known:
        new = packing.pack(
            rows, workspace.corpus(params.corpus), directory, params.classes, params.scale_.image, memo=known
        )
    kept = len(list(directory.glob("*.npy"))) - new
    print(f"{len(rows.rows)} images packed; shards written: {new}, kept: {kept}")
