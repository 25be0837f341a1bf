"""The models that can be asked, as a snapshot made for decisions: names for callers, columns of numbers for the rules.

An instance is a row, in the order of names; made off the path of requests and never changed. A name means an instance
(``provider/upstream_name``), a model (``model``: what its release says is stable, with the candidate's share), or one
version of it (``model@stable``, ``model@candidate``, ``model@ALIAS``, ``model@VERSION``).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from prsm.agents.call import Target
from prsm.core.money import BASIS_POINTS
from prsm.federation.registry.releases import Release

MAX_CAPABILITIES: Final = 63

Floats = npt.NDArray[np.float64]
Singles = npt.NDArray[np.float32]
Ints = npt.NDArray[np.integer[Any]]
Rows = npt.NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Columns:
    """One number a row, as narrow as it may be: every decision reads them all.

    ``row`` is its place in the roster, the ids are places in the roster's lists of names. Of ten thousand shares
    of a model's sessions a row answers those from ``low`` up to ``high``; none of them where it is neither stable nor
    candidate. ``prices`` are both again, one above the other, for estimates.
    """

    row: Rows
    model: Rows
    provider: Rows
    region: Rows
    licence: Rows
    domain: Rows
    able: Ints
    context: Ints
    input_price: Floats
    output_price: Floats
    low: Ints
    high: Ints
    prices: Singles

    def take(self, rows: Rows) -> "Columns":
        """Some rows, in the order given."""
        return Columns(*(getattr(self, each.name)[..., rows] for each in fields(self)))


@dataclass(frozen=True, slots=True)
class Roster:
    """All instances, by full name and by the part after the provider's name, and in columns.

    ``of_model`` holds the rows of each model, ``models`` their names by id. ``trials`` are the models (by id) whose
    candidate has a share, with the name of the trial.
    """

    by_name: MappingProxyType[str, Target]
    by_short_name: MappingProxyType[str, tuple[Target, ...]]
    targets: tuple[Target, ...]
    columns: Columns
    models: tuple[str, ...]
    providers: tuple[str, ...]
    regions: tuple[str, ...]
    licences: tuple[str, ...]
    domains: tuple[str, ...]
    capabilities: MappingProxyType[str, int]
    of_model: MappingProxyType[str, Rows]
    releases: MappingProxyType[str, Release]
    row_of: MappingProxyType[str, int]
    trials: tuple[tuple[int, str], ...]

    def bits(self, needs: Iterable[str]) -> int | None:
        """The capabilities as a bit mask; None where no instance has one of them."""
        found = 0
        for need in needs:
            bit = self.capabilities.get(need)
            if bit is None:
                return None
            found |= bit
        return found


@dataclass(frozen=True, slots=True)
class Scope:
    """What a name means: the instances, and whether the shares of its release apply."""

    columns: Columns
    shared: bool


def roster(targets: Sequence[Target], releases: Sequence[Release] = ()) -> Roster:
    """Index instances; of two of one name the later stands."""
    by_name = {target.name: target for target in sorted(targets, key=lambda target: target.name)}
    ordered = tuple(by_name.values())
    short: dict[str, list[Target]] = {}
    groups: dict[str, list[int]] = {}
    for row, target in enumerate(ordered):
        short.setdefault(target.upstream_name, []).append(target)
        groups.setdefault(served_model(target), []).append(row)
    of_model = {name: np.array(rows, np.intp) for name, rows in groups.items()}
    known = {release.model: release for release in releases if release.model in of_model}
    capabilities = _capabilities(ordered)
    columns, names = _columns(ordered, capabilities, of_model, known)
    return Roster(
        by_name=MappingProxyType({target.name: target for target in targets}),
        by_short_name=MappingProxyType({name: tuple(group) for name, group in short.items()}),
        targets=ordered,
        columns=columns,
        **names,
        capabilities=MappingProxyType(capabilities),
        of_model=MappingProxyType(of_model),
        releases=MappingProxyType(known),
        row_of=MappingProxyType({target.name: row for row, target in enumerate(ordered)}),
        trials=_trials(names["models"], known),
    )


def released(before: Roster, targets: Sequence[Target], releases: Sequence[Release]) -> Roster:
    """``before`` with other releases of some models and these ``targets``, which are all the instances of those.

    They stand for themselves as they were, but for who earns by them: no other column is touched.
    """
    ordered, low, high = list(before.targets), before.columns.low.copy(), before.columns.high.copy()
    swapped = {target.name: target for target in targets}
    for name, target in swapped.items():
        ordered[before.row_of[name]] = target
    short = {
        name: tuple(swapped.get(each.name, each) for each in before.by_short_name[name])
        for name in {target.upstream_name for target in targets}
    }
    changed = {release.model: release for release in releases if release.model in before.of_model}
    for model, release in changed.items():
        rows = before.of_model[model]
        low[rows], high[rows] = 0, BASIS_POINTS
        _share(release, rows, ordered, low, high)
    known = {**before.releases, **changed}
    return replace(
        before,
        by_name=MappingProxyType({**before.by_name, **swapped}),
        by_short_name=MappingProxyType({**before.by_short_name, **short}),
        targets=tuple(ordered),
        columns=replace(before.columns, low=low, high=high),
        releases=MappingProxyType(known),
        trials=_trials(before.models, known),
    )


def served_model(target: Target) -> str:
    """The model that an instance serves."""
    return target.model or target.upstream_name


def scope_of(models: Roster, asked: str) -> Scope | None:
    """The instances that ``asked`` means; None where it names nothing. Full names go before models and versions."""
    row = models.row_of.get(asked)
    if row is not None:
        return Scope(models.columns.take(np.array([row])), shared=False)
    rows = models.of_model.get(asked)
    if rows is not None:
        return Scope(models.columns.take(rows), shared=asked in models.releases)
    if asked in models.by_short_name:
        short = [models.row_of[target.name] for target in models.by_short_name[asked]]
        return Scope(models.columns.take(np.array(short)), shared=False)
    name, separator, label = asked.rpartition("@")
    rows = models.of_model.get(name) if separator else None
    if rows is None:
        return None
    release = models.releases.get(name) or Release(name)
    version = release.meaning(label)
    known: list[int] = rows.tolist()
    serving = [row for row in known if version and _version(models.targets[row], release) == version]
    return Scope(models.columns.take(np.array(serving)), shared=False) if serving else None


def versions_of(models: Roster, asked: str) -> list[str]:
    """The versions that instances of the model before the last ``@`` serve; none where there is no such model."""
    name = asked.rpartition("@")[0]
    release = models.releases.get(name) or Release(name)
    rows: list[int] = models.of_model[name].tolist() if name in models.of_model else []
    return sorted({version for row in rows if (version := _version(models.targets[row], release))})


def _version(target: Target, release: Release) -> str:
    """An instance that names no version answers for what is stable."""
    return target.version or release.stable


def _trials(models: Sequence[str], releases: Mapping[str, Release]) -> tuple[tuple[int, str], ...]:
    return tuple(
        (number, f"{model}@{releases[model].candidate}")
        for number, model in enumerate(models)
        if model in releases and releases[model].candidate and releases[model].candidate_bps
    )


def _capabilities(targets: Sequence[Target]) -> dict[str, int]:
    names = sorted(set[str]().union(*{target.capabilities for target in targets}))
    return {name: 1 << place for place, name in enumerate(names[:MAX_CAPABILITIES])}


def _columns(
    targets: Sequence[Target],
    capabilities: Mapping[str, int],
    of_model: Mapping[str, Rows],
    releases: Mapping[str, Release],
) -> tuple[Columns, dict[str, tuple[str, ...]]]:
    masks = {held: sum(capabilities.get(each, 0) for each in held) for held in {t.capabilities for t in targets}}
    count = len(targets)
    ids: dict[str, Rows] = {}
    names: dict[str, tuple[str, ...]] = {}
    for column, listed, read in _NAMED:
        ids[column], names[listed] = _numbered([read(target) for target in targets], first=_FIRST.get(column, ()))
    low, high = np.zeros(count, np.int16), np.full(count, BASIS_POINTS, np.int16)
    for model, release in releases.items():
        _share(release, of_model[model], targets, low, high)
    narrow = np.min_scalar_type((1 << len(capabilities)) - 1)
    input_price = np.fromiter((t.input_price_micro for t in targets), np.float64, count)
    output_price = np.fromiter((t.output_price_micro for t in targets), np.float64, count)
    columns = Columns(
        row=np.arange(count),
        **ids,
        able=np.fromiter((masks[t.capabilities] for t in targets), narrow, count),
        context=np.fromiter((t.context_tokens for t in targets), np.int32, count),
        input_price=input_price,
        output_price=output_price,
        low=low,
        high=high,
        prices=np.stack((input_price, output_price)).astype(np.float32),
    )
    return columns, names


_NAMED: tuple[tuple[str, str, Callable[[Target], str]], ...] = (
    ("model", "models", served_model),
    ("provider", "providers", lambda target: target.provider),
    ("region", "regions", lambda target: target.region),
    ("licence", "licences", lambda target: target.licence),
    ("domain", "domains", lambda target: target.domain or ""),
)
_FIRST: Mapping[str, tuple[str, ...]] = {"domain": ("",)}
"""A generalist's domain has the id 0."""


def _numbered(values: Sequence[str], first: tuple[str, ...]) -> tuple[Rows, tuple[str, ...]]:
    ids: dict[str, int] = {value: place for place, value in enumerate(first)}
    numbers = [ids.setdefault(value, len(ids)) for value in values]
    return np.array(numbers, np.intp), tuple(ids)


def _share(release: Release, rows: Rows, targets: Sequence[Target], low: Ints, high: Ints) -> None:
    """Write which shares of a model's requests each of its instances answers.

    Where nothing serves the stable version, whatever is no candidate stands for it.
    """
    known: list[int] = rows.tolist()
    version = np.array([_version(targets[row], release) for row in known], dtype=object)
    candidate = (version == release.candidate) & bool(release.candidate)
    stable = (version == release.stable) & bool(release.stable) & ~candidate
    if not stable.any():
        stable = ~candidate
    given = release.candidate_bps if candidate.any() else 0
    high[rows] = 0
    low[rows[stable]], high[rows[stable]] = given, BASIS_POINTS
    high[rows[candidate]] = given
