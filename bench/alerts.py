"""How long after an outage began its alert fires, and after it ended the alert is resolved, in the node's own alerter.

Run: python -m bench.alerts [--rounds 2]. A started node on servers of its own that are really stopped; seconds, by the
node's log, read ten times a second.
"""

import argparse
import tempfile
from pathlib import Path

from tests.support.outages import OUTAGES, outage_world, suffer

LIMIT_S = 30.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    rounds: int = parser.parse_args().rounds
    late = 0
    with tempfile.TemporaryDirectory() as folder, outage_world(Path(folder)) as world:
        print(f"{'outage':22} {'alert':16} {'fires after s':>14} {'resolved after s':>17}")
        for _ in range(rounds):
            for outage in OUTAGES:
                if outage.rule == "DiskAlmostFull" and world.disk is None:
                    print(f"{outage.what:22} {outage.rule:16} {'no disk could be mounted':>32}")
                    continue
                fired_s, resolved_s = suffer(world, outage, 120)
                late += fired_s > LIMIT_S
                print(f"{outage.what:22} {outage.rule:16} {fired_s:14.1f} {resolved_s:17.1f}", flush=True)
    print(f"{late} of them later than {LIMIT_S:.0f} s")


if __name__ == "__main__":
    main()
