"""A client that leaves a stream of which nothing has come yet: nobody goes on working, or paying, for it."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.support.served_node import PRICES, Served, serve_node


@asynccontextmanager
async def asking(
    folder: Path, postgres_url: str, valkey_url: str
) -> AsyncGenerator[tuple[Served, asyncio.StreamReader, asyncio.StreamWriter], None]:
    """A node, and a connection that has asked for a stream of a model that never says anything."""
    async with serve_node(folder, postgres_url, valkey_url) as served:
        await served.done("PUT", "/node/v1/models/up/hang", PRICES)
        asked = {"model": "up/hang", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        body = json.dumps(asked).encode()
        head = (
            f"POST /v1/chat/completions HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {served.user}\r\n"
            f"content-length: {len(body)}\r\n\r\n"
        )
        reader, writer = await asyncio.open_connection("127.0.0.1", served.node.settings.port)
        writer.write(head.encode() + body)
        await served.upstream.until_connections(1)
        yield served, reader, writer


async def test_who_leaves_before_the_first_piece_ends_the_call_and_pays_nothing(
    tmp_path: Path, postgres_url: str, valkey_url: str
) -> None:
    async with asking(tmp_path, postgres_url, valkey_url) as (served, _reader, writer):
        writer.close()
        await served.upstream.until_connections(0)
        async with asyncio.timeout(5):
            while (wallet := await served.send("GET", "/node/v1/wallet", key=served.user))[1]["held_micro"]:
                await asyncio.sleep(0.02)
        assert wallet[1]["key"]["spent_micro"] == 0


async def test_who_closes_its_side_of_a_stream_is_not_told_that_the_node_failed(
    tmp_path: Path, postgres_url: str, valkey_url: str
) -> None:
    async with asking(tmp_path, postgres_url, valkey_url) as (_served, reader, writer):
        writer.write_eof()
        try:
            answer = await reader.read()
        except ConnectionError:
            answer = b""
        assert answer == b""
        writer.close()
