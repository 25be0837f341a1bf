"""What the answer path may ask: the catalogue as targets of the router, with the releases of the models they serve."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from prsm.agents.call import Target
from prsm.agents.learning.exams import Evaluation
from prsm.agents.routers.model_router import roster
from prsm.agents.routers.roster import Roster, released
from prsm.federation.model_registry import Catalogue, Model
from prsm.federation.registry.lineage import Maker, lineage_shares, maker
from prsm.federation.registry.versions import Ref
from prsm.node.market import at_posted_prices
from prsm.node.parts import Node
from prsm.node.published import Published
from prsm.tokenomics.market.offers import Offer

PUBLISHED: Final = "teachers"
"""The provider of teachers that were published here: its instances answer inside this node."""
_LOOK_AGAIN_S: Final = 0.2
_PPM = 1_000_000


async def reload_models(node: Node) -> None:
    """Read what has changed of the catalogue and give it to the answer path."""
    catalogue = await node.registry.reload()
    named = {model.upstream_name for model in catalogue.models.values() if model.provider == PUBLISHED}
    if named - node.teachers.by_name.keys():  # another worker has published them
        node.teachers.take(await asyncio.to_thread(node.teachers.look))
    await publish_models(node)


async def follow_models(node: Node) -> None:
    """Wait until somebody has changed the catalogue, and follow."""
    await node.registry.changed()
    try:
        await reload_models(node)
    except BaseException:
        node.registry.outdate()
        raise


def look_again(node: Node) -> Callable[[], Awaitable[None]]:
    """What reads the catalogue for whoever asks for what is not in it; who asks meanwhile shares one reading."""
    turn = asyncio.Lock()
    read_s = -math.inf

    async def look() -> None:
        nonlocal read_s
        asked_s = time.monotonic()
        async with turn:
            if read_s > asked_s:
                return
            await asyncio.sleep(read_s + _LOOK_AGAIN_S - time.monotonic())  # names that are nowhere cost only so much
            begun_s = time.monotonic()
            await reload_models(node)
            read_s = begun_s

    return look


async def publish_models(node: Node) -> None:
    """Give the answer path the catalogue and the posted prices as they are now; at once where it has them.

    It is made in a thread, for it takes a while with many instances; requests meanwhile go by what there was.
    """
    published = node.published
    async with published.lock:
        while not published.stands(catalogue := node.registry.catalogue, offers := node.market.live):
            made = await asyncio.to_thread(_made, catalogue, offers, node.account, published, node.path.models)
            if node.registry.catalogue is catalogue and node.market.live is offers:
                node.learning.board.rate(evaluations(catalogue))
                node.path.models = made
                published.catalogue, published.offers = catalogue, offers


def _made(
    catalogue: Catalogue, offers: Mapping[str, Offer], account: str, published: Published, models: Roster
) -> Roster:
    """The instances as they are now; where only releases changed, ``models`` with those of the models concerned."""
    before = published.catalogue
    if before is not None and before.models is catalogue.models and published.offers == offers:
        changed = _registered_otherwise(before, catalogue)
        if before.offered(changed) == catalogue.offered(changed):
            instances = at_posted_prices(targets(catalogue, account, changed), offers)
            return released(models, instances, [catalogue.releases[each] for each in changed])
    instances = at_posted_prices(targets(catalogue, account), offers)
    return roster(instances, tuple(catalogue.releases.values()))


def _registered_otherwise(before: Catalogue, after: Catalogue) -> list[str]:
    """The registered models of which a version, its state or the release is another."""
    found = {name for name, release in after.releases.items() if before.releases.get(name) != release}
    found |= {ref[0] for ref, status in after.statuses.items() if before.statuses.get(ref) != status}
    return sorted(found)


def evaluations(catalogue: Catalogue) -> dict[str, list[Evaluation]]:
    """The evaluation scores of the stable versions that are shares of a whole, by model."""
    found: dict[str, list[Evaluation]] = {}
    for model in catalogue.by_model:
        if registered := catalogue.meant(model):
            scores = [score for score in registered.version.scores if 0 <= score.value_ppm <= _PPM]
            found[model] = [Evaluation(s.evaluation, s.value_ppm / _PPM, s.items) for s in scores]
    return found


def targets(catalogue: Catalogue, executor_account: str, of: Sequence[str] | None = None) -> list[Target]:
    """The instances (``of`` some models) that may be asked, with those who earn by them."""
    makers = {ref: maker(registered) for ref, registered in catalogue.versions.items()}
    royalties = {ref: _royalties(ref, makers) for ref, made in makers.items() if made.parents}
    return [
        Target(
            name=model.name,
            upstream_name=model.upstream_name,
            provider=model.provider,
            kind=(provider := catalogue.providers[model.provider]).kind,
            base_url=provider.base_url,
            api_key=provider.api_key,
            capabilities=model.capabilities,
            domain=model.domain,
            context_tokens=model.context_tokens,
            max_output_tokens=model.max_output_tokens,
            input_price_micro=model.input_price_micro,
            output_price_micro=model.output_price_micro,
            version=model.version,
            cid=model.cid or _weights(model, catalogue),
            owner_account=_owner(model, version, makers),
            executor_account=executor_account,
            model=model.model,
            licence=model.licence,
            region=model.region,
            cached_input_price_micro=model.cached_input_price_micro,
            royalties=royalties.get(version, ()),
        )
        for model in catalogue.offered(of)
        for version in [_answering(model, catalogue)]
    ]


def _answering(model: Model, catalogue: Catalogue) -> Ref:
    """The version that earns by an instance: its own, or what is stable where it names none."""
    release = catalogue.releases.get(model.serves)
    return model.serves, model.version or (release.stable if release else "")


def _weights(model: Model, catalogue: Catalogue) -> str:
    """The CID of the weights that answer, where the instance names a version that states it."""
    registered = catalogue.versions.get((model.serves, model.version))
    return registered.version.weights_cid if registered else ""


def _owner(model: Model, version: Ref, makers: Mapping[Ref, Maker]) -> str:
    """The owner of the version; else whoever the instance names."""
    return (makers[version].owner if version in makers else "") or model.owner_account


def _royalties(ref: Ref, makers: Mapping[Ref, Maker]) -> tuple[tuple[str, int], ...]:
    return tuple((royalty.account, royalty.bps) for royalty in lineage_shares(ref, makers))
