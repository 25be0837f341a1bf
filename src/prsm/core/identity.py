"""Who calls: principals and their API keys, of which only a keyed hash is kept.

A token is ``prsm_<prefix>_<secret>``. The prefix is itself a short keyed hash of the 256-bit secret, so that a guessed
token is refused by arithmetic, without a database call; what authenticates is the full hash, compared in constant time.
No key ever hands on a right, an expiry or a rate that it does not have itself.
"""

import asyncio
import base64
import hmac
import re
import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, cast
from uuid import UUID

import asyncpg

from prsm.core.clock import Clock, now, uuid7
from prsm.core.database import UNREACHABLE, Pool
from prsm.core.errors import InvalidRequest, Kind, PrsmError, Unavailable
from prsm.core.subject_keys import SubjectKeys, Unreadable, is_sealed

Role = Literal["user", "admin"]

CHAT = "chat"
EMBEDDINGS = "embeddings"
READ = "read"
"""Wallet, receipts, sessions, models."""
STORAGE = "storage"
"""Adding objects, keeping them, and having them fetched."""
MARKET = "market"
"""Selling: offers for one's own instances, and deciding refunds of them."""
KEYS = "keys"
"""Managing one's own keys."""
ADMIN = "admin"
"""Everything of everyone; counts only while the key's principal has the role admin."""
AUDIT = "audit"
"""Reading the audit log and having it verified; nothing else, and nothing else brings it along."""
SCOPES = frozenset({CHAT, EMBEDDINGS, READ, STORAGE, MARKET, KEYS, AUDIT, ADMIN})
USER_SCOPES = SCOPES - {ADMIN, AUDIT}

CACHE_TTL_S = 5
CACHE_MAX_KEYS = 10_000
MAX_KEYS_PER_PRINCIPAL = 1000
MAX_GRACE_S = 86_400
MAX_RATE_PER_MINUTE = 1_000_000
LIST_MAX = 1000

_TOKEN = re.compile(r"prsm_([0-9A-Za-z]{8})_([0-9A-Za-z_-]{43})")
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PREFIX_CHARS = 8
_NAME_MAX = 200
_INSERT_TRIES = 3


@dataclass(frozen=True, slots=True)
class Principal:
    """A person, team or service that owns keys and money."""

    id: UUID
    name: str
    role: Role
    created_at: datetime
    disabled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key without its secret. ``scopes`` are those that count now: no ``admin`` for a principal that is none."""

    id: UUID
    principal_id: UUID
    prefix: str
    name: str
    role: Role
    scopes: frozenset[str]
    rate_limit_per_minute: int | None
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime
    last_used_at: datetime | None
    principal_disabled: bool = False

    @property
    def is_admin(self) -> bool:
        """Role and scope, both."""
        return self.role == "admin" and ADMIN in self.scopes

    def require(self, scope: str) -> None:
        """Raise FORBIDDEN unless this key has ``scope`` (for ``admin``: and its principal the role)."""
        if not (self.is_admin if scope == ADMIN else scope in self.scopes):
            raise _forbidden(f"This API key lacks the scope {scope}.", "missing_scope", f"Use a key with {scope}.")


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key and its token; the token is shown this once and cannot be had again."""

    key: ApiKey
    token: str

    def __repr__(self) -> str:
        return f"IssuedKey({self.key.prefix})"


@dataclass(frozen=True, slots=True)
class Grant:
    """What a new key is asked to be able to do."""

    name: str
    scopes: frozenset[str] = USER_SCOPES
    expires_at: datetime | None = None
    rate_limit_per_minute: int | None = None


def check_grant(grant: Grant, owner: Principal, actor: ApiKey | None, at: datetime) -> None:
    """Raise unless ``actor`` may give ``owner`` such a key; ``None`` is the operator at the machine, who may.

    For its own principal, and for any admin key, the actor's expiry and rate bind the new key too: a short-lived key
    that leaked must not buy a lasting one.
    """
    _check_form(grant, at)
    if ADMIN in grant.scopes and owner.role != "admin":
        raise _forbidden("The scope admin needs a principal with the role admin.", "not_an_admin", "Leave it out.")
    if actor is None:
        return
    lacking = sorted(grant.scopes - actor.scopes)
    if lacking:
        raise _forbidden(
            f"A key cannot grant scopes it lacks: {', '.join(lacking)}.", "scope_not_held", "Leave them out."
        )
    if owner.id != actor.principal_id and ADMIN not in grant.scopes:
        return
    if actor.expires_at and (grant.expires_at is None or grant.expires_at > actor.expires_at):
        raise _forbidden(
            "A key cannot grant a longer life than its own.",
            "expiry_not_held",
            f"Let expires_at be at most {actor.expires_at.isoformat()}.",
        )
    rate = actor.rate_limit_per_minute
    if rate and (grant.rate_limit_per_minute is None or grant.rate_limit_per_minute > rate):
        raise _forbidden(
            "A key cannot grant a higher rate than its own.",
            "rate_not_held",
            f"Let rate_limit_per_minute be at most {rate}.",
        )


