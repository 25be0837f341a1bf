"""Multicast DNS: our messages are what the RFCs say, no bytes break the reader, and nobody speaks too much."""

from ipaddress import IPv4Address

import dns.message
import dns.rdatatype
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prsm.data_layer.network.mdns import OwnGateway, Service, Turns, announcement, question, read

HERE = IPv4Address("192.168.1.7")
SERVICE = Service("node-1234", 8080, "/base")


def test_a_question_is_known_and_an_announcement_read() -> None:
    assert read(question()) is True
    assert read(announcement(SERVICE, HERE)) == (SERVICE,)
    assert read(announcement(Service("x" * 63, 1), HERE)) == (Service("x" * 63, 1),)


def test_an_announcement_has_the_records_of_dns_service_discovery() -> None:
    text = dns.message.from_wire(announcement(SERVICE, HERE)).to_text()
    assert "_prsm._tcp.local. 120 IN PTR node-1234._prsm._tcp.local." in text
    assert "node-1234._prsm._tcp.local. 120 IN SRV 0 0 8080 node-1234.local." in text
    assert 'node-1234._prsm._tcp.local. 120 IN TXT "path=/base"' in text
    assert "node-1234.local. 120 IN A 192.168.1.7" in text


@pytest.mark.parametrize("name", ["_http._tcp.local.", "_prsm._tcp.example.", "x._prsm._tcp.local."])
def test_other_questions_are_not_ours(name: str) -> None:
    assert not read(dns.message.make_query(name, dns.rdatatype.PTR).to_wire())


def test_services_of_others_are_passed_over() -> None:
    wire = announcement(SERVICE, HERE).replace(b"_prsm", b"_http")
    assert read(wire) == ()


@given(st.binary(max_size=600))
@example(b"\x00\x00\x84\x00\x00\x00\x00\x01\x00\x00\x00\x00\xc0\x0c\x00\x0c")
def test_no_bytes_break_the_reader(data: bytes) -> None:
    assert read(data) is False or read(data) is True or isinstance(read(data), tuple)


@given(st.data())
def test_no_change_of_a_message_breaks_the_reader(data: st.DataObject) -> None:
    wire = bytearray(announcement(SERVICE, HERE))
    for _ in range(data.draw(st.integers(1, 6))):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(wire[: data.draw(st.integers(0, len(wire)))]))


def test_an_answer_is_due_after_its_pause_and_never_sooner_than_a_second_after_the_last() -> None:
    turns = Turns(ask_at_s=10.0)
    turns.asked(20.0, 0.1)
    turns.asked(20.05, 0.02)
    assert turns.answer_at_s == pytest.approx(20.07)
    turns.answered(20.07)
    turns.asked(20.1, 0.02)
    turns.asked(20.9, 0.02)
    assert turns.answer_at_s == pytest.approx(21.07)


def test_what_another_worker_of_the_node_says_need_not_be_said_again() -> None:
    turns = Turns(ask_at_s=10.0)
    turns.asked(9.0, 0.1)
    assert turns.ask_at_s > 300, "the answers to that question come to all"
    turns.answered(9.05)
    assert turns.answer_at_s == float("inf")


@pytest.mark.parametrize(
    ("host", "announced"),
    [
        ("0.0.0.0", True),
        ("192.168.1.7", True),
        ("192.168.1.8", False),
        ("127.0.0.1", False),
        ("localhost", False),
        ("::", False),
        ("::1", False),
    ],
)
def test_a_gateway_is_announced_only_where_it_listens(host: str, announced: bool) -> None:
    assert OwnGateway("node-1234", host, 8420).at(HERE) == (Service("node-1234", 8420) if announced else None)


def test_a_node_that_listens_at_the_loopback_is_there_for_the_loopback() -> None:
    assert OwnGateway("node-1234", "localhost", 8420).at(IPv4Address("127.0.0.1")) is not None
