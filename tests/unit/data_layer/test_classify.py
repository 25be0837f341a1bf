"""Every failure has one class, and a sentence that names the endpoint, what was asked and what happened."""

import errno
import http.client
import socket
import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import Kind
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.network.addresses import ForbiddenAddress
from prsm.data_layer.network.classify import MAX_RETRY_AFTER_S, lied, of_error, of_status, retry_after_s
from prsm.data_layer.seams import Fault, StorageFault

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _tls_error(reason: str | None) -> ssl.SSLError:
    error = ssl.SSLError(1, "x")
    error.reason = reason  # as OpenSSL's are raised
    return error


@pytest.mark.parametrize(
    ("statuses", "fault"),
    [
        ((408, 425, 429, 500, 502, 503, 504, 507), Fault.RETRY),
        ((400, 401, 403, 404, 405, 406, 410, 413, 416, 418, 451, 501, 505), Fault.OTHER_REPLICA),
        ((201, 204, 206, 100, 101), Fault.OTHER_REPLICA),
        ((300, 301, 302, 303, 304, 307, 308), Fault.OTHER_REPLICA),
    ],
)
def test_statuses(statuses: tuple[int, ...], fault: Fault) -> None:
    for status in statuses:
        found = of_status(status, {}, endpoint="gateway http://x", asked="block b")
        assert found.fault is fault, status
        assert found.endpoint == "gateway http://x"
        assert found.message.startswith(f"gateway http://x answered {status} for block b")


def test_a_status_that_wants_a_pause_says_how_long() -> None:
    found = of_status(429, {"retry-after": "7"}, endpoint="e", asked="a")
    assert (found.retry_after_s, found.kind) == (7.0, Kind.RATE_LIMITED)
    assert of_status(404, {"retry-after": "7"}, endpoint="e", asked="a").retry_after_s is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 5 ", 5.0),
        ("99999999999999999999999999", MAX_RETRY_AFTER_S),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0),
        ("Fri, 02 Jan 2026 03:04:15 -0000", 10.0),
        (format_datetime(NOW - timedelta(days=1), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=400), usegmt=True), MAX_RETRY_AFTER_S),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Fri, 99 Jan 2026 99:99:99 GMT", None),
        ("Thu, 01 Jan 2026 00:00:00 +99999999999999999999", None),
        ("Thu, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Mon, 01 Jan 0001 00:00:00 +2300", 0.0),
    ],
)
def test_retry_after(text: str, seconds: float | None) -> None:
    assert retry_after_s(text, NOW) == seconds


@given(st.text() | st.from_regex(r"Mon, [0-9]{1,20} Jan [0-9]{1,20} [0-9:]{1,20} [+-][0-9]{1,20}", fullmatch=True))
def test_no_header_breaks_the_reader(text: str) -> None:
    found = of_status(503, {"retry-after": text}, endpoint="e", asked="a")
    assert found.retry_after_s is None or 0 <= found.retry_after_s <= MAX_RETRY_AFTER_S
    assert of_status(302, {"location": text}, endpoint="e", asked="a").fault in (Fault.BAN, Fault.OTHER_REPLICA)


@pytest.mark.parametrize(
    ("location", "fault"),
    [
        ("http://169.254.169.254/latest/meta-data/", Fault.BAN),
        ("http://127.0.0.1/", Fault.BAN),
        ("http://localhost:5001/api/v0/id", Fault.BAN),
        ("http://[::ffff:10.0.0.1]/x?y#z", Fault.BAN),
        ("https://[64:ff9b::a00:1]", Fault.BAN),
        ("//10.0.0.1/x", Fault.BAN),
        ("http://0x7f.1/", Fault.BAN),
        ("http://user@10.0.0.1/", Fault.BAN),
        ("file:///etc/passwd", Fault.BAN),
        ("gopher://10.0.0.1:70/_x", Fault.BAN),
        ("https://bafy.ipfs.example.org/a%20b?format=raw", Fault.OTHER_REPLICA),
        ("//other.example/x", Fault.OTHER_REPLICA),
        ("/ipfs/elsewhere", Fault.OTHER_REPLICA),
        ("", Fault.OTHER_REPLICA),
    ],
)
def test_redirects_are_never_followed_and_those_that_aim_inside_are_attacks(location: str, fault: Fault) -> None:
    found = of_status(302, {"location": location}, endpoint="e", asked="a")
    assert found.fault is fault
    assert "not followed" in found.message
    assert "user" not in found.message


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "x"), "refused the connection"),
        (ConnectionResetError(errno.ECONNRESET, "x"), "was reset"),
        (BrokenPipeError(errno.EPIPE, "x"), "was reset"),
        (http.client.RemoteDisconnected("x"), "closed the connection before the end"),
        (http.client.IncompleteRead(b"abc", 9), "closed the connection before the end"),
        (http.client.BadStatusLine("x"), "not HTTP"),
        (http.client.LineTooLong("header line"), "not HTTP"),
        (TimeoutError("nothing moved for 5 s"), "nothing moved for 5 s"),
        (TimeoutError(), "did not answer in time"),
        (socket.gaierror(socket.EAI_NONAME, "Name or service not known"), "name cannot be resolved"),
        (_tls_error("WRONG_VERSION_NUMBER"), "TLS failed (WRONG_VERSION_NUMBER)"),
        (_tls_error(None), "TLS failed (broken off)"),
        (ssl.SSLEOFError(8, "x"), "closed the connection before the end"),
        (OSError(errno.ENETUNREACH, "Network is unreachable"), "Network is unreachable"),
    ],
)
def test_what_broke_off_may_pass(error: Exception, said: str) -> None:
    found = of_error(error, endpoint="gateway http://x", asked="block b")
    assert found.fault is Fault.RETRY
    assert said in found.message
    assert found.message.startswith("gateway http://x failed at block b: ")
    assert (found.kind is Kind.TIMEOUT) == isinstance(error, TimeoutError)


def test_a_forbidden_address_is_a_ban_and_keeps_its_remedy() -> None:
    found = of_error(ForbiddenAddress("10.0.0.1 is inside.", remedy="Name it."), endpoint="e", asked="a")
    assert (found.fault, found.code, found.remedy) == (Fault.BAN, "forbidden_address", "Name it.")


def test_what_is_classified_stays_as_it_is() -> None:
    fault = StorageFault("full", fault=Fault.LOCAL_DISK)
    assert of_error(fault, endpoint="e", asked="a") is fault


def test_a_lie_names_cid_and_endpoint() -> None:
    cid = Cid.of(Codec.RAW, b"x")
    found = lied("gateway http://x", cid, "the 5 bytes have another hash")
    assert found.fault is Fault.BAN
    assert found.message == f"gateway http://x lied about {cid}: the 5 bytes have another hash."
