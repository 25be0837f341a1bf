"""Trains the tagger of names, places, organisations and addresses on what the encoder makes of the sentences of pii_spans.

The encoder is not changed. Names and places of the rows are exchanged for others, so that kinds are learnt and not names.
Figures are of five folds by SHA-256 of the text.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import numpy.typing as npt
import torch
from onnx import ModelProto, helper, numpy_helper
from tools.screening.network import FORK_VALUE
from torch import nn
from torch.nn import functional

from prsm.core.encoder import TextEncoder
from prsm.safety.detectors.tagger import ALLOWED, FORMS, KINDS, TAGS, Tagged, forms, spans, tags

TYPES = dict(zip(("PERSON", "GPE", "ORGANIZATION", "STREET_ADDRESS"), KINDS, strict=True))
FOLDS = 5
INNER = 96
COPIES = 3
"""Times each row is learnt from with exchanged names, besides as it is."""


@dataclass(frozen=True, slots=True)
class Row:
    """A text and its spans of KINDS."""

    text: str
    spans: tuple[Tagged, ...]
    fold: int


@dataclass(frozen=True, slots=True)
class Read:
    """What is known of a row's tokens: states of the encoder, forms of words, offsets."""

    states: npt.NDArray[np.float32]
    forms: list[list[int]]
    offsets: Sequence[tuple[int, int]]


class Head(nn.Module):
    """Two layers over the states, and a weight for each form."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(width, INNER), nn.Linear(INNER, TAGS)
        self.table = nn.EmbeddingBag(FORMS, TAGS, mode="sum")
        nn.init.zeros_(self.table.weight)
        self.ways = nn.Parameter(torch.zeros(TAGS, TAGS))
        self.drop = nn.Dropout(0.3)

    def forward(self, states: torch.Tensor, numbers: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        read = self.outer(self.drop(functional.relu(self.inner(self.drop(states)))))
        return read + self.table(numbers, offsets)

    def loss(self, logits: Sequence[torch.Tensor], aims: Sequence[torch.Tensor]) -> torch.Tensor:
        """Of a linear-chain conditional random field (Lafferty et al., 2001): mean over tokens of all rows."""
        lengths = torch.tensor([len(row) for row in logits])
        scores, aim = nn.utils.rnn.pad_sequence(list(logits), True), nn.utils.rnn.pad_sequence(list(aims), True)
        inside = torch.arange(scores.shape[1])[None, :] < lengths[:, None]
        ways = self.ways + torch.from_numpy(ALLOWED)
        gold = scores.gather(2, aim[:, :, None])[:, :, 0] + functional.pad(ways[aim[:, :-1], aim[:, 1:]], (1, 0))
        every = scores[:, 0] + torch.from_numpy(ALLOWED[0])
        for index in range(1, scores.shape[1]):
            after = torch.logsumexp(every[:, :, None] + ways, 1) + scores[:, index]
            every = torch.where(inside[:, index, None], after, every)
        return (torch.logsumexp(every, 1).sum() - (gold * inside).sum()) / lengths.sum()


def read_rows(path: Path) -> list[Row]:
    found: list[Row] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        marked = sorted((s for s in row["spans"] if s["type"] in TYPES), key=lambda s: s["start"])
        fold = hashlib.sha256(row["text"].encode()).digest()[1] % FOLDS
        found.append(Row(row["text"], tuple(Tagged(TYPES[s["type"]], s["start"], s["end"]) for s in marked), fold))
    return found


def exchanged(rows: Sequence[Row], seed: int) -> list[Row]:
    """Rows with their names, places and organisations exchanged for those of other rows, sometimes in other cases."""
    chance = Random(seed)
    known: dict[str, list[str]] = {kind: [] for kind in KINDS}
    for row in rows:
        for span in row.spans:
            known[span.kind].append(row.text[span.start : span.end])
    return [_exchange(row, known, chance) for row in rows if row.spans for _ in range(COPIES)]


def _exchange(row: Row, known: dict[str, list[str]], chance: Random) -> Row:
    text, at, marked = "", 0, list[Tagged]()
    lower = chance.random() < 0.1
    for span in row.spans:
        if span.start < at:
            continue
        text += row.text[at : span.start]
        words = chance.choice(known[span.kind]) if chance.random() < 0.85 else row.text[span.start : span.end]
        marked.append(Tagged(span.kind, len(text), len(text) + len(words)))
        text, at = text + words, span.end
    text += row.text[at:]
    return Row(text.lower() if lower and len(text.lower()) == len(text) else text, tuple(marked), row.fold)


def read_tokens(rows: Sequence[Row], encoder: TextEncoder) -> list[Read]:
    """The encoder's reading of every row, its first window, as of the layer where the branch begins."""
    reader = encoder.branch(b"", {FORK_VALUE: ("batch", "tokens", "384")})
    tokens = [encoder.tokens(row.text) for row in rows]
    said = reader.read([t.ids[:254] for t in tokens])[FORK_VALUE]
    return [
        Read(states, forms(row.text, t.offsets)[:254], t.offsets[:254])
        for row, t, states in zip(rows, tokens, said, strict=True)
    ]


