"""Where tables are printed."""

from typing import Any

from rich.console import Console
from rich.text import Text

from ..plain import shown


class _Plain(Console):
    """Names come from files: one with brackets or colons is not rich's markup, nor one with escapes the terminal's."""

    def render_str(self, text: str, **style: Any) -> Text:
        """Every text that is printed, in a table too."""
        return super().render_str(shown(text, lines=True), **style)


def wide() -> Console:
    """A console that shows text as it is, and cuts no column where nobody set a width: in a file, a pipe."""
    console = _Plain(markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, 160)
    return console
