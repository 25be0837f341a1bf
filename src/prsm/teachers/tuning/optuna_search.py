"""Searches with Optuna: TPE (Bergstra et al. 2011), Hyperband pruning (Li et al. 2018), trials kept in PostgreSQL.

Trials lie in a schema of their own, where Optuna keeps its tables and their versions; the node's are never met. A
worker that was killed leaves its trial to the next one, after the heartbeats have stopped.
"""

# optuna and pg8000 are in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import multiprocessing
import ssl
import warnings
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import optuna
import pg8000.dbapi
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import URL

from prsm.core.database import check_url
from prsm.core.errors import PrsmError, Unavailable
from prsm.teachers.tuning.seams import WORST, Found, Objective, Pruned, Study, Trial, comparable, found
from prsm.teachers.tuning.space import Choice, FloatRange, IntRange, Space, Value

SCHEMA = "prsm_tuning"
_ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
_LOCK = 7014
"""The advisory lock under which the schema and Optuna's tables are made."""


class WorkerFailed(PrsmError):
    """A worker process of a search broke off."""

    code = "tuning_worker_failed"


class OptunaSearch:
    """Searches kept in the database at ``url``, or in memory without one, which then dies with this process."""

    def __init__(self, url: str | None = None, *, heartbeat_s: int = 15) -> None:
        self._url = url
        self._heartbeat_s = heartbeat_s

    def run(self, study: Study, space: Space, objective: Objective) -> Found:
        """Search, or go on where the study of this name stands. Raises ConfigError, Unavailable and WorkerFailed."""
        opened = self._open(study)
        if study.workers == 1 or self._url is None:
            _work(opened, study, space, objective)
        else:
            self._work_apart(study, space, objective)
        return found([_trial(trial) for trial in opened.get_trials(deepcopy=False) if trial.state in _ENDED])

    def work(self, study: Study, space: Space, objective: Objective, number: int) -> None:
        """One of several workers, in a process of its own; the study has been opened before."""
        _work(self._open(study, number), study, space, objective)

    def _open(self, study: Study, worker: int = 0) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        storage = _storage(self._url, self._heartbeat_s) if self._url else None
        opened = optuna.create_study(
            storage=storage, study_name=study.name, pruner=_pruner(study), direction="minimize", load_if_exists=True
        )
        # Which trials come next depends on those that were: a search that goes on must not draw its first ones again.
        drawn = len(opened.get_trials(deepcopy=False))
        opened.sampler = _sampler(study, study.seed + 7919 * drawn + 104_729 * worker)
        return opened

    def _work_apart(self, study: Study, space: Space, objective: Objective) -> None:
        context = multiprocessing.get_context("spawn")  # threads of torch and of the driver do not survive a fork
        arguments = (study, space, objective)
        workers = [context.Process(target=self.work, args=(*arguments, number)) for number in range(study.workers)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        failed = [worker.exitcode for worker in workers if worker.exitcode]
        if failed:
            raise WorkerFailed(f"{len(failed)} of {study.workers} workers of {study.name} broke off: {failed}.")


def _work(opened: optuna.Study, study: Study, space: Space, objective: Objective) -> None:
    def asked(trial: optuna.Trial) -> float:
        values = {name: _suggested(trial, name, each) for name, each in space.items()}
        try:
            return comparable(objective(values, _reporting(trial, study)))
        except Pruned as pruned:
            raise optuna.TrialPruned from pruned

    def enough(_study: optuna.Study, _trial: FrozenTrial) -> None:
        if _is_over(opened, study):
            opened.stop()

    if not _is_over(opened, study):
        opened.optimize(asked, callbacks=[enough])


def _is_over(opened: optuna.Study, study: Study) -> bool:
    ended = [trial for trial in opened.get_trials(deepcopy=False) if trial.state in _ENDED]
    return len(ended) >= study.trials or (study.steps is not None and sum(map(_steps, ended)) >= study.steps)


def _reporting(trial: optuna.Trial, study: Study) -> Callable[[int, float], None]:
    def report(step: int, value: float) -> None:
        trial.report(comparable(value), step)
        if study.prunes and step < study.max_steps and trial.should_prune():
            raise Pruned

    return report


def _suggested(trial: optuna.Trial, name: str, of: FloatRange | IntRange | Choice) -> Value:
    match of:
        case FloatRange():
            return trial.suggest_float(name, of.low, of.high, log=of.log)
        case IntRange():
            return trial.suggest_int(name, of.low, of.high, step=of.step, log=of.log)
        case Choice():
            chosen = trial.suggest_categorical(name, of.of)
            assert chosen is not None, "None is no value of a choice"
            return chosen


def _sampler(study: Study, seed: int) -> BaseSampler:
    if study.sampler == "random":
        return RandomSampler(seed=seed)
    return TPESampler(seed=seed, n_startup_trials=study.startup_trials, multivariate=True)


def _pruner(study: Study) -> BasePruner:
    if not study.prunes:
        return NopPruner()
    return HyperbandPruner(study.min_steps, study.max_steps, study.reduction)


def _trial(trial: FrozenTrial) -> Trial:
    value = trial.value if trial.state is TrialState.COMPLETE and trial.value != WORST else None
    return Trial(number=trial.number, values=dict(trial.params), value=value, steps=_steps(trial))


def _steps(trial: FrozenTrial) -> int:
    return max(trial.intermediate_values, default=0)


def _storage(url: str, heartbeat_s: int) -> RDBStorage:
    check_url(url)
    address, arguments = driver_address(url)
    lock = _connected(address, arguments)
    try:
        cursor = lock.cursor()
        cursor.execute(f"SELECT pg_advisory_lock({_LOCK})")
        cursor.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        lock.commit()
        connecting = arguments | {"startup_params": {"search_path": SCHEMA}}
        with warnings.catch_warnings(action="ignore", category=ExperimentalWarning):  # heartbeats are, since 2021
            return RDBStorage(
                address.render_as_string(hide_password=False),
                engine_kwargs={"connect_args": connecting, "pool_size": 2, "pool_pre_ping": True},
                heartbeat_interval=heartbeat_s,
                grace_period=3 * heartbeat_s,
                heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(max_retry=3),
            )
    finally:
        lock.close()  # and with it the advisory lock


def _connected(address: URL, arguments: dict[str, Any]) -> Any:
    try:
        return pg8000.dbapi.connect(
            user=address.username or "",
            password=address.password,
            host=address.host or "localhost",
            port=address.port or 5432,
            database=address.database,
            **arguments,
        )
    except pg8000.dbapi.InterfaceError as error:
        raise Unavailable(f"PostgreSQL cannot be reached: {error}", remedy="Check PRSM_DATABASE_URL.") from error


def driver_address(url: str) -> tuple[URL, dict[str, Any]]:
    """A PostgreSQL address as SQLAlchemy takes it for pg8000, and what this driver wants as arguments instead.

    ``host=/folder`` in the query is the folder of a socket; of ``sslmode`` what asks for TLS verifies it, too.
    """
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    host, port = query.get("host") or parts.hostname, parts.port or int(query.get("port", "5432"))
    arguments: dict[str, Any] = {}
    if host and host.startswith("/"):
        arguments["unix_sock"] = f"{host}/.s.PGSQL.{port}"
    if query.get("sslmode") in ("require", "verify-ca", "verify-full"):
        arguments["ssl_context"] = ssl.create_default_context()
    address = URL.create(
        "postgresql+pg8000",
        username=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password else None,
        host=None if "unix_sock" in arguments else host,
        port=None if "unix_sock" in arguments else port,
        database=unquote(parts.path.strip("/")),
    )
    return address, arguments
