"""Where content comes from, as far as statements say: a walk over ``derived_from``, pure and bounded.

Statements may contradict each other, form cycles or be endless; the walk visits each CID once, breadth first, and says
whether it met a cycle or a bound. It does not judge whom to believe: each step names the key that vouched for it.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from prsm.data_layer.provenance.signed_statement import Provenance, Relation

MAX_DEPTH = 32
MAX_STEPS = 10_000


@dataclass(frozen=True, slots=True)
class Step:
    """``child`` came from ``parent``, says ``public_key``; ``depth`` is 1 for the parents of what was asked about."""

    child: str
    parent: str
    relation: Relation
    public_key: str
    depth: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """The ancestors of a CID. ``cyclic``: content is said to be its own ancestor; ``truncated``: there is more."""

    steps: tuple[Step, ...]
    cyclic: bool
    truncated: bool


def lineage(
    statements: Iterable[Provenance], cid: str, *, max_depth: int = MAX_DEPTH, max_steps: int = MAX_STEPS
) -> Lineage:
    """Every step from ``cid`` towards its origins, nearest first, equal input in any order giving the equal answer.

    Of several statements by one key about one CID the newest counts. Pass verified statements only.
    """
    spoken = newest(statements)
    steps: list[Step] = []
    parents: dict[str, list[str]] = {}
    generation, seen, depth = [cid], {cid}, 0
    truncated = False
    while generation and not truncated:
        depth += 1
        following: list[str] = []
        for child in generation:
            for statement in spoken.get(child, ()):
                for origin in statement.derived_from:
                    if depth > max_depth or len(steps) >= max_steps:
                        truncated = True
                        break
                    steps.append(Step(child, origin.cid, origin.relation, statement.public_key, depth))
                    parents.setdefault(child, []).append(origin.cid)
                    if origin.cid not in seen:
                        seen.add(origin.cid)
                        following.append(origin.cid)
        generation = following
    return Lineage(tuple(steps), _has_cycle(parents), truncated)


def newest(statements: Iterable[Provenance]) -> dict[str, list[Provenance]]:
    """By CID, each key's newest statement (of two with one time, the greater in the order of its text), by key."""
    latest: dict[tuple[str, str], Provenance] = {}
    for statement in statements:
        place = (statement.cid, statement.public_key)
        if place not in latest or _age(statement) > _age(latest[place]):
            latest[place] = statement
    spoken: dict[str, list[Provenance]] = {}
    for cid, key in sorted(latest):
        spoken.setdefault(cid, []).append(latest[cid, key])
    return spoken


def _age(statement: Provenance) -> tuple[object, ...]:
    return (statement.published_at, repr(statement))


def _has_cycle(parents: dict[str, list[str]]) -> bool:
    """Whether following parents can come back; by taking away, again and again, what has no parents left (Kahn)."""
    children: dict[str, list[str]] = {}
    missing: dict[str, int] = {}
    for child, origins in parents.items():
        missing[child] = len(origins)
        for origin in origins:
            children.setdefault(origin, []).append(child)
            missing.setdefault(origin, 0)
    free = [cid for cid, count in missing.items() if count == 0]
    taken = 0
    while free:
        taken += 1
        for child in children.get(free.pop(), ()):
            missing[child] -= 1
            if missing[child] == 0:
                free.append(child)
    return taken < len(missing)
