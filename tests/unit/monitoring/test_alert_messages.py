"""What is told of alerts: a body that its receiver can verify, and a text that a person can read."""

import hashlib
import hmac
import json
from uuid import UUID

from prsm.monitoring.alerting import messages
from prsm.monitoring.alerting.states import Alert, Notice

ALERT = Alert(
    UUID(int=7), "k", "DiskAlmostFull", "page", {"disk": "home"}, "Less than 5 % is free.", "firing", 0.01, 100.0,
    110.0, fired_s=110.0, told_s=110.0,
)  # fmt: skip
NOTICE = Notice("firing", "DiskAlmostFull", "page", (ALERT,))


def test_the_signature_is_what_a_receiver_computes() -> None:
    body = messages.as_json(NOTICE, "node-1", 1234.5)
    signed = dict(part.split("=") for part in messages.signature("secret", body, 1234.5).split(","))
    assert signed["t"] == "1234"
    assert signed["v1"] == hmac.new(b"secret", b"1234." + body, hashlib.sha256).hexdigest()
    assert messages.signature("secret", body, 1235.5) != messages.signature("secret", body, 1234.5)


def test_the_body_names_node_rule_and_alerts() -> None:
    told = json.loads(messages.as_json(NOTICE, "node-1", 0.0))
    assert (told["node"], told["kind"], told["rule"], told["count"]) == ("node-1", "firing", "DiskAlmostFull", 1)
    assert told["alerts"][0]["labels"] == {"disk": "home"}
    assert told["alerts"][0]["fired_at"] == "1970-01-01T00:01:50.000+00:00"


def test_firing_and_its_end_are_two_messages_and_a_try_again_is_the_same() -> None:
    ended = Notice("resolved", "DiskAlmostFull", "page", (ALERT,))
    ids = [json.loads(messages.as_json(each, "n", at))["id"] for each, at in ((NOTICE, 0), (NOTICE, 9), (ended, 9))]
    assert ids[0] == ids[1] != ids[2]


def test_a_mail_says_what_since_when_and_what_to_do() -> None:
    assert messages.subject(NOTICE, "node-1") == "[page] FIRING: DiskAlmostFull on node-1"
    text = messages.as_text(NOTICE, "node-1", "http://127.0.0.1:8420")
    assert "Less than 5 % is free." in text
    assert "prsm alerts ack" in text
    many = Notice("firing", "DiskAlmostFull", "page", (ALERT,) * 60)
    assert "(60)" in messages.subject(many, "n")
    assert "and 10 more" in messages.as_text(many, "n", "")
