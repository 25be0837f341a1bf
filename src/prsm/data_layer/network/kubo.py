"""An own IPFS node, by the RPC API of Kubo: where our blocks are kept for others, and a further place to fetch from.

(https://docs.ipfs.tech/reference/kubo/rpc/.) Credentials go into one header and nowhere else. What is asked here is
idempotent: a block put twice is one block.
"""

import base64
import json
import secrets
import ssl
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, cast
from urllib.parse import urlencode

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.block import Block
from prsm.data_layer.codec.car import car_header, car_section
from prsm.data_layer.codec.cid import BadCid, Cid, Codec
from prsm.data_layer.network.addresses import LookUp, Origin, PrivateHosts, system_look_up
from prsm.data_layer.network.classify import of_status
from prsm.data_layer.network.http_fetch import UNPACED, HttpLimits, HttpOrigin, Reply
from prsm.data_layer.seams import Fault, Pace, StorageFault

NODE_LIMITS = HttpLimits(idle_s=60.0)
"""An own node may think longer than a gateway, over a pin for example."""

_MAX_ANSWER_BYTES = 1024 * 1024
_MAX_SAID = 200
_SEARCH_S = 10  # how long a node may look in its network for a block that it does not have
_PUT_BYTES = 512 * 1024  # js-ipfs refuses a form of 1 MiB; larger blocks go as an archive
_CODECS = {Codec.RAW: "raw", Codec.DAG_PB: "dag-pb"}
_ABSENT = ("not found", "could not find", "notfound", "enoent", "deadline exceeded", "timed out")


