"""The page at /docs needs nobody but this node, and its policy allows nothing else."""

import hashlib
import re
from base64 import b64decode
from pathlib import Path

from prsm.api import docs

PAGE = Path(docs.__file__).with_name("docs_page.html").read_text(encoding="utf-8")


def test_the_page_names_no_other_host() -> None:
    assert not re.search(r"https?:|//[a-z]|@import|\bsrc=", PAGE)


def test_the_policy_lets_exactly_this_script_and_style_run() -> None:
    policy = docs.content_security_policy(PAGE)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["connect-src"] == "'self'"
    assert "unsafe" not in policy
    for tag in ("script", "style"):
        inside = PAGE.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        allowed = re.fullmatch(r"'sha256-(.+)'", rules[f"{tag}-src"])
        assert allowed
        assert b64decode(allowed[1]) == hashlib.sha256(inside.encode()).digest()
    assert not re.search(r"<(script|style) |\bon\w+=\"|\bstyle=\"", PAGE), "what the policy would block"


def test_every_control_has_a_label() -> None:
    labelled = set(re.findall(r'<label for="(\w+)"', PAGE))
    assert set(re.findall(r'<(?:input|textarea|select)[^>]* id="(\w+)"', PAGE)) <= labelled
    assert re.search(r'<html lang="en">', PAGE)
