"""The sources of models that an operator has added, how their readings went, and who may read one now.

A reading is claimed for a short time that must be renewed. The claim is checked in every transaction that writes for
it, so that who has lost it (it hung, its node was killed, the source was changed) can change nothing any more.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final
from uuid import UUID

from prsm.core.clock import uuid7
from prsm.core.database import Connection, Pool
from prsm.core.errors import ConfigError, InvalidRequest, Kind, PrsmError
from prsm.federation.discovery.seams import Ending

LEASE_S: Final = 60
"""How long a claim holds without a renewal: a killed node's source is read again after this."""

MIN_EVERY_S: Final = 60
MAX_EVERY_S: Final = 30 * 86_400
MAX_SOURCES: Final = 200
QUERIES: Final = {"huggingface": ("search", "author", "filter", "pipeline_tag", "inference_provider")}
"""What may be asked for, by kind of source; one that is not here lists all that it has."""
_SOME_ROWS: Final = 500
_STALE_PASSES: Final = 2
"""A source is stale when it was not read for this many of its intervals."""

Seal = Callable[[str, str], str]


@dataclass(frozen=True, slots=True)
class SourceConfig:
    """Where a source is, what of it is listed, in its own terms (QUERIES), and how often it is read.

    ``secret`` is plaintext here and sealed at rest.
    """

    name: str
    kind: str
    address: str = ""
    every_s: int = 3_600
    secret: str = field(default="", repr=False)
    query: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class SourceState:
    """A source as it is shown; its secret is not here. ``listings`` are those that it lists now."""

    name: str
    kind: str
    address: str
    query: Mapping[str, str]
    every_s: int
    has_secret: bool
    last_read_at: datetime | None
    last_failed_at: datetime | None
    last_error: str
    last_error_code: str
    next_read_at: datetime
    failures: int
    left_out: int
    reading: bool
    removing: bool
    listings: int = 0


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to read one source and write for it, until it is lost."""

    id: UUID
    config: SourceConfig
    mark: str
    failures: int


class ClaimLost(PrsmError):
    """Another reads this source now, or it was changed or removed; what was begun for it ends."""

    kind = Kind.CONFLICT
    code = "claim_lost"

    def __init__(self, source: str) -> None:
        super().__init__(f"The reading of {source} was taken over or the source was changed.")


def is_stale(last_read_at: datetime | None, every_s: int, at: datetime) -> bool:
    """Whether a source's listings are older than they should be."""
    return last_read_at is None or (at - last_read_at).total_seconds() > _STALE_PASSES * every_s


def check_source(config: SourceConfig, kinds: Sequence[str]) -> None:
    """Raise InvalidRequest unless the source can be kept."""
    plain = config.name.replace("-", "").replace("_", "").replace(".", "")
    if not 1 <= len(config.name) <= 64 or not plain.isascii() or not plain.isalnum():
        raise InvalidRequest("A source's name has 1 to 64 letters, digits, '-', '_' or '.'.", param="name")
    if config.kind not in kinds:
        raise InvalidRequest(f"A source's kind is one of {', '.join(kinds)}.", param="kind")
    if config.address and not config.address.startswith(("http://", "https://")):
        raise InvalidRequest("A source's address begins with http:// or https://.", param="address")
    if any(ord(char) <= 32 or ord(char) > 126 for char in config.address + config.secret):
        raise InvalidRequest("address and secret are plain ASCII without spaces.", param="address")
    if len(config.address) > 2_000 or len(config.secret) > 4_000:
        raise InvalidRequest("address has at most 2,000 and secret at most 4,000 characters.", param="address")
    terms = QUERIES.get(config.kind, ())
    if any(
        name not in terms or not 1 <= len(value) <= 200 or not value.isprintable()
        for name, value in config.query.items()
    ):
        able = f"some of {', '.join(terms)}, of 1 to 200 characters" if terms else "empty for this kind"
        raise InvalidRequest(f"A source's query is {able}.", param="query")
    if not MIN_EVERY_S <= config.every_s <= MAX_EVERY_S:
        raise InvalidRequest(f"every_s is from {MIN_EVERY_S} to {MAX_EVERY_S} seconds.", param="every_s")


