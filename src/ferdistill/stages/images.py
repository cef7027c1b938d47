"""Pack the images of the index into one array."""

from ..corpus import images, index
from ..params import Params


def run(params: Params) -> None:
    """data/raw/CORPUS, data/index/TAG -> data/images/TAG.npy."""
    images.pack(
        index.read(params.index_csv),
        params.corpus_dir,
        params.images_npy,
        params.classes,
        params.scale_.image,
    )
