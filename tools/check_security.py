"""Refuses secrets in tracked files, what bandit finds in ``src``, and locked dependencies with known vulnerabilities.

    python tools/check_security.py [--only secrets|code|dependencies]

A dependency that could not be looked up counts as vulnerable; where the index of vulnerabilities cannot be reached at
all, the audit is skipped by name, never passed. A line of examples says ``pragma: allowlist secret``.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from detect_secrets.core.scan import scan_file
from detect_secrets.settings import transient_settings

LOCKS = ("requirements/base.lock", "requirements/train.lock")
NO_TEXT = {".npz", ".npy", ".onnx", ".safetensors", ".lock", ".png", ".car", ".bin", ".gz"}
# Entropy and keywords are left out: hashes, CIDs and settings' names are not secrets, and they are everywhere here.
PLUGINS = (
    "ArtifactoryDetector", "AWSKeyDetector", "AzureStorageKeyDetector", "BasicAuthDetector", "CloudantDetector",
    "DiscordBotTokenDetector", "GitHubTokenDetector", "GitLabTokenDetector", "IbmCloudIamDetector", "JwtTokenDetector",
    "MailchimpDetector", "NpmDetector", "OpenAIDetector", "PrivateKeyDetector", "PypiTokenDetector",
    "SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector", "TelegramBotTokenDetector",
    "TwilioKeyDetector",
)  # fmt: skip
FILTERS = (
    "detect_secrets.filters.allowlist.is_line_allowlisted",
    "detect_secrets.filters.heuristic.is_potential_uuid",
    "detect_secrets.filters.heuristic.is_templated_secret",
)
EXAMPLE = re.compile(r"password|pass|word|hunter2x?|s3cr3t|t0ken|pa55word|p%40ss|p@ss/w:rd|p|x")
"""Words that stand for a secret in documentation and tests."""


def secrets() -> list[str]:
    """Secrets in tracked files, as ``file:line: kind``; keys of a node in the form of its API too."""
    tracked = subprocess.run(["git", "ls-files", "-z"], capture_output=True, text=True, check=True).stdout.split("\0")
    found: list[str] = []
    settings: dict[str, Any] = {
        "plugins_used": [{"name": name} for name in PLUGINS],
        "filters_used": [{"path": path} for path in FILTERS],
    }
    with transient_settings(settings):
        for name in filter(None, tracked):
            if Path(name).suffix not in NO_TEXT and Path(name).is_file():
                for one in scan_file(name):
                    if not EXAMPLE.fullmatch(one.secret_value or ""):
                        found.append(f"{name}:{one.line_number}: {one.type}")
    return found


def code() -> list[str]:
    """What bandit finds of at least medium severity, as ``file:line: code, what``."""
    command = [sys.executable, "-m", "bandit", "-q", "-r", "src", "-c", "pyproject.toml", "-ll", "-f", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout)
    errors = [f"{one['filename']}: bandit could not read it: {one['reason']}" for one in report["errors"]]
    return errors + [
        f"{one['filename']}:{one['line_number']}: {one['test_id']}, {one['issue_text']}" for one in report["results"]
    ]


def dependencies() -> list[str]:
    """Locked dependencies with known vulnerabilities, and those that could not be looked up."""
    problems: list[str] = []
    for lock in LOCKS:
        command = [sys.executable, "-m", "pip_audit", "-r", lock, "--no-deps", "--disable-pip", "-f", "json"]
        done = subprocess.run([*command, "--progress-spinner", "off"], capture_output=True, text=True, check=False)
        looked_up, unknown = 0, list[str]()
        for one in json.loads(done.stdout)["dependencies"] if done.stdout else []:
            looked_up += "skip_reason" not in one
            unknown += [f"{lock}: {one['name']} could not be looked up"] if "skip_reason" in one else []
            for hole in one.get("vulns", []):
                mended = ", ".join(hole["fix_versions"]) or "no version yet"
                problems.append(f"{lock}: {one['name']} {one['version']} has {hole['id']}, mended in {mended}")
        if looked_up:
            problems += unknown
        else:
            print(f"SKIPPED: audit of {lock}: the index of vulnerabilities cannot be reached")
    return problems


CHECKS: dict[str, Callable[[], list[str]]] = {"secrets": secrets, "code": code, "dependencies": dependencies}


def main() -> int:
    """Print what was found; the exit code says whether something was."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=CHECKS)
    only = parser.parse_args().only
    found = [line for name, check in CHECKS.items() if only in (None, name) for line in check()]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
