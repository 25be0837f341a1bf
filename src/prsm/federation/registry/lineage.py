"""Where versions come from, and what their makers upstream earn: rules over plain data.

Parents are registered before their children and nothing changes afterwards, so that no cycle can arise here; what comes
from elsewhere is checked all the same.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from prsm.core.errors import InvalidRequest
from prsm.core.money import BASIS_POINTS
from prsm.federation.registry.versions import Ref, Registered, Version

MAX_DEPTH: Final = 16
MAX_ANCESTORS: Final = 256
MAX_ROYALTIES: Final = 16
"""Accounts upstream that one version may pay: each answer pays them all."""


@dataclass(frozen=True, slots=True)
class Maker:
    """Who earns by a version, and which parents get how many basis points of that."""

    owner: str
    parents: tuple[tuple[Ref, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Royalty:
    """``bps`` of what a version earns its owner go to the owner of something upstream."""

    account: str
    bps: int


def maker(registered: Registered) -> Maker:
    """What the division of earnings has to know of a version."""
    parents = registered.version.parents
    return Maker(registered.owner_account, tuple((parent.ref, parent.share_bps) for parent in parents))


def lineage_shares(ref: Ref, makers: Mapping[Ref, Maker]) -> tuple[Royalty, ...]:
    """What each upstream owner gets of what ``ref`` earns its owner, largest first; the rest stays with that owner.

    A parent passes on to its own parents what they are due of its part. Each part is rounded down to a whole basis
    point. A version without an owner here passes its part on and keeps nothing, which stays with the owner of ``ref``.
    Raises ValueError when an ancestor is not in ``makers``, or is its own ancestor.
    """
    due: dict[str, Fraction] = {}
    weights = {ref: Fraction(1)}
    for each in ancestors_first(ref, makers)[::-1]:
        weight, found = weights[each], makers[each]
        for parent, share_bps in found.parents:
            weights[parent] = weights.get(parent, Fraction(0)) + weight * share_bps / BASIS_POINTS
        kept = weight * (BASIS_POINTS - sum(share for _, share in found.parents)) / BASIS_POINTS
        due[found.owner] = due.get(found.owner, Fraction(0)) + kept
    own = makers[ref].owner
    shares = [Royalty(account, int(part * BASIS_POINTS)) for account, part in due.items() if account not in ("", own)]
    return tuple(sorted([s for s in shares if s.bps], key=lambda share: (-share.bps, share.account)))


def ancestors_first(ref: Ref, makers: Mapping[Ref, Maker]) -> list[Ref]:
    """``ref`` and all its ancestors, each after its parents. Raises ValueError as ``lineage_shares``."""
    order: list[Ref] = []
    open_refs: set[Ref] = set()
    done: set[Ref] = set()
    stack = [(ref, False)]
    while stack:
        each, left = stack.pop()
        if left:
            open_refs.remove(each)
            done.add(each)
            order.append(each)
        elif each not in done:
            if each in open_refs:
                raise ValueError(f"{each[0]}@{each[1]} is its own ancestor")
            if each not in makers:
                raise ValueError(f"{each[0]}@{each[1]} is not known")
            open_refs.add(each)
            stack.append((each, True))
            stack.extend((parent, False) for parent, _ in makers[each].parents if parent not in done)
    return order


def check_lineage(version: Version, owner_account: str, known: Mapping[Ref, Registered]) -> None:
    """Raise InvalidRequest unless every parent is registered as named, and all above is within the limits.

    ``known`` holds at least all ancestors that are registered.
    """
    _check_parents(version, known)
    makers = {ref: maker(each) for ref, each in known.items()}
    makers[version.ref] = Maker(owner_account, tuple((parent.ref, parent.share_bps) for parent in version.parents))
    depths: dict[Ref, int] = {}
    for ref in ancestors_first(version.ref, makers):
        depths[ref] = 1 + max((depths[parent] for parent, _ in makers[ref].parents), default=-1)
    if len(depths) > MAX_ANCESTORS + 1 or depths[version.ref] > MAX_DEPTH:
        raise InvalidRequest(
            f"A lineage has at most {MAX_DEPTH} generations and {MAX_ANCESTORS} versions above it.", param="parents"
        )
    if len(lineage_shares(version.ref, makers)) > MAX_ROYALTIES:
        raise InvalidRequest(
            f"At most {MAX_ROYALTIES} owners upstream earn by a version.",
            remedy="Give the smallest of the parents' shares up.",
            param="parents",
        )


def _check_parents(version: Version, known: Mapping[Ref, Registered]) -> None:
    for parent in version.parents:
        found = known.get(parent.ref)
        if found is None:
            raise InvalidRequest(
                f"The parent {parent.model}@{parent.version} is not registered here.",
                remedy="Register parents before their children.",
                param="parents",
            )
        if found.digest != parent.digest:
            raise InvalidRequest(
                f"The parent {parent.model}@{parent.version} has the digest {found.digest}, not the one named.",
                param="parents",
            )
