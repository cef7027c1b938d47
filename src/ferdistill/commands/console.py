"""Where tables are printed."""

from rich.console import Console


def wide() -> Console:
    """A console that shows text as it is, and does not cut columns short where nobody set a width: in a file, a pipe.

    Names come from files, and one with brackets or colons must not be read as rich's markup.
    """
    console = Console(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    return console
