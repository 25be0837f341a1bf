"""Where settings come from: the file, the environment, the flags. Later ones win; what they mean is not known here."""

import difflib
import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from prsm.core.errors import ConfigError

ENV_PREFIX = "PRSM_"
TEST_PREFIX = "PRSM_TEST_"
CONFIG_ENV = "PRSM_CONFIG"
FILE_NAME = "prsm.toml"
REMEDY = "`prsm config` lists every setting with its meaning."


class Given(NamedTuple):
    """A value for a setting, as it was written, and where: ``environment PRSM_PORT``."""

    name: str
    value: Any
    source: str


def gathered(
    env: Mapping[str, str], flags: Mapping[str, Any], file: Path | None, *, names: Collection[str], usual_home: Path
) -> list[Given]:
    """All values that are given for settings of these ``names``, in the order in which they count.

    Raises ConfigError for a file that cannot be read and for every unknown name, with the likely one.
    """
    flags = {name: value for name, value in flags.items() if value is not None}
    path = _config_path(env, flags, file, usual_home)
    given = [
        *(Given(name, value, f"file {path}") for name, value in _read_toml(path).items()),
        *(Given(_env_name(key, names), value, f"environment {key}") for key, value in env.items() if _is_setting(key)),
        *(Given(name, value, f"flag --{name.replace('_', '-')}") for name, value in flags.items()),
    ]
    if unknown := [_unknown(name, source, names) for name, _, source in given if name not in names]:
        raise ConfigError("\n".join(unknown), remedy=REMEDY)
    return given


def _config_path(env: Mapping[str, str], flags: Mapping[str, Any], file: Path | None, usual_home: Path) -> Path | None:
    if file:
        return file
    if named := env.get(CONFIG_ENV):
        try:
            return Path(named).expanduser()
        except RuntimeError:
            raise ConfigError(f"The settings file {named} cannot be found: whose home is meant is not known.") from None
    home = flags.get("home") or env.get(f"{ENV_PREFIX}HOME") or usual_home
    try:
        path = Path(home).expanduser().absolute() / FILE_NAME
        return path if path.exists() else None
    except RuntimeError:  # what ~ stands for is not known; the setting's check says so
        return None
    except OSError as error:
        raise ConfigError(f"The node home {home} cannot be looked into: {error.strerror}.") from error


def _read_toml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"The settings file {path} cannot be read: {error.strerror}.") from error
    except ValueError as error:  # TOML and UTF-8 errors alike
        raise ConfigError(f"The settings file {path} is not valid TOML: {error}.") from error


def _is_setting(env_name: str) -> bool:
    return env_name.startswith(ENV_PREFIX) and not env_name.startswith(TEST_PREFIX) and env_name != CONFIG_ENV


def _env_name(key: str, names: Collection[str]) -> str:
    """``PRSM_PORT`` -> ``port``; what is not a setting's exact name stays as it is and is reported as unknown."""
    name = key.removeprefix(ENV_PREFIX).lower()
    return name if name in names and key == key.upper() else key


def _unknown(name: str, source: str, names: Collection[str]) -> str:
    close = difflib.get_close_matches(name.removeprefix(ENV_PREFIX).lower(), names, n=1)
    if close and source.startswith("environment"):
        close = [f"{ENV_PREFIX}{close[0].upper()}"]
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"There is no setting {name} ({source}).{hint}"
