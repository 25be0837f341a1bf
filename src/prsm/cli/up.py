"""``prsm up`` and ``prsm demo``: a node in the foreground, and its main job done once without a person."""

import asyncio
import os
import resource
import signal
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop
from rich.console import Console

from prsm.api.main import serve
from prsm.cli.client import KEY_FILE
from prsm.cli.workers import on_hang_up, run_workers
from prsm.core.cancellation import end_tasks
from prsm.core.config import Settings
from prsm.core.errors import ConfigError, PrsmError
from prsm.core.identity import SCOPES, Grant
from prsm.node import Node, open_node, servers

Ready = Callable[[str], None]
_LISTEN_TRIES = 2_400  # two minutes: several workers start side by side on a busy machine


console = Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def run_node(settings: Settings, ready: Ready) -> None:
    """Run a node until SIGINT, SIGTERM or SIGHUP; ``ready`` is called with the operator's key once it listens."""
    uvloop.run(_run(settings, ready))


def announce(console: Console, settings: Settings, key: str) -> None:
    """Say where the node is and how to ask it."""
    address = settings.address
    body = '{"model": "auto", "messages": [{"role": "user", "content": "What is 127 + 385?"}]}'
    where = f"\nPRSM node is up at {address}   (docs: {address}/docs, metrics: {address}/metrics)"
    console.print(where, style="bold", soft_wrap=True)
    console.print(f"API key: {key}   (kept in {settings.home / KEY_FILE})\n", soft_wrap=True)
    console.print("Ask it:")
    console.print(
        f"  curl {address}/v1/chat/completions -H 'authorization: Bearer {key}' -d '{body}'\n",
        soft_wrap=True,
        markup=False,
        highlight=False,
    )
    console.print("From Python:")
    for line in (
        "from openai import OpenAI",
        f'client = OpenAI(base_url="{address}/v1", api_key="{key}")',
        'print(client.chat.completions.create(model="auto", '
        'messages=[{"role": "user", "content": "What is 127 + 385?"}]).choices[0].message.content)',
    ):
        console.print("  " + line, soft_wrap=True, markup=False, highlight=False)
    console.print("\nMore models: prsm models add --help.   Stop: Ctrl-C.\n")


async def _run(settings: Settings, ready: Ready) -> None:
    _raise_open_files()
    task = asyncio.current_task()
    assert task is not None
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, task.cancel)
    on_hang_up(loop, task.cancel)
    _check_port_free(settings)
    try:
        async with servers(settings) as (postgres, valkey):
            if settings.workers == 1:
                async with open_node(settings, postgres, valkey, first=True) as node:
                    key = await _operator_key(node, settings.home / KEY_FILE)
                    await _serve(settings, serve(node), lambda: ready(key))
            else:
                async with open_node(settings, postgres, valkey, first=True) as node:
                    key = await _operator_key(node, settings.home / KEY_FILE)
                await _serve(settings, run_workers(settings, postgres, valkey), lambda: ready(key))
    except asyncio.CancelledError:
        console.print("stopped")


def _raise_open_files() -> None:
    """Take as many open files as one may: most systems give 1,024, and each connection is one."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


async def _serve(settings: Settings, work: Coroutine[Any, Any, None], ready: Callable[[], None]) -> None:
    listening = asyncio.create_task(work)
    try:
        await _until_listening(settings, listening)
        ready()
        await listening
    finally:
        await end_tasks([listening])


def _check_port_free(settings: Settings) -> None:
    """Fail before the servers start. Workers share their port (SO_REUSEPORT), and would with a stranger's listener."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            socket.create_server(address, family=family).close()
    except OSError as error:
        raise ConfigError(
            f"The node cannot listen on {settings.address} ({error.strerror}).",
            remedy="Stop what uses it, or choose another: prsm --port N up.",
        ) from error


async def _until_listening(settings: Settings, listening: "asyncio.Task[None]") -> None:
    """Wait for the port; a listener that fails raises here."""
    for _ in range(_LISTEN_TRIES):
        if listening.done():
            await listening
        try:
            _, writer = await asyncio.open_connection(settings.host, settings.port)
        except OSError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    raise PrsmError(f"The node does not listen on {settings.address}.")


async def _operator_key(node: Node, path: Path) -> str:
    """The first key: an admin's, made on the first start and kept in the home (mode 0600)."""
    token = _kept(path)
    if token:
        try:
            await node.identities.authenticate(token)
        except PrsmError:
            console.print(f"The key in {path} is not this database's; a new one replaces it.", style="yellow")
        else:
            return token
    principal = await node.enrolment.principal("operator", "admin")
    issued = await node.enrolment.key(principal.id, Grant("operator", SCOPES), actor=None, cap_micro=None)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(issued.token + "\n")
    return issued.token


def _kept(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""
