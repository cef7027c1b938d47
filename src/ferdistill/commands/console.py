"""Where commands print their tables."""

from rich.console import Console


def wide() -> Console:
    """A console that does not cut columns short where nobody set a width: in a file, a pipe, a log."""
    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 160))