@dataclass(frozen=True, slots=True)
class _Entry:
    """What the database said about a prefix, and until when that is believed; ``key`` None: there is no such key."""

    key: ApiKey | None
    key_hash: bytes
    until: float


class Identities:
    """Principals and keys in PostgreSQL, with a bounded cache in front of ``authenticate``.

    ``pepper`` keys every hash (``NodeKey.derive("api-keys")``). Other processes learn of a revocation through
    ``forget``, or within CACHE_TTL_S without it. Every method raises Unavailable when the database is away.
    """

    def __init__(
        self,
        pool: Pool,
        pepper: bytes,
        keys: SubjectKeys,
        *,
        clock: Clock = now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._pepper = pepper
        self._keys = keys
        self._clock = clock
        self._monotonic = monotonic
        self._cache: dict[str, _Entry] = {}
        self._loading: dict[str, asyncio.Task[_Entry]] = {}

    async def authenticate(self, token: str) -> ApiKey:
        """The live key that ``token`` is; at most CACHE_TTL_S old.

        Raises UNAUTHENTICATED: ``invalid_api_key``, and only for who holds the right secret, ``expired_api_key`` or
        ``revoked_api_key``.
        """
        match = _TOKEN.fullmatch(token)
        if match is None:
            raise _invalid()
        prefix, secret = match.groups()
        entry = self._cache.get(prefix)
        if entry is None or entry.until <= self._monotonic():
            if not hmac.compare_digest(prefix, self._prefix(secret)):
                raise _invalid()
            entry = await self._lookup(prefix)
        matches = hmac.compare_digest(entry.key_hash, self._hash(secret))
        if entry.key is None or not matches:
            raise _invalid()
        return _alive(entry.key, self._clock())

    def forget(self, prefix: str) -> None:
        """Drop what is cached or being read about a prefix: somebody changed that key."""
        self._cache.pop(prefix, None)
        self._loading.pop(prefix, None)

    async def create_principal(self, name: str, role: Role = "user") -> Principal:
        """Add a principal; names need not be unique."""
        _check_name(name)
        if role not in ("user", "admin"):
            raise InvalidRequest(f"{role!r} is no role; use user or admin.", param="role")
        principal = Principal(uuid7(), name, role, self._clock())
        sealed = await self._sealed(principal.id, name)
        await self._fetchrow(
            "INSERT INTO principals (id, name, role, created_at) VALUES ($1, $2, $3, $4) RETURNING id",
            principal.id, sealed, role, principal.created_at,
        )  # fmt: skip
        return principal

    async def principal(self, principal_id: UUID) -> Principal:
        """One principal. Raises NOT_FOUND."""
        row = await self._fetchrow(f"{_PRINCIPALS} WHERE p.id = $1", principal_id)
        if row is None:
            raise _not_found("principal", principal_id)
        return self._principal(row)

    async def list_principals(self, limit: int = LIST_MAX) -> list[Principal]:
        """The oldest principals first, at most ``limit``."""
        rows = await self._fetch(f"{_PRINCIPALS} ORDER BY p.id LIMIT $1", min(limit, LIST_MAX))
        return [self._principal(row) for row in rows]

    async def disable_principal(self, principal_id: UUID) -> list[str]:
        """Refuse every key of a principal from now on; answers their prefixes, for other processes to forget."""
        rows = await self._fetch(
            "WITH gone AS (UPDATE principals SET disabled_at = coalesce(disabled_at, $2) WHERE id = $1 RETURNING id)"
            " SELECT k.prefix FROM gone LEFT JOIN api_keys k ON k.principal_id = gone.id",
            principal_id, self._clock(),
        )  # fmt: skip
        if not rows:
            raise _not_found("principal", principal_id)
        prefixes = [cast("str", row["prefix"]) for row in rows if row["prefix"]]
        for prefix in prefixes:
            self.forget(prefix)
        return prefixes

    async def create_key(self, principal_id: UUID, grant: Grant, *, actor: ApiKey | None) -> IssuedKey:
        """Make a key for a principal. Raises NOT_FOUND, FORBIDDEN, INVALID; CONFLICT when it has too many live keys."""
        _check_reach(actor, principal_id)
        owner = await self.principal(principal_id)
        at = self._clock()
        check_grant(grant, owner, actor, at)
        if owner.disabled_at:
            raise PrsmError("This principal is disabled.", kind=Kind.CONFLICT, code="principal_disabled")
        row = await self._fetchrow(_COUNT_LIVE, principal_id, at)
        if row["live"] >= MAX_KEYS_PER_PRINCIPAL:
            raise PrsmError(
                f"This principal has {MAX_KEYS_PER_PRINCIPAL} live keys, the most it may have.",
                kind=Kind.CONFLICT,
                code="too_many_keys",
                remedy="Revoke one first.",
            )
        name = await self._sealed(principal_id, grant.name)
        return await self._issue(
            _INSERT, principal_id, name, sorted(grant.scopes), grant.rate_limit_per_minute, grant.expires_at, at
        )

    async def rotate(self, key_id: UUID, *, actor: ApiKey | None, grace_s: int = 0) -> IssuedKey:
        """A new key like ``key_id``; the old one ends now, or after ``grace_s`` (at most MAX_GRACE_S).

        The actor must be able to grant what the key can do. Raises NOT_FOUND, FORBIDDEN, INVALID; CONFLICT when it
        is not live or was changed meanwhile.
        """
        if not 0 <= grace_s <= MAX_GRACE_S:
            raise InvalidRequest(f"grace_s must be from 0 to {MAX_GRACE_S} seconds.", param="grace_s")
        old = await self.key(key_id, actor=actor)
        at = self._clock()
        if old.revoked_at or (old.expires_at and old.expires_at <= at):
            raise _changed()
        owner = await self.principal(old.principal_id)
        grant = Grant(old.name, old.scopes, old.expires_at, old.rate_limit_per_minute)
        check_grant(grant, owner, actor, at)
        end = at + timedelta(seconds=grace_s)
        name = await self._sealed(old.principal_id, old.name)
        issued = await self._issue(
            _ROTATE, old.principal_id, name, sorted(old.scopes), old.rate_limit_per_minute, old.expires_at, at,
            key_id, min(end, old.expires_at or end), None if grace_s else at,
        )  # fmt: skip
        self.forget(old.prefix)
        return issued

    async def revoke(self, key_id: UUID, *, actor: ApiKey | None) -> ApiKey:
        """End a key now; ending it again changes nothing. Raises NOT_FOUND, also for keys of others."""
        key = await self.key(key_id, actor=actor)
        await self._fetchrow(
            "UPDATE api_keys SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1 RETURNING id",
            key_id, self._clock(),
        )  # fmt: skip
        self.forget(key.prefix)
        return await self.key(key_id, actor=actor)

    async def key(self, key_id: UUID, *, actor: ApiKey | None) -> ApiKey:
        """One key that the actor may manage. Raises NOT_FOUND, also for keys of others."""
        row = await self._fetchrow(f"{_SELECT} WHERE k.id = $1 AND ($2::uuid IS NULL OR k.principal_id = $2)",
                                   key_id, _reach(actor))  # fmt: skip
        if row is None:
            raise _not_found("key", key_id)
        return self._api_key(row)

    async def list_keys(
        self, *, actor: ApiKey | None, owner: UUID | None = None, limit: int = LIST_MAX
    ) -> list[ApiKey]:
        """The newest keys first, of ``owner`` or of all that the actor may manage; at most ``limit``."""
        rows = await self._fetch(
            f"{_SELECT} WHERE ($1::uuid IS NULL OR k.principal_id = $1) AND ($2::uuid IS NULL OR k.principal_id = $2)"
            " ORDER BY k.id DESC LIMIT $3",
            _reach(actor), owner, min(limit, LIST_MAX),
        )  # fmt: skip
        return [self._api_key(row) for row in rows]

    async def _issue(self, statement: str, *values: Any) -> IssuedKey:
        for _ in range(_INSERT_TRIES):
            secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
            prefix = self._prefix(secret)
            try:
                row = await self._fetchrow(statement, uuid7(), prefix, self._hash(secret), *values)
            except asyncpg.UniqueViolationError:
                continue  # another key has this prefix: one in 62^8 per key
            if row is None:
                raise _changed()
            return IssuedKey(await self.key(row["id"], actor=None), f"prsm_{prefix}_{secret}")
        raise PrsmError("No unused key prefix was found.", code="prefix_exhausted", remedy="Try again.")

    async def _lookup(self, prefix: str) -> _Entry:
        """Ask the database once for all who wait for the same prefix; one of them leaving does not end it."""
        task = self._loading.get(prefix)
        if task is None:
            task = asyncio.create_task(self._load(prefix))
            self._loading[prefix] = task
            task.add_done_callback(lambda done: done.cancelled() or done.exception())  # heard even if all have left
        return await asyncio.shield(task)

    async def _load(self, prefix: str) -> _Entry:
        try:
            row = await self._fetchrow(_TOUCH_AND_SELECT, prefix, self._clock())
            until = self._monotonic() + CACHE_TTL_S
            entry = _Entry(self._api_key(row), row["key_hash"], until) if row else _Entry(None, b"", until)
            # After a forget this answer may be older than the change: it serves who asked before, and is not kept.
            if self._loading.get(prefix) is asyncio.current_task():
                self._keep(prefix, entry)
            return entry
        finally:
            if self._loading.get(prefix) is asyncio.current_task():
                del self._loading[prefix]

    def _keep(self, prefix: str, entry: _Entry) -> None:
        self._cache.pop(prefix, None)
        if len(self._cache) >= CACHE_MAX_KEYS:
            del self._cache[next(iter(self._cache))]
        self._cache[prefix] = entry

    async def _sealed(self, subject: UUID, name: str) -> str:
        try:
            return (await self._keys.key(subject)).seal(name, _PLACE)
        except UNREACHABLE as error:
            raise _away() from error

    def _opened(self, subject: UUID, row: Any) -> str:
        """A name as its owner gave it; what nobody can open any more is empty."""
        name: str = row["name"]
        try:
            return self._keys.offer(subject, row["salt"]).open(name, _PLACE) if row["salt"] else _plain(name)
        except Unreadable:
            return ""

    def _principal(self, row: Any) -> Principal:
        return Principal(row["id"], self._opened(row["id"], row), row["role"], row["created_at"], row["disabled_at"])

    def _api_key(self, row: Any) -> ApiKey:
        scopes: frozenset[str] = frozenset(row["scopes"])
        return ApiKey(
            id=row["id"],
            principal_id=row["principal_id"],
            prefix=row["prefix"],
            name=self._opened(row["principal_id"], row),
            role=row["role"],
            scopes=scopes if row["role"] == "admin" else scopes - {ADMIN},
            rate_limit_per_minute=row["rate_limit_per_minute"],
            expires_at=row["expires_at"],
            revoked_at=row["revoked_at"],
            created_at=row["created_at"],
            last_used_at=row["last_used_at"],
            principal_disabled=row["principal_disabled"],
        )

    def _hash(self, secret: str) -> bytes:
        return hmac.digest(self._pepper, b"key:" + secret.encode(), "sha256")

    def _prefix(self, secret: str) -> str:
        number = int.from_bytes(hmac.digest(self._pepper, b"prefix:" + secret.encode(), "sha256")[:8])
        digits: list[str] = []
        for _ in range(_PREFIX_CHARS):
            number, digit = divmod(number, len(_BASE62))
            digits.append(_BASE62[digit])
        return "".join(digits)

    async def _fetchrow(self, query: str, *args: Any) -> Any:
        try:
            return await self._pool.fetchrow(query, *args)
        except UNREACHABLE as error:
            raise _away() from error

    async def _fetch(self, query: str, *args: Any) -> list[Any]:
        try:
            return await self._pool.fetch(query, *args)
        except UNREACHABLE as error:
            raise _away() from error


_PLACE = "name"
_SALTS = "LEFT JOIN subject_salts s ON s.subject_id = p.id"
_PRINCIPALS = f"SELECT p.*, s.salt FROM principals p {_SALTS}"  # noqa: S608
# The salt comes along, so that whatever this caller's request seals costs no look-up of its own.
_SELECT = (
    "SELECT k.*, p.role, p.disabled_at IS NOT NULL AS principal_disabled, s.salt"  # noqa: S608
    f" FROM api_keys k JOIN principals p ON p.id = k.principal_id {_SALTS}"
)
# last_used_at is kept to five minutes, so that a busy key does not write its row on every look-up.
_TOUCH_AND_SELECT = (
    "WITH touched AS (UPDATE api_keys SET last_used_at = $2 WHERE prefix = $1 AND revoked_at IS NULL"  # noqa: S608
    " AND (last_used_at IS NULL OR last_used_at < $2::timestamptz - interval '5 minutes'))"
    f" {_SELECT} WHERE k.prefix = $1"
)
_COUNT_LIVE = (
    "SELECT count(*) AS live FROM api_keys"
    " WHERE principal_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > $2)"
)
_COLUMNS = "(id, prefix, key_hash, principal_id, name, scopes, rate_limit_per_minute, expires_at, created_at)"
_INSERT = f"INSERT INTO api_keys {_COLUMNS} VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING id"  # noqa: S608
# One statement: the old key ends if and only if the new one exists.
_ROTATE = (
    "WITH old AS (UPDATE api_keys SET expires_at = $11, revoked_at = $12 WHERE id = $10 AND revoked_at IS NULL"  # noqa: S608
    " AND expires_at IS NOT DISTINCT FROM $8 RETURNING id)"
    f" INSERT INTO api_keys {_COLUMNS} SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9 FROM old RETURNING id"
)


def _reach(actor: ApiKey | None) -> UUID | None:
    """The only principal whose keys the actor may manage, or None for all."""
    if actor is None or actor.is_admin:
        return None
    actor.require(KEYS)
    return actor.principal_id


def _check_reach(actor: ApiKey | None, principal_id: UUID) -> None:
    if _reach(actor) not in (None, principal_id):
        raise _not_found("principal", principal_id)


def _check_form(grant: Grant, at: datetime) -> None:
    _check_name(grant.name)
    unknown = sorted(grant.scopes - SCOPES)
    if unknown or not grant.scopes:
        known = ", ".join(sorted(SCOPES))
        raise InvalidRequest(f"scopes must be one or more of {known}; not {_listed(unknown)}.", param="scopes")
    if grant.expires_at is not None and (grant.expires_at.tzinfo is None or grant.expires_at <= at):
        raise InvalidRequest("expires_at must be a time in the future with its time zone.", param="expires_at")
    rate = grant.rate_limit_per_minute
    if rate is not None and not 1 <= rate <= MAX_RATE_PER_MINUTE:
        raise InvalidRequest(
            f"rate_limit_per_minute must be from 1 to {MAX_RATE_PER_MINUTE}.", param="rate_limit_per_minute"
        )


def _check_name(name: str) -> None:
    if not name.strip() or len(name) > _NAME_MAX or not name.isprintable():
        raise InvalidRequest(f"name must be 1 to {_NAME_MAX} printable characters.", param="name")


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name[:40] for name in names) or "none"


