"""What commands show is printed here: text is text, whatever it looks like, and is not cut where nobody looks."""

import os

from rich.console import Console

_NO_EDGE = 10_000


def screen() -> Console:
    """Standard output, as wide as its terminal; elsewhere a line of a table is a line, for ``grep`` and logs."""
    at_a_terminal = os.isatty(1) or os.environ.get("COLUMNS")
    return Console(markup=False, emoji=False, width=None if at_a_terminal else _NO_EDGE)
