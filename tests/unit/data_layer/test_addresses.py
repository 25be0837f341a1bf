"""Which texts are hosts, and which addresses are plain global unicast."""

import ipaddress
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.support.address_forms import GLOBAL_ADDRESSES, ODD_TEXTS, SPECIAL_ADDRESSES

from prsm.data_layer.network.addresses import (
    BadAddress,
    ForbiddenAddress,
    Origin,
    literal_ip,
    parse_host,
    parse_private_hosts,
    resolve,
    special_use,
)

LATER = time.monotonic() + 3600


def test_there_are_many_forms() -> None:
    assert len(set(ODD_TEXTS)) == len(ODD_TEXTS)
    assert len(set(SPECIAL_ADDRESSES)) == len(SPECIAL_ADDRESSES)
    assert len(ODD_TEXTS) >= 100
    assert len(SPECIAL_ADDRESSES) >= 100


@pytest.mark.parametrize("text", ODD_TEXTS, ids=ascii)
def test_an_odd_text_is_no_host(text: str) -> None:
    with pytest.raises(BadAddress):
        parse_host(text)


@pytest.mark.parametrize("text", SPECIAL_ADDRESSES)
def test_a_special_address_is_not_resolved_to(text: str) -> None:
    for host in (text, "example.org"):
        with pytest.raises(ForbiddenAddress, match="not an address of the public internet"):
            resolve(host, 443, look_up=lambda host, port: [text], deadline_s=LATER)
        with pytest.raises(ForbiddenAddress):
            resolve("example.org", 443, look_up=lambda host, port: ["8.8.8.8", text], deadline_s=LATER)


@pytest.mark.parametrize("text", GLOBAL_ADDRESSES)
def test_a_global_address_passes(text: str) -> None:
    for host in (str(ipaddress.ip_address(text)), "example.org"):
        [address] = resolve(host, 443, look_up=lambda host, port: [text], deadline_s=LATER)
        assert (address.ip, address.port) == (ipaddress.ip_address(text), 443)