class KuboNode:
    """One own node; satisfies ``seams.BlockSource`` and ``seams.BlockSink``."""

    def __init__(self, http: HttpOrigin) -> None:
        self._http = http
        self.name = http.name

    @classmethod
    def at(
        cls,
        url: str,
        *,
        credentials: str = "",
        private_hosts: PrivateHosts = frozenset(),
        tls: ssl.SSLContext | None = None,
        limits: HttpLimits = NODE_LIMITS,
        look_up: LookUp = system_look_up,
    ) -> Self:
        """The node whose RPC listens at ``http(s)://host:port``.

        ``credentials`` are in the form of Kubo's own ``AuthSecret``: ``bearer:<token>`` or ``basic:<user>:<password>``.
        Raises BadAddress, InvalidRequest.
        """
        origin = Origin.parse(url)
        http = HttpOrigin(
            origin,
            name=f"node {origin}",
            private_hosts=private_hosts,
            headers=_authorization(credentials),
            tls=tls,
            limits=limits,
            look_up=look_up,
        )
        return cls(http)

    def fetch(self, cid: Cid, into: memoryview, *, deadline_s: float, pace: Pace) -> int:
        """Put the block's bytes into ``into``; the node may look for it in its network. Raises StorageFault."""
        search_s = max(1, min(_SEARCH_S, int(deadline_s - time.monotonic())))
        query = {"arg": str(cid), "timeout": f"{search_s}s"}
        with self._ask("block/get", query, f"block {cid}", deadline_s, pace) as reply:
            return reply.read_into(into)

    def has(self, cid: Cid, *, deadline_s: float) -> bool:
        """Whether the node itself has this block. Raises StorageFault."""
        query = {"arg": str(cid), "offline": "true"}
        try:
            self._call("block/stat", query, f"the state of block {cid}", deadline_s)
        except StorageFault as fault:
            if fault.code == "not_there":
                return False
            raise
        return True

    def put(self, blocks: Iterable[Block], *, deadline_s: float, pace: Pace) -> int:
        """Store blocks, at most a few MiB of them; answers how many bytes. They are not pinned. Raises StorageFault."""
        batch = list(blocks)
        if len(batch) == 1 and len(batch[0].data) <= _PUT_BYTES:
            self._put_one(batch[0], deadline_s, pace)
        elif batch:
            self._import(batch, deadline_s, pace)
        return sum(len(block.data) for block in batch)

    def pin(self, cid: Cid, *, deadline_s: float) -> None:
        """Keep everything under ``cid``. Raises StorageFault."""
        asked = f"the pin of {cid}"
        answers = self._call("pin/add", {"arg": str(cid), "recursive": "true"}, asked, deadline_s)
        if not any(_is_cid(pin, cid) for answer in answers for pin in _several(answer.get("Pins"))):
            raise self._fault(f"did not confirm {asked}")

    def unpin(self, cid: Cid, *, deadline_s: float) -> None:
        """Keep it no more; one that is not pinned is no error. Raises StorageFault."""
        try:
            self._call("pin/rm", {"arg": str(cid), "recursive": "true"}, f"the end of the pin of {cid}", deadline_s)
        except StorageFault as fault:
            if "not pinned" not in fault.message:
                raise

    def pinned(self, cid: Cid, *, deadline_s: float) -> bool:
        """Whether everything under ``cid`` is kept by a pin of its own. Raises StorageFault."""
        query = {"arg": str(cid), "type": "recursive"}
        try:
            answers = self._call("pin/ls", query, f"the pins of {cid}", deadline_s)
        except StorageFault as fault:
            if "not pinned" in fault.message:
                return False
            raise
        return any(_is_cid(key, cid) for answer in answers for key in _several(answer.get("Keys")))

    def add(self, content: Sequence[bytes | memoryview], *, chunk_bytes: int, deadline_s: float, pace: Pace) -> Cid:
        """Let the node import a file with raw leaves; answers the CID that it gives. It is not pinned."""
        query = {
            "cid-version": "1",
            "raw-leaves": "true",
            "chunker": f"size-{chunk_bytes}",
            "pin": "false",
            "progress": "false",
        }
        answers = self._call("add", query, "a file to add", deadline_s, content=content, pace=pace)
        try:
            return Cid.parse(str(answers[-1]["Hash"] if answers else ""))
        except (KeyError, BadCid):
            raise self._fault("did not name the file that it added") from None

    def cat(self, cid: Cid, into: memoryview, *, offset: int = 0, deadline_s: float, pace: Pace) -> None:
        """Fill ``into`` with the bytes of a file from ``offset`` on. Nothing is verified: the node is believed.

        Raises StorageFault, also when the file ends before ``into`` is full.
        """
        query = {"arg": str(cid), "offset": str(offset), "length": str(len(into))}
        with self._ask("cat", query, f"file {cid}", deadline_s, pace) as reply:
            size = reply.read_into(into)
        if size != len(into):
            raise self._fault(f"gave {size} of {len(into)} bytes of file {cid}")

    def version(self, *, deadline_s: float) -> str:
        """What the node runs. Raises StorageFault."""
        answers = self._call("version", {}, "its version", deadline_s)
        version = answers[0].get("Version") if answers else None
        if not isinstance(version, str):
            raise self._fault("did not tell its version")
        return version

    def probe(self, deadline_s: float) -> float:
        """Seconds that a healthy answer takes now. Raises StorageFault."""
        started_s = time.monotonic()
        self.version(deadline_s=deadline_s)
        return time.monotonic() - started_s

    def close(self) -> None:
        """End open connections; what runs fails soon after."""
        self._http.close()

    def _put_one(self, block: Block, deadline_s: float, pace: Pace) -> None:
        query = {
            "cid-codec": _CODECS[block.cid.codec],
            "mhtype": "sha2-256",
            "pin": "false",
            "allow-big-block": "true",
        }
        asked = f"block {block.cid}, to be kept"
        answers = self._call("block/put", query, asked, deadline_s, content=[block.data], pace=pace)
        key = str(answers[0].get("Key")) if answers else ""
        if not _is_cid(key, block.cid, any_codec=True):  # js-ipfs answers with a codec of its own
            raise self._fault(f"calls block {block.cid} {key[:80]!r}")

    def _import(self, batch: Sequence[Block], deadline_s: float, pace: Pace) -> None:
        archive: list[bytes | memoryview] = [car_header([batch[0].cid])]
        for block in batch:
            archive += (car_section(block.cid, len(block.data)), block.data)
        query = {"pin-roots": "false", "stats": "true", "allow-big-block": "true"}
        asked = f"{len(batch)} blocks, to be kept"
        for answer in self._call("dag/import", query, asked, deadline_s, content=archive, pace=pace):
            stats = answer.get("Stats")
            count = cast("dict[str, Any]", stats).get("BlockCount", len(batch)) if isinstance(stats, dict) else None
            if stats is not None and count != len(batch):
                raise self._fault(f"took {count} of {len(batch)} blocks")

    def _call(
        self,
        command: str,
        query: Mapping[str, str],
        asked: str,
        deadline_s: float,
        *,
        content: Sequence[bytes | memoryview] = (),
        pace: Pace = UNPACED,
    ) -> list[dict[str, Any]]:
        """Ask, with ``content`` as the one file of a form, and answer the objects that come, one a line."""
        with self._ask(command, query, asked, deadline_s, pace, content) as reply:
            text = reply.read_text(_MAX_ANSWER_BYTES)
        answers = [_parsed(line) for line in text.split("\n") if line.strip()]
        if not all(isinstance(answer, dict) for answer in answers):
            raise self._fault(f"answered {command} with something that is not its RPC")
        objects = cast("list[dict[str, Any]]", answers)
        for answer in objects:
            if answer.get("Type") == "error":  # it failed after it had said 200
                raise self._refused(500, {}, asked, str(answer.get("Message", "")))
        return objects

    @contextmanager
    def _ask(
        self,
        command: str,
        query: Mapping[str, str],
        asked: str,
        deadline_s: float,
        pace: Pace,
        content: Sequence[bytes | memoryview] = (),
    ) -> Generator[Reply]:
        headers, body = _form(content) if content else ({}, [])
        target = f"/api/v0/{command}?{urlencode(query)}"
        with self._http.exchange(
            "POST", target, asked=asked, deadline_s=deadline_s, pace=pace, headers=headers, body=body
        ) as reply:
            if reply.status != 200:
                raise self._refused(reply.status, reply.headers, asked, _said(reply))
            yield reply

    def _refused(self, status: int, headers: Mapping[str, str], asked: str, said: str) -> StorageFault:
        if status == 500 and any(word in said.lower() for word in _ABSENT):
            return StorageFault(
                f"{self.name} does not have {asked}: {said}.",
                fault=Fault.OTHER_REPLICA,
                endpoint=self.name,
                code="not_there",
            )
        return of_status(status, headers, endpoint=self.name, asked=asked, detail=said)

    def _fault(self, what: str) -> StorageFault:
        return StorageFault(f"{self.name} {what}.", fault=Fault.RETRY, endpoint=self.name)


