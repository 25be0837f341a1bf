"""Two models, versions or instances beside each other: what they cost, what they were evaluated at, how they do now."""

from collections.abc import Sequence

from prsm.agents.liveness.sketch import Sketch
from prsm.api.registry_schemas import Comparison, OfferShown, ScorePair, SideShown
from prsm.core.errors import Kind, PrsmError
from prsm.federation.model_registry import Model
from prsm.federation.registry.versions import Registered, split_reference
from prsm.node import Node


def compared(node: Node, left: str, right: str) -> Comparison:
    """The comparison of what two names mean. Raises PrsmError for a name that means nothing."""
    sides = _found(node, left), _found(node, right)
    ours, theirs = (_scores(registered) for registered, _ in sides)
    return Comparison(
        left=_side(node, left, *sides[0]),
        right=_side(node, right, *sides[1]),
        scores=[
            ScorePair(evaluation=key[0], metric=key[1], left_ppm=ours.get(key), right_ppm=theirs.get(key))
            for key in sorted(ours.keys() | theirs.keys())
        ],
    )


def _found(node: Node, name: str) -> tuple[Registered | None, Sequence[Model]]:
    """The registered version that a name means, and the instances that answer for it."""
    catalogue = node.registry.catalogue
    instance = catalogue.models.get(name)
    if instance is not None:
        label = instance.version or "stable"
        return catalogue.meant(instance.serves, label), [instance]
    model, label = split_reference(name)
    registered = catalogue.meant(model, label)
    release = catalogue.releases.get(model)
    version = registered.version.version if registered else label
    instances = catalogue.serving(model, version)
    if registered is None and release is None and "@" not in name:
        instances = list(catalogue.by_model.get(model, ()))
    if registered is None and not instances:
        raise PrsmError(
            f"There is no model or version {name!r}.",
            kind=Kind.NOT_FOUND,
            code="unknown_model",
            remedy="See: prsm models list.",
        )
    return registered, instances


def _side(node: Node, name: str, registered: Registered | None, instances: Sequence[Model]) -> SideShown:
    catalogue = node.registry.catalogue
    version = registered.version if registered else None
    known = version or instances[0]
    return SideShown(
        name=name,
        model=version.model if version else instances[0].serves,
        version=known.version,
        state=catalogue.statuses[version.ref].state if version else "not registered",
        licence=known.licence,
        context_tokens=known.context_tokens,
        capabilities=sorted(known.capabilities),
        instances=[_offer(node, each) for each in sorted(instances, key=lambda each: each.name)],
    )


def _offer(node: Node, model: Model) -> OfferShown:
    seen = node.liveness.board.instance(model.name)
    first_s, pace = (_median(seen.observed.first_pieces), _median(seen.observed.paces)) if seen else (None, None)
    return OfferShown(
        instance=model.name,
        input_price_micro=model.input_price_micro,
        output_price_micro=model.output_price_micro,
        cached_input_price_micro=model.cached_input_price_micro,
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens,
        licence=model.licence,
        region=model.region,
        resting=node.safety.boards.models.resting(model.name),
        availability=seen.observed.availability() if seen else None,
        first_token_ms=None if first_s is None else first_s * 1000,
        tokens_per_s=pace,
    )


def _median(sketch: Sketch) -> float | None:
    found = sketch.quantiles((0.5,))
    return found[0] if found else None


def _scores(registered: Registered | None) -> dict[tuple[str, str], int]:
    return {(s.evaluation, s.metric): s.value_ppm for s in registered.version.scores} if registered else {}