@given(st.ip_addresses())
@example(ipaddress.ip_address("64:ff9b::8.8.8.8"))
@example(ipaddress.ip_address("ff0e::1"))
def test_whatever_passes_is_global_for_python_too(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    if not special_use(ip):
        assert ip.is_global
        assert not ip.is_multicast


@pytest.mark.parametrize("answer", ["fe80::1%eth0", "2a00::1%1", "127.1", "0x7f.1", "", "nonsense", "8.8.8.8/32"])
def test_a_resolver_that_answers_oddly_is_not_believed(answer: str) -> None:
    with pytest.raises(ForbiddenAddress):
        resolve("example.org", 443, look_up=lambda host, port: [answer], deadline_s=LATER)


def test_an_operator_may_name_a_private_service_by_host_and_port() -> None:
    named = parse_private_hosts(["kubo.lan:5001", "[::1]:80", "127.0.0.1:8080"])

    def to(*ips: str):
        return lambda host, port: list(ips)

    assert resolve("kubo.lan", 5001, private_hosts=named, look_up=to("192.168.1.9", "fd00::9"), deadline_s=LATER)
    assert resolve("::1", 80, private_hosts=named, deadline_s=LATER)
    assert resolve("127.0.0.1", 8080, private_hosts=named, deadline_s=LATER)
    for host, port, ip in (
        ("kubo.lan", 5002, "192.168.1.9"),
        ("other.lan", 5001, "192.168.1.9"),
        ("127.0.0.1", 8081, "127.0.0.1"),
        # Naming a host does not make it a door to what no service of one's own has.
        ("kubo.lan", 5001, "169.254.169.254"),
        ("kubo.lan", 5001, "224.0.0.1"),
        ("kubo.lan", 5001, "0.0.0.0"),
        ("kubo.lan", 5001, "::ffff:192.168.1.9"),
        ("kubo.lan", 5001, "64:ff9b::c0a8:109"),
    ):
        with pytest.raises(ForbiddenAddress):
            resolve(host, port, private_hosts=named, look_up=to(ip), deadline_s=LATER)


def test_the_remedy_names_the_setting() -> None:
    with pytest.raises(ForbiddenAddress, match=r"add \[::1\]:80 to the private hosts"):
        resolve("::1", 80, deadline_s=LATER)


def test_a_name_without_an_address_and_a_name_service_that_hangs() -> None:
    with pytest.raises(OSError, match="no address"):
        resolve("example.org", 443, look_up=lambda host, port: [], deadline_s=LATER)

    def fail(host: str, port: int) -> list[str]:
        raise OSError("no such name")

    with pytest.raises(OSError, match="no such name"):
        resolve("example.org", 443, look_up=fail, deadline_s=LATER)

    def hang(host: str, port: int) -> list[str]:
        time.sleep(0.3)
        return ["8.8.8.8"]

    with pytest.raises(TimeoutError, match="not resolved in time"):
        resolve("example.org", 443, look_up=hang, deadline_s=time.monotonic() + 0.02)


@pytest.mark.parametrize(
    ("url", "origin", "authority"),
    [
        ("https://Example.ORG", Origin("https", "example.org", 443), "example.org"),
        ("http://example.org:80/", Origin("http", "example.org", 80), "example.org"),
        ("http://example.org:443", Origin("http", "example.org", 443), "example.org:443"),
        ("HTTPS://a-b.c_d.example:8443/x/y/", Origin("https", "a-b.c_d.example", 8443, "/x/y"), "a-b.c_d.example:8443"),
        ("http://8.8.8.8", Origin("http", "8.8.8.8", 80), "8.8.8.8"),
        ("http://[2A00:0:0::1]:99", Origin("http", "2a00::1", 99), "[2a00::1]:99"),
        ("http://localhost:8080", Origin("http", "localhost", 8080), "localhost:8080"),
    ],
)
def test_an_origin_is_read(url: str, origin: Origin, authority: str) -> None:
    assert Origin.parse(url) == origin
    assert origin.authority == authority
    assert Origin.parse(str(origin)) == origin


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "example.org",
            "//example.org",
            "ftp://example.org",
            "file:///etc/passwd",
            "http:/example.org",
            "http://",
        ),
        *("http://user@example.org", "http://user:pass@example.org", "http://example.org?x", "http://example.org#x"),
        *("http://example.org/a?b", "http://example.org/../x", "http://example.org/a//b", "http://example.org/%2e%2e"),
        *("http://example.org:0", "http://example.org:65536", "http://example.org:", "http://example.org:８０"),
        *("http://example.org:+80", "http://example.org:8 0", "http://exa\nmple.org", "http://example.org/\r\nX: y"),
        *(
            "http://example.org\\@127.0.0.1/",
            "http:\\\\example.org",
            "http://[::1",
            "http://::1/",
            "h\ttp://example.org",
        ),
        *(f"http://{text}/" for text in ODD_TEXTS if "/" not in text and ":80" not in text),
        "http://" + "a" * 3000 + ".example",
    ],
    ids=ascii,
)
def test_a_url_in_any_other_form_is_refused(url: str) -> None:
    with pytest.raises(BadAddress):
        Origin.parse(url)


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(BadAddress) as refused:
        Origin.parse("https://me:hunter2@example.org/x")
    assert "hunter2" not in str(refused.value)


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader(text: str) -> None:
    try:
        host = parse_host(text)
    except BadAddress:
        return
    assert parse_host(f"[{host}]" if ":" in host else host) == host
    assert ":" not in host or literal_ip(host) is not None


@pytest.mark.parametrize("entry", ["127.0.0.1", "example.org:", ":80", "http://x:80", "127.1:80", "::1:80", "x:99999"])
def test_a_private_host_needs_host_and_port(entry: str) -> None:
    with pytest.raises(BadAddress):
        parse_private_hosts([entry])
