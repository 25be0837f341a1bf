"""On whose behalf the present task works: the edge says it, and what is written to the database carries it.

Known to the task and to those it starts. Nobody is named while the node works by itself.
"""

from contextvars import ContextVar

_acting: ContextVar[tuple[str, str]] = ContextVar("acting", default=("", ""))


def act_for(actor: str, request_id: str) -> None:
    """From now on this task works for ``actor``, at the request of this id; two empty texts: for nobody."""
    _acting.set((actor, request_id))


def acting() -> tuple[str, str]:
    """For whom, and at which request."""
    return _acting.get()