def _alive(key: ApiKey, at: datetime) -> ApiKey:
    if key.revoked_at is not None or key.principal_disabled:
        raise _unauthenticated("This API key was revoked.", "revoked_api_key", "Use or ask for another key.")
    if key.expires_at is not None and key.expires_at <= at:
        raise _unauthenticated("This API key has expired.", "expired_api_key", "Use or ask for another key.")
    return key


def _plain(name: str) -> str:
    return "" if is_sealed(name) else name


def _invalid() -> PrsmError:
    return _unauthenticated(
        "The API key is not valid.", "invalid_api_key", "Send a key of this node as `Authorization: Bearer prsm_...`."
    )


def _unauthenticated(message: str, code: str, remedy: str) -> PrsmError:
    return PrsmError(message, kind=Kind.UNAUTHENTICATED, code=code, remedy=remedy)


def _forbidden(message: str, code: str, remedy: str) -> PrsmError:
    return PrsmError(message, kind=Kind.FORBIDDEN, code=code, remedy=remedy)


def _not_found(what: str, identifier: UUID) -> PrsmError:
    return PrsmError(f"There is no {what} {identifier}.", kind=Kind.NOT_FOUND, code=f"{what}_not_found")


def _changed() -> PrsmError:
    return PrsmError(
        "This key is no longer live, or was changed at the same time.", kind=Kind.CONFLICT, code="key_not_live"
    )


def _away() -> Unavailable:
    return Unavailable("The database of keys does not answer.", retry_after_s=1)
