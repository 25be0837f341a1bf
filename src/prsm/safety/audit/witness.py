"""What a witness does: it signs a checkpoint only if that is consistent with the one it signed before. Pure.

A witness that keeps to this never signs two pasts of one log, so that a log rewritten after it was seen is found out.
"""

from typing import Final

from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.core.merkle.notes import (
    COSIGNATURE,
    Checkpoint,
    MalformedNote,
    Note,
    VerifierKey,
    is_signed,
    parse_checkpoint,
    parse_note,
)
from prsm.core.merkle.tree import consistent

NAME: Final = "prsm.witness"


class Inconsistent(PrsmError):
    """The log is not the continuation of what was seen of it: it was changed, cut or swapped."""

    kind = Kind.CONFLICT
    code = "log_inconsistent"


def witness_key(node_id: str, public_key_hex: str) -> VerifierKey:
    """The key by which a node cosigns the logs of others."""
    return VerifierKey(f"{NAME}/{node_id}", public_key_hex, COSIGNATURE)


def read_signed(text: str, log_key: VerifierKey) -> tuple[Note, Checkpoint]:
    """A checkpoint of the log that its key signed. Raises InvalidRequest, or Inconsistent for another log's."""
    try:
        note = parse_note(text)
        checkpoint = parse_checkpoint(note)
    except MalformedNote as error:
        raise InvalidRequest(f"The checkpoint cannot be read: {error}.") from error
    if checkpoint.origin != log_key.name or not is_signed(note, log_key):
        raise Inconsistent(
            f"The checkpoint is not signed by {log_key.name} with the key {log_key.public_key_hex}.",
            remedy="If the node was given a new key, begin with a new file; else somebody answers in its place.",
        )
    return note, checkpoint


def check_growth(kept: Checkpoint, offered: Checkpoint, proof: list[bytes]) -> None:
    """Raise Inconsistent unless ``offered`` is ``kept`` grown (or as it was), by the log's proof of that."""
    if offered.size < kept.size:
        raise Inconsistent(f"The log has {offered.size} entries now and had {kept.size} before: it was cut.")
    if not consistent(kept.size, kept.root, offered.size, offered.root, proof):
        raise Inconsistent(
            f"The log's first {kept.size} entries are not those seen before: it was rewritten.",
            remedy="Keep both checkpoints: together they prove it.",
        )