def _authorization(credentials: str) -> dict[str, str]:
    if not credentials:
        return {}
    scheme, _, secret = credentials.partition(":")
    if scheme == "bearer" and secret:
        return {"Authorization": f"Bearer {secret}"}
    if scheme == "basic" and ":" in secret:
        return {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}
    raise InvalidRequest(
        "The credentials of a node are in no known form.",
        param="credentials",
        remedy="Write bearer:<token> or basic:<user>:<password>.",
    )


def _form(content: Sequence[bytes | memoryview]) -> tuple[dict[str, str], list[bytes | memoryview]]:
    """One file as multipart/form-data (RFC 7578)."""
    boundary = secrets.token_hex(16)
    head = (
        f"--{boundary}\r\n"
        'Content-Disposition: form-data; name="file"; filename="file"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    body = [head.encode(), *content, f"\r\n--{boundary}--\r\n".encode()]
    return {"Content-Type": f"multipart/form-data; boundary={boundary}"}, body


def _said(reply: Reply) -> str:
    """What a refusal says, on one short line."""
    try:
        text = reply.read_text(64 * 1024)
    except StorageFault:
        return ""
    answer = _parsed(text)
    message = cast("dict[str, Any]", answer).get("Message") if isinstance(answer, dict) else text
    line = "".join(char if char.isprintable() else " " for char in str(message))
    return " ".join(line.split())[:_MAX_SAID].rstrip(".")


def _parsed(text: str) -> object:
    """Some JSON; None for anything else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _several(value: object) -> Sequence[object]:
    """The items of a list or the names of an object; nothing else has any."""
    return list(cast("Sequence[object]", value)) if isinstance(value, list | dict) else ()


def _is_cid(text: object, cid: Cid, *, any_codec: bool = False) -> bool:
    try:
        named = Cid.parse(str(text))
    except BadCid:
        return False
    return named.digest == cid.digest and (any_codec or named.codec is cid.codec)
