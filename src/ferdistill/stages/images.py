"""Pack the images of the index into one array."""

from .. import workspace
from ..data import index, packing
from ..params import Params


def run(params: Params) -> None:
    """data/raw/CORPUS, data/index/TAG -> data/images/TAG.npy."""
    packing.pack(
        index.read(workspace.index_csv(params.index_tag)),
        workspace.corpus(params.corpus),
        workspace.images_npy(params.index_tag),
        params.classes,
        params.scale_.image,
    )
