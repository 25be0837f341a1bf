"""Tables at a terminal: what the next command needs is whole."""

import pytest
from rich.table import Table

from prsm.cli.screen import budget_left, print_table

KEY = "01a22fd7-6894-751d-b76d-467222b78d48"


@pytest.mark.parametrize("columns", [20, 70, 200])
def test_what_names_a_thing_is_whole_in_a_terminal_of_any_width(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table = Table("id", "name", "why", box=None, pad_edge=False)
    table.add_row(KEY, "operator", "too many calls failed " * 8)
    print_table(table)
    shown = capsys.readouterr().out
    assert KEY in shown
    assert "…" not in shown
    assert all(len(line) <= max(columns, 60) for line in shown.splitlines())


def test_a_budget_that_is_overspent_is_no_negative_rest() -> None:
    assert [budget_left(share) for share in (1, 0.25, 0, -29.357)] == [
        "100.0% left",
        "25.0% left",
        "0.0% left",
        "30.4x spent",
    ]
