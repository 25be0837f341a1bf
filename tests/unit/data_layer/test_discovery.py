"""Which endpoints are known: the operator's, and a few of strangers."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prsm.core.errors import InvalidRequest
from prsm.data_layer.network.addresses import BadAddress, Origin, parse_private_hosts
from prsm.data_layer.network.discovery import (
    ANNOUNCED_S,
    MAX_ANNOUNCED,
    MAX_ENDPOINTS,
    MAX_FILE_BYTES,
    Discovery,
    EndpointKind,
    Found,
    FoundBy,
    parse_peers,
)


def urls(discovery: Discovery) -> list[str]:
    return [str(found.origin) for found in discovery.current()]


def test_settings_name_gateways_and_nodes() -> None:
    found = Discovery(["https://gateway.example", "node http://127.0.0.1:5001", "gateway http://x.example:8080/base/"])
    assert found.current() == (
        Found(EndpointKind.GATEWAY, Origin("https", "gateway.example", 443), FoundBy.OPERATOR),
        Found(EndpointKind.NODE, Origin("http", "127.0.0.1", 5001), FoundBy.OPERATOR),
        Found(EndpointKind.GATEWAY, Origin("http", "x.example", 8080, "/base"), FoundBy.OPERATOR),
    )


@pytest.mark.parametrize("text", ["", "node", "peer http://x.example", "http://127.1", "ftp://x.example", "http://a b"])
def test_a_setting_that_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(BadAddress):
        Discovery([text])


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "peers"
    discovery = Discovery(["https://a.example"], peers_file=file)
    assert urls(discovery) == ["https://a.example"]
    file.write_text("# ours\nhttps://b.example # the second\n\nnode http://10.0.0.1:5001\nhttps://A.example:443/\n")
    assert urls(discovery) == ["https://a.example", "https://b.example", "http://10.0.0.1:5001"]
    file.write_text("https://c.example\n")
    assert urls(discovery) == ["https://a.example", "https://c.example"]
    replacement = tmp_path / "new"
    replacement.write_text("https://d.example\n")
    before = file.stat()
    os.utime(replacement, ns=(before.st_atime_ns, before.st_mtime_ns))  # as an atomic replacement may leave it
    replacement.rename(file)
    assert urls(discovery) == ["https://a.example", "https://d.example"]
    file.unlink()
    assert urls(discovery) == ["https://a.example"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("https://b.example\nhttp://127.1/", "Line 2"),
        ("x" * (MAX_FILE_BYTES + 1), "at most 65536 bytes"),
        ("\n".join(f"https://g{n}.example" for n in range(MAX_ENDPOINTS + 1)), "at most 64 endpoints"),
    ],
)
def test_a_file_that_cannot_be_read_leaves_what_was_known_and_says_so(
    tmp_path: Path, text: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "peers"
    file.write_text("https://b.example")
    discovery = Discovery(peers_file=file)
    assert urls(discovery) == ["https://b.example"]
    file.write_text(text)
    assert urls(discovery) == ["https://b.example"]
    assert said in discovery.file_error
    assert urls(discovery) == ["https://b.example"]
    assert capsys.readouterr().out.count("file of peers refused") == 1
    file.write_text("https://c.example")
    assert urls(discovery) == ["https://c.example"]
    assert discovery.file_error == ""


def test_announcements_are_taken_few_and_for_a_while() -> None:
    now_s = 0.0
    discovery = Discovery(["https://a.example"], clock=lambda: now_s)
    assert discovery.announced("https://p.example", "peer")
    assert discovery.announced("https://p.example", "another")  # known already: no place of its own
    assert discovery.announced("https://q.example", "peer")
    assert not discovery.announced("https://r.example", "peer")
    assert discovery.announced("https://r.example", "another")
    assert urls(discovery) == ["https://a.example", "https://p.example", "https://q.example", "https://r.example"]
    assert [found.by for found in discovery.current()] == [FoundBy.OPERATOR] + [FoundBy.PEER] * 3
    now_s = ANNOUNCED_S - 1
    assert discovery.announced("https://q.example", "peer")
    now_s = ANNOUNCED_S
    assert urls(discovery) == ["https://a.example", "https://q.example"]
    taken = [discovery.announced(f"https://g{n}.example", f"peer {n}") for n in range(40)]
    assert sum(taken) == MAX_ANNOUNCED - 1


def test_an_announcement_does_not_change_what_the_operator_named() -> None:
    discovery = Discovery(["node http://kubo.lan:5001"])
    assert discovery.announced("http://kubo.lan:5001", "peer")
    assert [(found.kind, found.by) for found in discovery.current()] == [(EndpointKind.NODE, FoundBy.OPERATOR)]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:5001", "http://localhost", "http://[::1]", "http://10.0.0.1", "http://0x7f.1", "x", ""]
)
def test_nobody_announces_what_is_inside(url: str) -> None:
    with pytest.raises(BadAddress):
        Discovery().announced(url, "peer")


def test_endpoints_are_bounded() -> None:
    discovery = Discovery(f"https://g{n}.example" for n in range(MAX_ENDPOINTS))
    assert discovery.announced("https://p.example", "peer")
    assert len(discovery.current()) == MAX_ENDPOINTS
    assert all(found.by is FoundBy.OPERATOR for found in discovery.current())


def test_more_than_may_be_is_said_and_not_dropped(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="at most 64 endpoints"):
        Discovery(f"https://g{n}.example" for n in range(MAX_ENDPOINTS + 1))
    file = tmp_path / "peers"
    file.write_text("https://g0.example\nhttps://one.more")
    discovery = Discovery((f"https://g{n}.example" for n in range(MAX_ENDPOINTS)), peers_file=file)
    assert len(discovery.current()) == MAX_ENDPOINTS
    assert "at most 64 endpoints" in discovery.file_error


def test_who_may_be_a_private_service() -> None:
    named = parse_private_hosts(["kubo.lan:5001"])
    discovery = Discovery(["node http://kubo.lan:5001"])
    discovery.announced("http://p.example:5001", "peer")
    discovery.heard("192.168.1.7", 8080, "")
    assert [found.private_hosts(named) for found in discovery.current()] == [
        named,
        frozenset(),
        frozenset({("192.168.1.7", 8080)}),
    ]


@pytest.mark.parametrize(
    ("sender", "port", "path"),
    [
        *(("169.254.169.254", 80, ""), ("224.0.0.251", 80, ""), ("0.0.0.0", 80, ""), ("fe80::1%eth0", 80, "")),
        *(
            ("router.lan", 80, ""),
            ("192.168.1.7", 0, ""),
            ("192.168.1.7", 80, "@10.0.0.1/"),
            ("192.168.1.7", 80, "/../"),
        ),
    ],
)
def test_a_neighbour_speaks_for_himself_alone(sender: str, port: int, path: str) -> None:
    with pytest.raises(BadAddress):
        Discovery().heard(sender, port, path)


def test_neighbours_and_peers_have_places_of_their_own() -> None:
    discovery = Discovery()
    assert [discovery.heard("192.168.1.7", port, "") for port in (1, 2, 3)] == [True, True, False]
    assert sum(discovery.heard(f"10.0.0.{n}", 80, "/base") for n in range(1, 40)) == MAX_ANNOUNCED - 2
    assert discovery.announced("https://p.example", "peer")


@given(st.binary(max_size=300))
def test_no_file_breaks_the_reader(text: bytes) -> None:
    try:
        assert len(parse_peers(text)) <= len(text)
    except InvalidRequest as error:
        assert error.param == "peers_file"  # noqa: PT017
