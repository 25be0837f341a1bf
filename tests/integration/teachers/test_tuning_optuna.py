"""Searches with Optuna in a real PostgreSQL: repeatable, resumed, in parallel, killed, beside the node's."""

import asyncio
import multiprocessing
import os
import time
from pathlib import Path

import pytest

optuna = pytest.importorskip("optuna", reason="the extra `train` is not installed")

from tests.support.servers import run_apart  # noqa: E402 - after the skip
from tests.support.tuning_objectives import STEPS, broken, slow_valley, valley  # noqa: E402 - after the skip

from prsm.core import database, schema  # noqa: E402 - after the skip
from prsm.core.errors import ConfigError, Unavailable  # noqa: E402 - after the skip
from prsm.teachers.tuning.optuna_search import SCHEMA, OptunaSearch, WorkerFailed, driver_address  # noqa: E402
from prsm.teachers.tuning.seams import Found, Report, Study  # noqa: E402 - after the skip
from prsm.teachers.tuning.space import Choice, FloatRange, IntRange, Range, Values  # noqa: E402 - after the skip

SPACE: dict[str, Range] = {
    "x": FloatRange(low=0.001, high=1, log=True),
    "n": IntRange(low=1, high=20),
    "kind": Choice(of=("right", "wrong")),
}


def study(name: str = "valley", trials: int = 20, **rest: object) -> Study:
    return Study(name=name, trials=trials, max_steps=STEPS, **rest)  # pyright: ignore[reportArgumentType]


def tried(found: Found) -> list[tuple[object, ...]]:
    return [(*trial.values.values(), trial.value, trial.steps) for trial in found.trials]


def test_a_search_in_the_database_finds_prunes_and_is_repeatable(fresh_database: str) -> None:
    kept = OptunaSearch(fresh_database).run(study(trials=30), SPACE, valley)
    in_memory = OptunaSearch().run(study(trials=30), SPACE, valley)
    assert tried(kept) == tried(in_memory)
    assert kept.best.values["kind"] == "right"
    assert kept.best.value is not None
    assert kept.best.value < 0.6
    pruned = [trial for trial in kept.trials if trial.value is None]
    assert pruned
    assert all(trial.steps < STEPS for trial in pruned)
    assert tried(OptunaSearch().run(study(trials=30, seed=1), SPACE, valley)) != tried(kept)


def test_a_study_goes_on_where_it_stood_and_draws_nothing_again(fresh_database: str) -> None:
    first = OptunaSearch(fresh_database).run(study(trials=6), SPACE, valley)
    both = OptunaSearch(fresh_database).run(study(trials=12), SPACE, valley)
    assert both.trials[:6] == first.trials
    assert len({trial.values["x"] for trial in both.trials}) == 12
    assert OptunaSearch(fresh_database).run(study(trials=12), SPACE, valley) == both


def test_steps_bound_a_study() -> None:
    found = OptunaSearch().run(study(trials=1000, steps=60), SPACE, valley)
    assert 60 <= sum(trial.steps for trial in found.trials) < 60 + STEPS


def test_workers_share_a_study(fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIED", str(tmp_path / "tried"))
    found = OptunaSearch(fresh_database).run(study(trials=12, workers=2, prunes=False), SPACE, slow_valley)
    assert 12 <= len(found.trials) <= 13  # the last one of the other worker
    assert len({trial.values["x"] for trial in found.trials}) == len(found.trials)
    assert len(set((tmp_path / "tried").read_text().split())) == 2


def test_a_worker_that_breaks_is_told(fresh_database: str) -> None:
    with pytest.raises(WorkerFailed, match="2 of 2"):
        OptunaSearch(fresh_database).run(study(workers=2), SPACE, broken)


def test_what_a_killed_worker_tried_is_tried_again(
    fresh_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIED", str(tmp_path / "tried"))
    search = OptunaSearch(fresh_database, heartbeat_s=1)
    context = multiprocessing.get_context("spawn")
    worker = context.Process(target=search.run, args=(study(trials=3, prunes=False), SPACE, slow_valley))
    worker.start()
    while not (tmp_path / "tried").exists():
        time.sleep(0.01)
    os.kill(worker.pid or 0, 9)
    worker.join()
    time.sleep(3.5)  # until its heart is seen not to beat
    found = search.run(study(trials=3, prunes=False), SPACE, valley)
    states = [trial.state for trial in optuna.load_study(study_name="valley", storage=_storage(fresh_database)).trials]
    assert optuna.trial.TrialState.FAIL in states
    first, *_ = optuna.load_study(study_name="valley", storage=_storage(fresh_database)).trials
    assert first.params in [trial.values for trial in found.trials]


def _storage(url: str) -> object:
    address, arguments = driver_address(url)
    connect = {"connect_args": arguments | {"startup_params": {"search_path": SCHEMA}}}
    return optuna.storages.RDBStorage(address.render_as_string(hide_password=False), engine_kwargs=connect)


def test_the_nodes_tables_are_not_met(fresh_database: str) -> None:
    async def after_a_study() -> tuple[str, str]:
        opened = await database.connect(fresh_database, pool_size=2, timeout_ms=30_000)
        try:
            await asyncio.to_thread(OptunaSearch(fresh_database).run, study(trials=2), SPACE, valley)
            await schema.upgrade(opened.url)
            version = await opened.pool.fetchval(f"SELECT version_num FROM {SCHEMA}.alembic_version")
            return await schema.drift(opened.url), version
        finally:
            await opened.close()

    drift, version = run_apart(after_a_study())
    assert drift == ""
    assert version.startswith("v")


def test_a_study_where_nothing_ends_is_refused() -> None:
    def endless(_values: object, report: object) -> float:
        raise optuna.TrialPruned

    with pytest.raises(ConfigError, match="came to its end"):
        OptunaSearch().run(study(trials=2), SPACE, endless)


def test_a_trial_whose_value_is_no_number_counts_and_is_never_the_best() -> None:
    asked: list[float] = []

    def often_nan(values: Values, _report: Report) -> float:
        assert len(asked) < 12, "the search goes on beyond its trials"
        asked.append(float(values["x"]))
        return float("nan") if len(asked) % 2 else float(values["x"])

    found = OptunaSearch().run(study(trials=6, prunes=False), SPACE, often_nan)
    assert [trial.value for trial in found.trials] == [None, asked[1], None, asked[3], None, asked[5]]
    assert found.best.value == min(asked[1::2])


def test_an_absent_server_is_told() -> None:
    with pytest.raises(Unavailable, match="cannot be reached"):
        OptunaSearch("postgresql://nobody:x@127.0.0.1:1/none").run(study(), SPACE, valley)
    with pytest.raises(ConfigError, match="not a PostgreSQL address"):
        OptunaSearch("sqlite:///x").run(study(), SPACE, valley)


def test_addresses_become_the_drivers() -> None:
    address, arguments = driver_address("postgresql://me:p%40ss@db.example:6000/my%20db?sslmode=require")
    assert (address.password, address.host, address.port, address.database) == ("p@ss", "db.example", 6000, "my db")
    assert arguments["ssl_context"].check_hostname
    address, arguments = driver_address("postgresql://me@/db?host=/run/pg")
    assert (address.host, arguments) == (None, {"unix_sock": "/run/pg/.s.PGSQL.5432"})
