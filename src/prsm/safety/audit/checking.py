"""Whether a log is what its signed checkpoints say: the pure part, over entries, tiles and notes from anywhere.

Nothing of the log is believed: hashes are computed from entries, roots from hashes, and what was signed, by the node or
by a witness elsewhere, is compared with them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from prsm.core.merkle import tiles
from prsm.core.merkle.notes import (
    MalformedNote,
    Note,
    VerifierKey,
    cosigned_at,
    is_signed,
    parse_checkpoint,
    parse_note,
)
from prsm.core.merkle.tiles import WIDTH, Tile
from prsm.core.merkle.tree import EMPTY_ROOT, HASH_BYTES, Frontier, leaf_hash

MAX_FINDINGS: Final = 100


@dataclass(slots=True)
class Findings:
    """What is wrong, as sentences; beyond the first 100 they are only counted."""

    sentences: list[str] = field(default_factory=list[str])
    count: int = 0

    def add(self, sentence: str) -> None:
        """Note one."""
        self.count += 1
        if len(self.sentences) < MAX_FINDINGS:
            self.sentences.append(sentence)


@dataclass(frozen=True, slots=True)
class Witnessed:
    """A checkpoint that somebody else kept; ``witness`` is the key whose cosignature it must carry, if any is named."""

    note: str
    witness: VerifierKey | None = None


class LogCheck:
    """One pass over a log, in its order; ``findings`` are what it then knows.

    Give each of the log's own checkpoints with ``own`` before the entry that completes it, each entry with ``add``, and
    compare the tiles that come of them; then ``finish``.
    """

    def __init__(self, log_key: VerifierKey, witnessed: Iterable[Witnessed], findings: Findings) -> None:
        self._key = log_key
        self._findings = findings
        self._frontier = Frontier()
        self._tiles: dict[Tile, bytes] = {}
        self._roots: dict[int, list[tuple[str, bytes]]] = {}
        self._newest = 0
        for given in witnessed:
            self._expect("The witnessed checkpoint", given.note, given.witness)
        self._reach()

    @property
    def size(self) -> int:
        """How many entries were given."""
        return self._frontier.size

    def own(self, size: int, text: str) -> None:
        """Take in what the log itself keeps as its checkpoint of ``size``."""
        said = self._expect(f"The checkpoint of {size} entries", text, None)
        if said is not None and said != size:
            self._findings.add(f"The checkpoint of {size} entries says that it is of {said}.")
        if size <= self.size:
            self._findings.add(f"The checkpoint of {size} entries is out of order.")
        self._newest = max(self._newest, size)

    def add(self, position: int, body: bytes) -> None:
        """Take in the next entry."""
        if position != self.size:
            self._findings.add(f"The entry at position {self.size} is missing or misplaced; {position} stands there.")
        leaf = leaf_hash(body)
        self._tiles |= tiles.append(self._tiles, self._frontier.size, (leaf,))
        self._frontier.add(leaf)
        self._reach()

    def full_tiles(self) -> Iterator[tuple[Tile, bytes]]:
        """The tiles that are complete and were not told yet: they need not be kept any longer."""
        full = [tile for tile, hashes in self._tiles.items() if len(hashes) == WIDTH * HASH_BYTES]
        for tile in full:
            yield tile, self._tiles.pop(tile)

    def edge_tiles(self) -> Iterator[tuple[Tile, bytes]]:
        """The tiles at the right edge, when all entries were given."""
        yield from self._tiles.items()

    def compare(self, tile: Tile, computed: bytes, stored: bytes | None) -> None:
        """Hold a stored tile to what the entries make it."""
        if stored != computed:
            self._findings.add(f"The tile {tiles.path_of(*tile)} does not hold the hashes of the entries.")

    def finish(self) -> None:
        """All entries were given: what was signed of a longer log was lost."""
        for size in sorted(self._roots):
            for what, _ in self._roots[size]:
                self._findings.add(f"{what} is over {size} entries; the log has {self.size}.")
        if self.size > self._newest:
            self._findings.add(f"The last checkpoint is over {self._newest} entries; the log has {self.size}.")

    def _expect(self, what: str, text: str, witness: VerifierKey | None) -> int | None:
        """Remember the root to be reached; answers at which size."""
        try:
            note = parse_note(text)
            checkpoint = parse_checkpoint(note)
        except MalformedNote as error:
            self._findings.add(f"{what} cannot be read: {error}.")
            return None
        if checkpoint.origin != self._key.name:
            self._findings.add(f"{what} is of the log {checkpoint.origin}, this is {self._key.name}.")
        self._check_signers(what, note, witness)
        self._roots.setdefault(checkpoint.size, []).append((what, checkpoint.root))
        return checkpoint.size

    def _check_signers(self, what: str, note: Note, witness: VerifierKey | None) -> None:
        if not is_signed(note, self._key):
            self._findings.add(f"{what} is not signed by the node's key {self._key.public_key_hex}.")
        if witness is not None and cosigned_at(note, witness) is None:
            self._findings.add(f"{what} is not cosigned by the witness {witness.name}.")

    def _reach(self) -> None:
        for what, root in self._roots.pop(self.size, ()):
            if root != (self._frontier.root() if self.size else EMPTY_ROOT):
                self._findings.add(f"{what} has another root than the log's first {self.size} entries.")


def check_copy(
    log_key: VerifierKey,
    entries: Sequence[bytes],
    checkpoints: Mapping[int, str],
    kept: Mapping[Tile, bytes],
    witnessed: Iterable[Witnessed] = (),
) -> Findings:
    """What is wrong with a log of which one has a whole copy."""
    findings = Findings()
    check = LogCheck(log_key, witnessed, findings)
    own = sorted(checkpoints.items(), reverse=True)
    told: set[Tile] = set()

    def compare(computed: Iterator[tuple[Tile, bytes]]) -> None:
        for tile, hashes in computed:
            told.add(tile)
            check.compare(tile, hashes, kept.get(tile))

    for position, body in enumerate(entries):
        while own and own[-1][0] <= position + 1:
            check.own(*own.pop())
        check.add(position, body)
        compare(check.full_tiles())
    compare(check.edge_tiles())
    for size, text in reversed(own):
        check.own(size, text)
    for tile in kept.keys() - told:
        findings.add(f"The tile {tiles.path_of(*tile)} is of no entries.")
    check.finish()
    return findings
