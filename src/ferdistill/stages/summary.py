"""What a run of the pipeline ends with, on the screen: the score, what it is beside HEAD's, and the next command."""

from ..params import Params
from ..plain import shown
from ..study import changes


def run(params: Params) -> None:
    """Print it. It changes no file."""
    print(shown("\n".join(["", *changes.summary(), ""]), lines=True))
