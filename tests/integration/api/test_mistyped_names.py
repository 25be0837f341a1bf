"""A name that nobody has: refused, or said to be nobody's where something may be written in advance."""

from pathlib import Path

from tests.support.served_node import serve_node


async def test_what_nobody_is_called_is_said(tmp_path: Path, postgres_url: str, valkey_url: str) -> None:
    async with serve_node(tmp_path / "home", postgres_url, valkey_url) as one:
        why = ("--reason", "a drill")
        none = "None of the models has that name: the breaker waits for one. See: prsm models list.\n"
        for asked, expected in (
            (("breakers", "trip", "models", "[/m]", *why), (0, "[/m] of models is open\n", none)),
            (("breakers", "trip", "models", "local/arithmetic", *why), (0, "local/arithmetic of models is open\n", "")),
            (
                ("safety", "policy", "model:NOBODY", "--preset", "strict"),
                (0, "in force for model:NOBODY\n", "No model NOBODY is here: the policy waits for one.\n"),
            ),
            (
                ("safety", "policy", "model:arithmetic", "--preset", "observe"),
                (0, "in force for model:arithmetic\n", ""),
            ),
            (("models", "history", "x"), (0, "Nothing ever became of a model x here.\n", "")),
            (("prefer", "export", "nope"), (0, "", "Nothing is collected as nope.\n")),
            (
                ("alerts", "silence", "nope", *why),
                (1, "", "prsm: No alert is called nope. `prsm alerts rules` shows them all.\n"),
            ),
            (
                ("market", "earnings", "--account", "nope"),
                (1, "", "prsm: No account nope was ever opened.\n"),
            ),
        ):
            assert await one.cli(*asked) == expected
