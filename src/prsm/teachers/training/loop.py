"""The training loop: updates by a plan, reported, checkpointed, stopped cleanly, and gone on with bit-equal.

It knows nothing of what is learnt: batches come from a ``Source``, what is to be made small from an ``Objective``. A
run that was killed goes on from its last checkpoint as if nothing had happened: on a CPU bit by bit, unless it is
bounded by time, which never passes twice alike.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import nn

from prsm.teachers.training import checkpoint
from prsm.teachers.training.launch import threads_each
from prsm.teachers.training.objective import Objective, Source
from prsm.teachers.training.parallel import ALONE, Group
from prsm.teachers.training.plan import TrainingPlan
from prsm.teachers.training.reporting import Reporter, reporters
from prsm.teachers.training.run_folder import Ended, RunFolder
from prsm.teachers.training.schedule import progress, rate_share
from prsm.teachers.training.update import NotFinite, Updater

Validate = Callable[[nn.Module], Mapping[str, float]]
"""Figures of the network, which is in evaluation mode; it draws no global random numbers. Every process is asked."""

Watch = Callable[[Mapping[str, Any]], str | None]
"""Told each line of metrics, in the first process; a sentence from it stops the run."""


def train(
    network: nn.Module,
    source: Source,
    objective: Objective,
    plan: TrainingPlan,
    folder: Path,
    *,
    record: Mapping[str, Any] | None = None,
    validate: Validate | None = None,
    watch: Watch | None = None,
    group: Group = ALONE,
    show: bool = False,
    tensorboard: bool = False,
) -> Ended:
    """Train ``network`` in place on its own device, or go on with the run in ``folder``, and say how it ended.

    ``record`` goes into ``run.json``. SIGTERM and SIGINT end it as ``stopped`` after the update at hand, with a
    checkpoint; a loss or gradient that is not finite ends it as ``failed`` before it reaches the weights. A run that
    was done is not done again: the network gets its weights. Torch's and Python's global generators are seeded. Raises
    RunInUse, ConfigError where the run was begun otherwise, and what source or objective raise, after ``ended.json``
    says so.
    """
    torch.set_num_threads(threads_each(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), plan.threads))
    torch.manual_seed(plan.seed * group.world + group.rank)
    random.seed(plan.seed * group.world + group.rank)
    run, first = RunFolder(folder), group.rank == 0
    with run.held() if first else nullcontext():
        ended = run.ended()
        group.wait()
        if first:
            run.begin(dict(record or {}) | {"plan": msgspec.to_builtins(plan)})
        events = folder / "events" if tensorboard and first else None
        with reporters(plan.steps, show=show and first, events=events) as told, _signals() as stops:
            loop = _Loop(Updater(network, objective, plan, group), source, plan, run, group, told, stops)
            loop.resume()
            if ended and ended.state == "done":
                return ended
            ended = _recorded(loop, validate, watch)
        if first:
            run.end(ended)
        group.wait()
        return ended


def _recorded(loop: "_Loop", validate: Validate | None, watch: Watch | None) -> Ended:
    """Run the loop; where it raises, the folder says what."""
    try:
        return loop.run(validate, watch)
    except BaseException as error:
        if loop.group.rank == 0:
            loop.folder.end(Ended(state="failed", reason=f"{type(error).__name__}: {error}", step=loop.step))
        raise


@dataclass(slots=True)
class _Loop:
    """One run in this process: where it stands, and since when."""

    updater: Updater
    source: Source
    plan: TrainingPlan
    folder: RunFolder
    group: Group
    reporters: Sequence[Reporter]
    stops: list[str]
    step: int = 0
    units: int = 0
    sums: Counter[str] = field(default_factory=Counter)
    elapsed_s: float = field(default_factory=lambda: -time.monotonic())
    cpu_s: float = field(default_factory=lambda: -time.process_time())
    done: float = 0.0
    said: tuple[float, float] = (0.0, 0.0)

    def run(self, validate: Validate | None, watch: Watch | None) -> Ended:
        """Make the updates that are left, report them, and leave a checkpoint."""
        self.updater.network.train()
        self.said, began = (self.units, time.monotonic()), (self.done, time.monotonic())
        while not (stopped := self._agree()) and self.done < 1:
            try:
                self._update()
            except NotFinite as what:
                return Ended(state="failed", reason=f"{what} Update {self.step + 1} was not made.", step=self.step)
            self._after_update(validate, watch, began)
        if self.done >= 1 and self.step < self.plan.steps:  # time ended it
            self._report(validate, watch, began)
        self._save()
        reason = (self.stops or ["Another process was told to stop."])[0] if stopped else ""
        return Ended(state="stopped" if stopped else "done", reason=reason, step=self.step)

    def resume(self) -> None:
        """Take up the newest checkpoint, where there is one."""
        found = self.folder.latest()
        self.group.wait()
        if found is None:
            if self.group.rank == 0:
                self.folder.cut_metrics(0)
            return
        checkpoint.load_tensors(found, self.updater.network, self.updater.optimizers, world=self.group.world)
        stood = checkpoint.load_state(found)
        self.step, self.units, self.sums = stood["step"], stood["units"], Counter(stood["sums"])
        self.elapsed_s += stood["elapsed_s"]
        self.cpu_s += stood["cpu_s"]
        if self.group.rank == 0:
            self.folder.cut_metrics(stood["metrics_bytes"])
        self.source.restore(checkpoint.load_process(found, self.group.rank))
        for reporter in self.reporters:
            reporter.step(self.step)

    def _agree(self) -> bool:
        """How much is behind, and whether any process was told to stop: all say the same."""
        here = progress(self.plan, self.step, self.cpu_s + time.process_time())
        told = torch.tensor([float(bool(self.stops)), here], dtype=torch.float64)
        stop, self.done = self.group.largest(told).tolist()
        return bool(stop) and self.done < 1

    def _update(self) -> None:
        rate = self.plan.rate * rate_share(self.plan, self.step, self.done)
        sums = self.updater.update(self.source, rate)
        self.step += 1
        self.units += round(sums["count"])
        self.sums.update(sums | {"rate": rate, "updates": 1})
        for reporter in self.reporters:
            reporter.step(self.step)

    def _after_update(self, validate: Validate | None, watch: Watch | None, began: tuple[float, float]) -> None:
        ending, due = self.step == self.plan.steps, self.plan.validate_every_steps
        validating = ending or (due is not None and self.step % due == 0)
        if validating or self.step % self.plan.report_every_steps == 0:
            self._report(validate if validating else None, watch, began)
        if self.step % self.plan.checkpoint_every_steps == 0 and not ending:
            self._save()

    def _report(self, validate: Validate | None, watch: Watch | None, began: tuple[float, float]) -> None:
        values = self._figures(began) | (self._validated(validate) if validate else {})
        if self.group.rank == 0:
            self.folder.report(values)
            for reporter in self.reporters:
                reporter.report(values)
            if watch and (stop := watch(values)):
                self.stops.append(stop)

    def _figures(self, began: tuple[float, float]) -> dict[str, Any]:
        """The line of metrics since the one before it."""
        sums, self.sums = {"loss": 0.0} | self.sums, Counter()
        count, updates = sums.pop("count", 0), sums.pop("updates", 0) or 1
        values: dict[str, Any] = {"step": self.step, "steps": self.plan.steps, "units": self.units}
        per_update = {name: sums.pop(name, 0.0) / updates for name in ("rate", "grad_norm")}
        values |= {name: value / count if count else None for name, value in sums.items()} | per_update
        now = time.monotonic()
        pace = (self.units - self.said[0]) / max(now - self.said[1], 1e-9)
        self.said = (self.units, now)
        left = (now - began[1]) * (1 - self.done) / max(self.done - began[0], 1e-9)
        return values | {
            "units_per_s": pace,
            "elapsed_s": self.elapsed_s + now,
            "cpu_s": self.cpu_s + time.process_time(),
            "left_s": left,
        }

    @torch.no_grad()
    def _validated(self, validate: Validate) -> dict[str, float]:
        self.updater.network.eval()
        found = dict(validate(self.updater.network))
        self.updater.network.train()
        return found

    def _save(self) -> None:
        """Leave a checkpoint of this step; all processes at the same time."""
        rank, first = self.group.rank, self.group.rank == 0
        with self.folder.checkpoint(self.step) if first else nullcontext(self.folder.partial(self.step)) as into:
            self.group.wait()
            checkpoint.save_process(into, rank, self.source.state())
            network, optimizers = self.updater.network, self.updater.optimizers
            checkpoint.save_tensors(into, network, optimizers, rank=rank, sharded=self.group.sharded)
            if first:
                checkpoint.save_state(into, self._stands())
            self.group.wait()
        if first:
            self.folder.prune(self.plan.keep_checkpoints)

    def _stands(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "units": self.units,
            "sums": dict(self.sums),
            "metrics_bytes": self.folder.metrics_bytes(),
            "elapsed_s": self.elapsed_s + time.monotonic(),
            "cpu_s": self.cpu_s + time.process_time(),
        }


@contextmanager
def _signals() -> Generator[list[str]]:
    """What asked this process to stop; a second signal does what it did before."""
    told: list[str] = []
    before: dict[int, Any] = {}

    def stop(number: int, _: object) -> None:
        told.append(f"{signal.Signals(number).name} stopped it.")
        signal.signal(number, before[number])

    if threading.current_thread() is threading.main_thread():
        before |= {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
