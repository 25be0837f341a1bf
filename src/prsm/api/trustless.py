"""What a request to the trustless gateway asks for (IPFS HTTP gateway specification). Pure; reads no store.

Only answers that can be checked by their CID are given: a raw block, or a CAR. Anything a browser would render is not.
"""

import re
from dataclasses import dataclass
from urllib.parse import parse_qsl

from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.data_layer.codec.cid import Cid
from prsm.data_layer.codec.dag_walk import EntityBytes, Scope
from prsm.data_layer.codec.directories import split_path

PREFIX = "/ipfs/"
RAW_TYPE = "application/vnd.ipld.raw"
CAR_TYPE = "application/vnd.ipld.car"
IMMUTABLE = "public, max-age=29030400, immutable"
METHODS = "GET, HEAD, OPTIONS"

CORS = [
    ("access-control-allow-origin", "*"),
    (
        "access-control-expose-headers",
        "Accept-Ranges, Content-Length, Content-Range, ETag, Retry-After, X-Ipfs-Path, X-Ipfs-Roots, X-Request-Id",
    ),
]
"""On every answer: a page of any origin may read it. No credentials, for none are looked at."""
PREFLIGHT = [
    ("allow", METHODS),
    ("access-control-allow-methods", METHODS),
    (
        "access-control-allow-headers",
        "Accept, Cache-Control, Content-Type, If-None-Match, If-Range, Range, User-Agent, X-Requested-With",
    ),
    ("access-control-max-age", "86400"),
]
"""On the answer to the question whether a request may be made (Fetch standard, CORS-preflight)."""

_MAX_PATH_BYTES = 4096
_MAX_FIELDS = 50
_ENTITY_BYTES = re.compile(r"(-?\d{1,18}):(\*|-?\d{1,18})", re.ASCII)
_WEIGHT = re.compile(r"q\s*=\s*0(\.0{0,3})?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class RawRequest:
    """One block."""

    cid: Cid


@dataclass(frozen=True, slots=True)
class CarRequest:
    """The blocks of a path below ``cid`` and of what it ends at."""

    cid: Cid
    path: str
    scope: Scope
    entity: EntityBytes | None


def parse(path: str, query: str, accept: str | None) -> RawRequest | CarRequest:
    """Read ``/ipfs/{cid}[/{path}]``, its query and its ``Accept``. Raises InvalidRequest; 406 is told by its code."""
    if len(path.encode()) > _MAX_PATH_BYTES:
        raise InvalidRequest(f"The path is longer than {_MAX_PATH_BYTES} bytes.", param="path")
    first, _, below = path.removeprefix(PREFIX).partition("/")
    cid, below = Cid.parse(first), below.rstrip("/")
    split_path(below)
    asked = _fields(query)
    wanted = asked.get("format") or _negotiated(accept)
    if wanted == "raw":
        if below:
            raise InvalidRequest("A raw block has no path below it; ask for format=car.", param="format")
        return RawRequest(cid)
    if wanted != "car":
        raise PrsmError(
            "This gateway gives what can be verified: raw blocks and CARs.",
            kind=Kind.INVALID,
            code="not_acceptable",
            remedy=f"Ask with ?format=raw or ?format=car, or Accept: {RAW_TYPE} or {CAR_TYPE}.",
            param="format",
        )
    _check_car(asked, accept or "")
    return CarRequest(cid, below, _scope(asked), _entity_bytes(asked.get("entity-bytes")))


def _fields(query: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=_MAX_FIELDS))
    except ValueError:
        raise InvalidRequest(f"The query has more than {_MAX_FIELDS} fields.", param="query") from None


def _negotiated(accept: str | None) -> str:
    """The first of the accepted types that is served here; the specification has no use for weights but 0."""
    for part in (accept or "").split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        if any(_WEIGHT.fullmatch(parameter) for parameter in parameters):
            continue
        if name.lower() in (RAW_TYPE, CAR_TYPE):
            return name.lower().rpartition(".")[2]
    return ""


def _check_car(asked: dict[str, str], accept: str) -> None:
    parameters = {
        name.strip().lower(): value.strip()
        for part in accept.split(",")
        if part.strip().lower().startswith(CAR_TYPE)
        for name, _, value in (piece.partition("=") for piece in part.split(";")[1:])
    }
    version = asked.get("car-version") or parameters.get("version", "1")
    order = asked.get("car-order") or parameters.get("order", "dfs")
    repeats = asked.get("car-dups") or parameters.get("dups", "n")
    if version != "1":
        raise InvalidRequest("Only CAR version 1 is given.", param="car-version")
    if order not in ("dfs", "unk"):
        raise InvalidRequest("Blocks come in depth-first order (dfs); no other is given.", param="car-order")
    if repeats not in ("y", "n"):
        raise InvalidRequest("car-dups is y or n.", param="car-dups")


def _scope(asked: dict[str, str]) -> Scope:
    """By default all, but for a range of bytes the entity that has them."""
    scope = asked.get("dag-scope", "entity" if "entity-bytes" in asked else "all")
    if scope not in ("all", "entity", "block"):
        raise InvalidRequest("dag-scope is all, entity or block.", param="dag-scope")
    return scope


def _entity_bytes(text: str | None) -> EntityBytes | None:
    if text is None:
        return None
    match = _ENTITY_BYTES.fullmatch(text)
    if match is None:
        raise InvalidRequest("entity-bytes is FROM:TO with whole numbers; TO may be *.", param="entity-bytes")
    first, last = int(match[1]), None if match[2] == "*" else int(match[2])
    if last is not None and (first < 0) == (last < 0) and last < first:
        raise InvalidRequest("entity-bytes ends before it begins.", param="entity-bytes")
    return EntityBytes(first, last)
