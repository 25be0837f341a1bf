"""What runs inside this node, as listings like any other's, so that one search finds it too."""

from collections.abc import Callable, Sequence

from prsm.core.clock import Clock
from prsm.core.clock import now as now_utc
from prsm.federation.discovery.entry_reading import EntryReader, known
from prsm.federation.discovery.seams import Ending, ListedPrice, Listing, Reading
from prsm.federation.discovery.whole_list import digest_of, pages_of
from prsm.federation.model_registry import Model

_NANO_PER_MICRO = 1_000


class EmbeddedSource:
    """A Source over the built-in models, which ``models`` answers."""

    def __init__(self, name: str, models: Callable[[], Sequence[Model]], *, now: Clock = now_utc) -> None:
        self.name = name
        self._models = models
        self._now = now

    async def read(self, mark: str) -> Reading | None:
        """All of them, or None where they are as they were."""
        reader = EntryReader()
        listings = [*reader.read(self._models(), self._listing)]
        now_mark = digest_of("".join(listing.name + listing.revision for listing in listings).encode())
        if mark == now_mark:
            return None
        return Reading(pages_of(listings), lambda: Ending(True, now_mark, reader.left_out))

    async def aclose(self) -> None:
        """Nothing was opened."""

    def _listing(self, model: Model) -> Listing:
        cached = model.cached_input_price_micro
        return Listing(
            name=model.upstream_name,
            description=model.description,
            capabilities=model.capabilities,
            context_tokens=known(model.context_tokens),
            max_output_tokens=known(model.max_output_tokens),
            licence=model.licence or None,
            price=ListedPrice(
                source=self.name,
                as_of=self._now(),
                currency="FTNS",
                input_nano=model.input_price_micro * _NANO_PER_MICRO,
                output_nano=model.output_price_micro * _NANO_PER_MICRO,
                cached_input_nano=None if cached is None else cached * _NANO_PER_MICRO,
            ),
        )
