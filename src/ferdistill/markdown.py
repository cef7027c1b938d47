"""Plain text in Markdown."""

import re


def escaped(text: str) -> str:
    """A text of one line as Markdown that shows it: nothing in it is markup."""
    text = re.sub(r"([\\`*|\[]|(?<!\w)_|_(?!\w))", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;")
