"""What commands show is printed here: text is text, whatever it looks like, and is not cut where nobody looks."""

import os

from rich.console import Console
from rich.table import Table

_NO_EDGE = 10_000


def screen() -> Console:
    """Standard output, as wide as its terminal; elsewhere a line of a table is a line, for ``grep`` and logs."""
    at_a_terminal = os.isatty(1) or os.environ.get("COLUMNS")
    return Console(markup=False, emoji=False, width=None if at_a_terminal else _NO_EDGE)


def print_table(table: Table, *, whole: int = 1) -> None:
    """Print a table; its first ``whole`` columns, by which other commands name a thing, are never cut nor broken."""
    for place, column in enumerate(table.columns):
        column.no_wrap, column.overflow = place < whole, "fold"
    console = screen()
    needed = console.measure(table, options=console.options.update(max_width=_NO_EDGE)).minimum
    console.width = max(console.width, needed)
    console.print(table, crop=False)


def budget_left(share: float) -> str:
    """What is left of an error budget, or how many times it is spent."""
    return f"{share:.1%} left" if share >= 0 else f"{1 - share:.1f}x spent"
