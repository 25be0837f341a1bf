"""How a run shows itself: a bar with loss, throughput and time left on a terminal, plain lines elsewhere.

TensorBoard's event files on request. What is kept is ``metrics.jsonl``; this only shows it.
"""

# tensorboard is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter(Protocol):
    """Whoever shows a run."""

    def step(self, step: int) -> None:
        """So many updates are made."""
        ...

    def report(self, values: Mapping[str, Any]) -> None:
        """A line of metrics was written."""
        ...


class _Quiet:
    def step(self, step: int) -> None:
        pass

    def report(self, values: Mapping[str, Any]) -> None:
        pass


class _Lines(_Quiet):
    def report(self, values: Mapping[str, Any]) -> None:
        left = "" if values["left_s"] is None else f"  {_duration(values['left_s'])} left"
        print(f"step {values['step']}/{values['steps']}  {_line(values)}{left}", file=sys.stderr, flush=True)


class _Bar(_Quiet):
    def __init__(self, progress: Progress, steps: int) -> None:
        self._progress = progress
        self._task = progress.add_task("", total=steps)

    def step(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def report(self, values: Mapping[str, Any]) -> None:
        self._progress.update(self._task, description=_line(values))


class _Events(_Quiet):
    """TensorBoard's event files, beside whatever else is shown."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter  # heavy, and only on request

        self.writer = SummaryWriter(str(folder))

    def report(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, int | float) and name not in ("step", "steps"):
                self.writer.add_scalar(name, value, values["step"])


@contextmanager
def reporters(steps: int, *, show: bool, events: Path | None) -> Generator[list[Reporter]]:
    """Those who show a run of so many steps."""
    console = Console(stderr=True)
    shown: list[Reporter] = []
    written = _Events(events) if events else None
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not (show and console.is_terminal), transient=True) as progress:
        if show:
            shown.append(_Bar(progress, steps) if console.is_terminal else _Lines())
        if written:
            shown.append(written)
        try:
            yield shown
        finally:
            if written:
                written.writer.close()


def _line(values: Mapping[str, Any]) -> str:
    loss = "-" if values["loss"] is None else f"{values['loss']:.4f}"
    return f"loss {loss}  {values['units_per_s']:,.0f}/s"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
