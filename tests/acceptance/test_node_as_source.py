"""Another PRSM node as a source of models: a started node's own list, read as discovery reads it."""

import asyncio

from tests.support.started_node import StartedNode

from prsm.federation.discovery.openai_list import OpenAIListSource
from prsm.federation.discovery.seams import Ending, Listing


def read(node: StartedNode, mark: str = "") -> tuple[dict[str, Listing], Ending] | None:
    async def run() -> tuple[dict[str, Listing], Ending] | None:
        source = OpenAIListSource("peer", node.base_url, secret=node.key)
        try:
            reading = await source.read(mark)
            if reading is None:
                return None
            listings = [listing async for page in reading.pages for listing in page]
            return {listing.name: listing for listing in listings}, reading.ending()
        finally:
            await source.aclose()

    return asyncio.run(run())


def test_what_a_node_offers_is_understood_by_another(node: StartedNode) -> None:
    found = read(node)
    assert found is not None
    listings, ending = found
    shown = {model["id"]: model["prsm"] for model in node.call("GET", "/v1/models")["data"]}
    assert (set(listings), ending.left_out, ending.whole) == (set(shown), 0, True)
    for name, listing in listings.items():
        said, price = shown[name], listing.price
        assert price is not None
        assert (price.currency, price.source) == ("FTNS", "peer")
        assert price.input_nano == said["input_price_micro_per_mtok"] * 1_000
        assert price.output_nano == said["output_price_micro_per_mtok"] * 1_000
        assert listing.capabilities == set(said["capabilities"])
        assert (listing.context_tokens, listing.max_output_tokens) == (
            said["context_tokens"],
            said["max_output_tokens"],
        )
    assert read(node, ending.mark) is None