class SourceBook:
    """Reads and writes the sources; ``seal`` and ``unseal`` protect their secrets at rest."""

    def __init__(self, pool: Pool, *, seal: Seal, unseal: Seal) -> None:
        self._pool = pool
        self._seal = seal
        self._unseal = unseal

    async def put(self, config: SourceConfig) -> None:
        """Add a source or change it; it is read anew from the beginning, soon.

        Without a ``secret`` the stored one stays, but only at the address that it was given for. Raises PrsmError while
        a source of that name is being removed, and when there are too many.
        """
        sealed = self._seal(config.secret, _purpose(config.name)) if config.secret else ""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute("LOCK TABLE listing_sources IN SHARE ROW EXCLUSIVE MODE")
            others = await connection.fetchval("SELECT count(*) FROM listing_sources WHERE name <> $1", config.name)
            if others >= MAX_SOURCES:
                raise InvalidRequest(f"There are {MAX_SOURCES} sources.", param="name", remedy="Remove one first.")
            written = await connection.fetchval(
                _PUT,
                config.name,
                config.kind,
                config.address.rstrip("/"),
                sealed,
                config.every_s,
                json.dumps(dict(config.query)),
            )
        if written is None:
            raise PrsmError(
                f"The source {config.name} is being removed.",
                kind=Kind.CONFLICT,
                code="source_removing",
                remedy="Try again shortly.",
            )

    async def ensure(self, config: SourceConfig) -> None:
        """Add a source that comes with the node, unless it is there."""
        await self._pool.execute(
            "INSERT INTO listing_sources (name, kind, address, every_s) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING",
            config.name,
            config.kind,
            config.address,
            config.every_s,
        )

    async def all(self) -> list[SourceState]:
        """Every source, by name."""
        return [_state(row) for row in await self._pool.fetch(_STATES, None)]

    async def one(self, name: str) -> SourceState:
        """A source by name. Raises PrsmError where there is none."""
        # No text in PostgreSQL holds a NUL, so that none can be asked for.
        rows = [] if "\0" in name else await self._pool.fetch(_STATES, name)
        if not rows:
            raise _unknown(name)
        return _state(rows[0])

    async def secret(self, name: str) -> str:
        """The source's secret, empty where it has none. Raises PrsmError, ConfigError when it cannot be opened."""
        await self.one(name)
        sealed = await self._pool.fetchval("SELECT sealed_secret FROM listing_sources WHERE name = $1", name)
        return self._unseal(sealed, _purpose(name)) if sealed else ""

    async def read_soon(self, name: str | None = None) -> None:
        """Make a source (all of them) due now, but not before a rate limit that it stated has passed.

        Raises PrsmError where there is no such source, or none that may be asked now.
        """
        state = await self.one(name) if name else None
        tag = await self._pool.execute(
            "UPDATE listing_sources SET next_read_at = now() WHERE ($1::text IS NULL OR name = $1) AND NOT removing "
            "AND (last_error_code <> 'source_rate_limited' OR next_read_at <= now())",
            name,
        )
        if state and tag == "UPDATE 0":
            raise PrsmError(
                f"{state.name} asked to be left alone until {state.next_read_at:%Y-%m-%d %H:%M:%S} UTC.",
                kind=Kind.CONFLICT,
                code="source_rate_limited",
                remedy="It is read by itself after that.",
            )

    async def claim_due(self) -> Claim | None:
        """The right to read the source that is due for longest, for LEASE_S; None where none is due and free.

        A source whose secret cannot be opened is put off with that as its error.
        """
        while True:
            row = await self._pool.fetchrow(_CLAIM, uuid7(), LEASE_S)
            if row is None:
                return None
            config = SourceConfig(
                row["name"], row["kind"], row["address"], row["every_s"], query=json.loads(row["query"])
            )
            claim = Claim(row["claim"], config, row["mark"], row["failures"])
            try:
                secret = self._unseal(row["sealed_secret"], _purpose(config.name)) if row["sealed_secret"] else ""
            except ConfigError as error:
                await self.failed(claim, error.code, str(error), float(config.every_s))
                continue
            return replace(claim, config=replace(config, secret=secret))

    async def hold(self, connection: Connection | Pool, claim: Claim) -> None:
        """Renew the claim; in a transaction, nobody else can write for the source until it ends. Raises ClaimLost."""
        tag = await connection.execute(
            "UPDATE listing_sources SET claimed_until = now() + make_interval(secs => $3) "
            "WHERE name = $1 AND claim = $2",
            claim.config.name,
            claim.id,
            LEASE_S,
        )
        if tag == "UPDATE 0":
            raise ClaimLost(claim.config.name)

    async def renew(self, claim: Claim) -> None:
        """Renew the claim by itself. Raises ClaimLost."""
        await self.hold(self._pool, claim)

    async def read(self, claim: Claim, begun_at: datetime, ending: Ending | None, wait_s: float) -> None:
        """The reading ended well (None: nothing had changed); the claim ends. Raises ClaimLost."""
        tag = await self._pool.execute(
            _READ,
            claim.config.name,
            claim.id,
            begun_at,
            claim.mark if ending is None else ending.mark,
            wait_s,
            None if ending is None else ending.left_out,
        )
        if tag == "UPDATE 0":
            raise ClaimLost(claim.config.name)

    async def failed(self, claim: Claim, code: str, reason: str, wait_s: float) -> None:
        """The reading broke off: what was kept before stays; the claim ends. A claim that was lost changes nothing."""
        await self._pool.execute(
            "UPDATE listing_sources SET last_failed_at = now(), last_error_code = $3, last_error = left($4, 500), "
            "failures = failures + 1, next_read_at = now() + make_interval(secs => $5), claim = NULL, "
            "claimed_until = NULL WHERE name = $1 AND claim = $2",
            claim.config.name,
            claim.id,
            code,
            reason,
            wait_s,
        )

    async def let_go(self, claim: Claim) -> None:
        """End the claim without an outcome, so that another node may read at once."""
        await self._pool.execute(
            "UPDATE listing_sources SET claim = NULL, claimed_until = NULL WHERE name = $1 AND claim = $2",
            claim.config.name,
            claim.id,
        )

    async def remove(self, name: str) -> None:
        """Hide all that a source lists, at once; it goes when the index has forgotten it. Raises PrsmError."""
        await self.one(name)
        async with self._pool.acquire() as connection, connection.transaction():
            tag = await connection.execute(
                "UPDATE listing_sources SET removing = true, sealed_secret = '', claim = NULL, claimed_until = NULL "
                "WHERE name = $1 AND NOT removing",
                name,
            )
            if tag == "UPDATE 0":
                raise _unknown(name)
            await connection.execute(_FORGET_EMPTY)

    async def finish_removals(self) -> None:
        """Retire what removed sources list, and forget what of it the index has forgotten, and then the sources."""
        for statement in (_RETIRE_SOME, _FORGET_SOME):
            while await self._pool.execute(statement, _SOME_ROWS) not in ("UPDATE 0", "DELETE 0"):
                pass
        await self._pool.execute(_FORGET_EMPTY)