def targets(row: Row, read: Read) -> npt.NDArray[np.int64]:
    found = np.zeros(len(read.offsets), np.int64)
    for span in row.spans:
        inside = [i for i, (start, end) in enumerate(read.offsets) if start < span.end and end > span.start]
        number = KINDS.index(span.kind)
        for place, index in enumerate(inside):
            found[index] = 1 + 2 * number + (place > 0)
    return found


def train_head(rows: Sequence[Row], reads: Sequence[Read], seed: int, epochs: int = 12) -> Head:
    torch.manual_seed(seed)
    head = Head(reads[0].states.shape[1])
    optimiser = torch.optim.AdamW(
        [
            {"params": [*head.inner.parameters(), *head.outer.parameters()], "lr": 1e-3},
            {"params": head.table.parameters(), "lr": 1e-2},
        ],
        weight_decay=0.01,
    )
    chance = np.random.default_rng(seed)
    aims = [targets(row, read) for row, read in zip(rows, reads, strict=True)]
    usable = [i for i, read in enumerate(reads) if len(read.offsets)]
    for _ in range(epochs):
        order = chance.permutation(usable)
        for start in range(0, len(order), 32):
            batch = order[start : start + 32]
            logits = head(*_inputs([reads[i] for i in batch])).split([len(reads[i].offsets) for i in batch])
            loss = head.loss(logits, [torch.from_numpy(aims[i]) for i in batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return head.eval()


@torch.no_grad()
def tag(head: Head, read: Read, text: str) -> list[Tagged]:
    if not len(read.offsets):
        return []
    return spans(tags(head(*_inputs([read])).numpy(), head.ways.numpy()), read.offsets, text)


def scores(rows: Sequence[Row], found: Sequence[Sequence[Tagged]]) -> dict[str, tuple[int, int, int]]:
    """By kind: spans found exactly, found in all, and asked for."""
    counts: dict[str, Counter[str]] = {name: Counter() for name in ("right", "found", "asked")}
    for row, told in zip(rows, found, strict=True):
        counts["right"].update(t.kind for t in told if t in row.spans)
        counts["found"].update(t.kind for t in told)
        counts["asked"].update(s.kind for s in row.spans)
    return {kind: (counts["right"][kind], counts["found"][kind], counts["asked"][kind]) for kind in KINDS}


def cross_validate(rows: Sequence[Row], encoder: TextEncoder, seed: int) -> dict[str, tuple[int, int, int]]:
    reads = read_tokens(rows, encoder)
    total: Counter[tuple[str, int]] = Counter()
    for fold in range(FOLDS):
        train = [row for row in rows if row.fold != fold]
        more = exchanged(train, seed)
        known = [
            *(r for r, row in zip(reads, rows, strict=True) if row.fold != fold),
            *read_tokens(more, encoder),
        ]
        head = train_head([*train, *more], known, seed)
        asked = [(row, read) for row, read in zip(rows, reads, strict=True) if row.fold == fold]
        for kind, counts in scores(
            [row for row, _ in asked], [tag(head, read, row.text) for row, read in asked]
        ).items():
            for place, count in enumerate(counts):
                total[kind, place] += count
    return {kind: (total[kind, 0], total[kind, 1], total[kind, 2]) for kind in KINDS}


def train_all(rows: Sequence[Row], encoder: TextEncoder, seed: int) -> Head:
    every = [*rows, *exchanged(rows, seed)]
    return train_head(every, read_tokens(every, encoder), seed)


def tag_tensors(head: Head) -> dict[str, npt.NDArray[np.generic]]:
    """The weights outside the branch."""
    table = head.table.weight.detach().numpy().astype(np.float16)
    return {"tag_table": table, "tag_ways": head.ways.detach().numpy().astype(np.float32)}


def export_head(head: Head, prefix: str = "screen") -> bytes:
    """The layers over the states, as nodes to be put to the branch; its output is ``{prefix}.tags``."""
    grown = ModelProto()
    names = {n: f"{prefix}.tag.{n}" for n in ("first", "added", "kept", "second")}
    for part, module in (("inner", head.inner), ("outer", head.outer)):
        for kind, value in (("weight", module.weight.detach().numpy().T), ("bias", module.bias.detach().numpy())):
            array = np.ascontiguousarray(value, np.float32)
            grown.graph.initializer.append(numpy_helper.from_array(array, f"{prefix}.tag.{part}.{kind}"))
    inner, outer = (f"{prefix}.tag.{part}" for part in ("inner", "outer"))
    for kind, inputs, output in (
        ("MatMul", [FORK_VALUE, f"{inner}.weight"], names["first"]),
        ("Add", [names["first"], f"{inner}.bias"], names["added"]),
        ("Relu", [names["added"]], names["kept"]),
        ("MatMul", [names["kept"], f"{outer}.weight"], names["second"]),
        ("Add", [names["second"], f"{outer}.bias"], f"{prefix}.tags"),
    ):
        grown.graph.node.append(helper.make_node(kind, inputs, [output], name=output))
    return grown.SerializeToString(deterministic=True)


def _inputs(reads: Sequence[Read]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    numbers = [f for read in reads for f in read.forms]
    offsets = np.concatenate([[0], np.cumsum([len(f) for f in numbers])[:-1]])
    flat = np.array([n for f in numbers for n in f], np.int64)
    return (
        torch.from_numpy(np.concatenate([r.states for r in reads])),
        torch.from_numpy(flat),
        torch.from_numpy(offsets),
    )
