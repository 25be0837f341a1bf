"""A run's metrics as a picture: ``python -m prsm.teachers.training.curves DIR OUT.png``."""

# matplotlib is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import sys
from pathlib import Path
from typing import Final

from matplotlib.figure import Figure

from prsm.core.errors import ConfigError
from prsm.teachers.training.run_folder import RunFolder

_NOT_DRAWN: Final = {"step", "steps", "units", "elapsed_s", "cpu_s", "left_s"}


def draw(folder: Path, picture: Path) -> None:
    """Write a PNG with a panel for each figure over the steps; validation is drawn where its training figure is.

    Raises ConfigError where the run has reported nothing.
    """
    reports = RunFolder(folder).reports()
    series = {
        name: [(line["step"], line[name]) for line in reports if line.get(name) is not None]
        for name in {name: None for line in reports for name in line if name not in _NOT_DRAWN}
    }
    beside = {name for name in series if name.startswith("validation_") and name.removeprefix("validation_") in series}
    panels = [name for name in series if series[name] and name not in beside]
    if not panels:
        raise ConfigError(f"The run in {folder} has reported nothing yet.", param=str(folder))
    figure = Figure(figsize=(4.5 * min(3, len(panels)), 3.2 * -(-len(panels) // 3)), layout="constrained")
    for index, name in enumerate(panels, 1):
        axes = figure.add_subplot(-(-len(panels) // 3), min(3, len(panels)), index, title=name, xlabel="step")
        for kind, drawn in (("", name), ("validation", f"validation_{name}")):
            if series.get(drawn):
                axes.plot(*zip(*series[drawn], strict=True), label=kind or "training", marker="." if kind else None)
        if series.get(f"validation_{name}"):
            axes.legend()
    figure.savefig(picture, format="png", dpi=120)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
