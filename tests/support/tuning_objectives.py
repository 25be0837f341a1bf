"""Objectives that searches are tested with; here, so that worker processes can import them."""

import os
import time
from pathlib import Path

from prsm.teachers.tuning.seams import Report
from prsm.teachers.tuning.space import Values

STEPS = 9


def valley(values: Values, report: Report) -> float:
    """A curve that falls to the distance of ``x`` from 0.3 and ``n`` from 7, plus one for the wrong ``kind``."""
    far = abs(float(values["x"]) - 0.3) + abs(int(values["n"]) - 7) / 10 + (values["kind"] != "right")
    for step in range(1, STEPS + 1):
        report(step, far + 1 / step)
    return far + 1 / STEPS


def slow_valley(values: Values, report: Report) -> float:
    """The same, and each trial leaves a line in the file of the environment variable TRIED."""
    with Path(os.environ["TRIED"]).open("a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.3)
    return valley(values, report)


def broken(_values: Values, _report: Report) -> float:
    """Cannot be tried."""
    raise RuntimeError("broken on purpose")
