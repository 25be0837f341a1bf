"""The lock files hold whatever any supported Python needs: a lock is made on one version and installed on all."""

import re
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PYTHONS = ("3.11.0", "3.11.2", "3.11.7", "3.12.3", "3.13.1", "3.14.0")  # 3.11.2 is Debian 12's
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==", re.MULTILINE)


def pinned(lock: str) -> set[str]:
    return {canonicalize_name(name) for name in _PIN.findall((ROOT / "requirements" / lock).read_text())}


@pytest.mark.parametrize("lock", ["base.lock", "dev.lock"])
def test_what_a_pinned_package_needs_is_pinned_for_every_python(lock: str) -> None:
    pins = pinned(lock)
    assert len(pins) > 30
    missing = {
        f"{name}: {requirement}"
        for name in pins
        for requirement in map(Requirement, distribution(name).requires or ())
        if canonicalize_name(requirement.name) not in pins and any(needed(requirement, python) for python in PYTHONS)
    }
    assert not missing


def needed(requirement: Requirement, python: str) -> bool:
    version = {"python_full_version": python, "python_version": python.rpartition(".")[0], "extra": ""}
    return requirement.marker is None or requirement.marker.evaluate({**default_environment(), **version})