_PUT = """
INSERT INTO listing_sources AS s (name, kind, address, sealed_secret, every_s, query)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb)
ON CONFLICT (name) DO UPDATE SET
    kind = excluded.kind, address = excluded.address, every_s = excluded.every_s, query = excluded.query,
    mark = '', next_read_at = now(), failures = 0, last_error = '', last_error_code = '',
    claim = NULL, claimed_until = NULL,
    last_read_at = CASE WHEN (s.kind, s.address, s.query) = (excluded.kind, excluded.address, excluded.query)
        THEN s.last_read_at END,
    sealed_secret = CASE WHEN excluded.sealed_secret = '' AND s.address = excluded.address
        THEN s.sealed_secret ELSE excluded.sealed_secret END
WHERE NOT s.removing
RETURNING name
"""

_STATES = """
SELECT name, kind, address, query::text AS query, every_s, sealed_secret <> '' AS has_secret, last_read_at,
    last_failed_at, last_error, last_error_code, next_read_at, failures, left_out,
    coalesce(claimed_until > now(), false) AS reading, removing,
    (SELECT count(*) FROM listings l WHERE l.source = s.name AND removed_at IS NULL) AS listings
FROM listing_sources s WHERE $1::text IS NULL OR name = $1 ORDER BY name
"""

# Some rows at a time: to write a row of a large source's hundred thousand takes a millisecond, and statements time out.
_RETIRE_SOME = """
UPDATE listings SET removed_at = coalesce(removed_at, now()), pending = true WHERE (source, name) IN (
    SELECT l.source, l.name FROM listings l JOIN listing_sources s ON s.name = l.source
    WHERE s.removing AND l.removed_at IS NULL LIMIT $1)
"""

_FORGET_SOME = """
DELETE FROM listings WHERE (source, name) IN (
    SELECT l.source, l.name FROM listings l JOIN listing_sources s ON s.name = l.source
    WHERE s.removing AND l.removed_at IS NOT NULL AND NOT l.pending LIMIT $1)
"""

_FORGET_EMPTY = """
DELETE FROM listing_sources s WHERE removing AND NOT EXISTS (SELECT FROM listings l WHERE l.source = s.name)
"""

_CLAIM = """
UPDATE listing_sources SET claim = $1, claimed_until = now() + make_interval(secs => $2) WHERE name = (
    SELECT name FROM listing_sources
    WHERE NOT removing AND next_read_at <= now() AND (claim IS NULL OR claimed_until < now())
    ORDER BY next_read_at, name LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING name, kind, address, query::text AS query, every_s, sealed_secret, mark, failures, claim
"""

_READ = """
UPDATE listing_sources SET last_read_at = $3, mark = $4, next_read_at = now() + make_interval(secs => $5),
    left_out = coalesce($6, left_out), failures = 0, last_error = '', last_error_code = '', claim = NULL,
    claimed_until = NULL
WHERE name = $1 AND claim = $2
"""


def _purpose(name: str) -> str:
    return f"listing-source:{name}"


def _state(row: Any) -> SourceState:
    values = {name: row[name] for name in SourceState.__slots__}
    return SourceState(**values | {"query": json.loads(row["query"])})


def _unknown(name: str) -> PrsmError:
    return PrsmError(
        f"There is no source {name[:64]!r}.",
        kind=Kind.NOT_FOUND,
        code="unknown_source",
        remedy="See `prsm discovery sources`.",
    )
