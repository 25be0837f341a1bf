"""What the answer path may ask: the built-in models, and the catalogue as targets of the router."""

from collections.abc import Sequence

from prsm.agents.call import Target
from prsm.agents.routers.model_router import roster
from prsm.federation.model_registry import Catalogue, Model, Provider
from prsm.node.parts import Node
from prsm.teachers.arithmetic.teacher import MAX_OUTPUT_TOKENS, ArithmeticTeacher

_BUILT_IN = "local"
_TEACHER_CONTEXT_TOKENS = 1_000_000
"""It reads the last message only, so that a conversation before it may have any length."""


async def reload_models(node: Node) -> None:
    """Read the catalogue anew and give it to the answer path."""
    await node.registry.reload()
    publish_models(node)


def publish_models(node: Node) -> None:
    """Give the answer path the catalogue as the registry has it now."""
    node.path.models = roster(targets(node.registry.catalogue, node.account))


def built_in(teacher: ArithmeticTeacher | None, account: str) -> tuple[Sequence[Provider], Sequence[Model]]:
    """What answers with no provider configured, priced so that the whole money path runs on a fresh machine."""
    models = [
        Model(
            name=f"{_BUILT_IN}/minilm-l6",
            provider=_BUILT_IN,
            upstream_name="minilm-l6",
            capabilities=frozenset({"embeddings"}),
            context_tokens=256,
            max_output_tokens=1,
            input_price_micro=2_000_000,
            description="Sentence embeddings for search, routing and clustering; 384 dimensions; English.",
            version="all-MiniLM-L6-v2-u8",
            owner_account=account,
        )
    ]
    if teacher:
        models.append(
            Model(
                name=f"{_BUILT_IN}/arithmetic",
                provider=_BUILT_IN,
                upstream_name="arithmetic",
                capabilities=frozenset({"chat"}),
                domain="arithmetic",
                context_tokens=_TEACHER_CONTEXT_TOKENS,
                max_output_tokens=MAX_OUTPUT_TOKENS,
                input_price_micro=20_000_000,
                output_price_micro=60_000_000,
                description="A small teacher that runs inside the node and answers arithmetic: sums, differences, "
                "products, greatest common divisors, counting legs of animals.",
                version=teacher.version,
                owner_account=account,
            )
        )
    return [Provider(_BUILT_IN, "embedded")], models


def targets(catalogue: Catalogue, executor_account: str) -> list[Target]:
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
            cid=model.cid,
            owner_account=model.owner_account,
            executor_account=executor_account,
            model=model.model,
            licence=model.licence,
            region=model.region,
            cached_input_price_micro=model.cached_input_price_micro,
        )
        for model in catalogue.models.values()
    ]
