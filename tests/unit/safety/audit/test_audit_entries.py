"""Entries: canonical bytes, within what a bundle can carry, and values that digests stand for."""

import hashlib
from datetime import UTC, datetime
from uuid import UUID, uuid4

import pytest

from prsm.safety.audit.entries import MAX_ENTRY_BYTES, Change, equal, read_entry, write_entry
from prsm.safety.audit.state import AuditedState, WatchedTable, differences, form_of

AT = datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)
TABLE = WatchedTable("keys", ("id",), ("skip:seen", "secret:hash", "personal:name:owner"))
OWNER = uuid4()


def digest(text: str) -> dict[str, str]:
    return {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def test_an_entry_is_canonical_and_read_again() -> None:
    body = write_entry(AT, "a", "r", "keys", "insert", [{"now": {"id": "1", "name": None}}])
    assert body == (
        b'{"actor":"a","at":"2026-01-02T03:04:05.000006+00:00","op":"insert","request":"r",'
        b'"rows":[{"now":{"id":"1","name":null}}],"v":1,"what":"keys"}'
    )
    entry = read_entry(body)
    assert entry.changes == [Change(now={"id": "1", "name": None})]


def test_what_is_too_long_gives_way_to_digests() -> None:
    text = "\x01" * 300
    rows = [{"now": {"id": str(n), "text": text}} for n in range(60)]
    body = write_entry(AT, "a", "", "keys", "insert", rows)
    assert len(body) <= MAX_ENTRY_BYTES
    change = read_entry(body).changes[0]
    assert change.now == {"id": "0", "text": digest(text)}
    assert change.now
    assert equal(change.now["text"], text)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"v":1}', b"\xff"])
def test_what_is_no_entry(body: bytes) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_entry(body)


def test_values_are_equal_by_text_or_digest() -> None:
    assert equal("a", "a")
    assert equal(digest("a"), "a")
    assert equal("a", digest("a"))
    assert not equal("a", "b")
    assert not equal(digest("a"), "b")
    assert not equal(None, "")
    assert not equal({"salted": "x"}, "x")


def entry(op: str, *changes: dict[str, object], what: str = "keys"):
    return read_entry(write_entry(AT, "a", "", what, op, list(changes)))  # type: ignore[arg-type]


def state(*entries: object) -> AuditedState:
    audited = AuditedState({"keys": TABLE})
    for each in entries:
        audited.apply(each)  # type: ignore[arg-type]
    return audited


def test_the_last_audited_state_is_compared_row_by_row() -> None:
    first, second = {"id": "1", "scopes": "a"}, {"id": "2", "scopes": "a"}
    audited = state(
        entry("baseline", {"now": first}),
        entry("insert", {"now": second}),
        entry("update", {"now": first | {"scopes": "b"}, "was": {"scopes": "a"}}),
        entry("insert", {"now": {"id": "9"}}, what="others"),
    )
    live = [{"id": "1", "scopes": "b"}, second]
    assert list(differences(TABLE, audited, live)) == []
    assert list(differences(TABLE, audited, [first, second])) == ["The row keys 1 was changed in scopes by no entry."]
    assert list(differences(TABLE, audited, live[:1])) == ["The row keys 2 is gone by no entry."]
    added = list(differences(TABLE, audited, [*live, {"id": "3"}]))
    assert added == ["The row keys 3 is in the table, and no entry put it there."]
    with_column = [{**row, "new": "x"} for row in live]
    assert list(differences(TABLE, audited, with_column)) == [], "a column that a migration brought says nothing"
    gone = state(entry("baseline", {"now": first}), entry("delete", {"was": first}))
    assert list(differences(TABLE, gone, [])) == []
    emptied = state(entry("baseline", {"now": first}), entry("truncate", {}))
    assert list(differences(TABLE, emptied, [])) == []


def test_forms_hide_what_they_should() -> None:
    row = {"id": "1", "seen": "now", "hash": "h", "name": "Ada", "owner": str(OWNER)}
    salted = {"salted": hashlib.sha256(b"salt" + b"Ada").hexdigest()}
    assert form_of(row, TABLE.rules, {OWNER: b"salt"}) == {"id": "1", "hash": "h", "name": salted, "owner": str(OWNER)}
    assert form_of(row | {"name": ""}, TABLE.rules, {})["name"] == ""
    assert form_of(row | {"owner": "node:x"}, TABLE.rules, {})["name"] == "Ada"
    account = form_of(row | {"owner": f"principal:{OWNER}"}, TABLE.rules, {OWNER: b"salt"})
    assert account["name"] == salted


def test_a_salt_may_be_gone_only_by_an_erasure() -> None:
    named = {"id": "1", "name": {"salted": "x"}, "owner": str(OWNER)}
    live = [form_of({"id": "1", "name": "Ada", "owner": str(OWNER)}, TABLE.rules, {})]
    before = state(entry("insert", {"now": named}))
    assert list(differences(TABLE, before, live)) == ["The row keys 1 was changed in name by no entry."]
    after = state(entry("insert", {"now": named}), entry("event", {"subject": str(OWNER)}, what="privacy.erased"))
    assert list(differences(TABLE, after, live)) == []
    assert UUID(next(iter(after.erased))) == OWNER
