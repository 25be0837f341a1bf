"""Messages of multicast DNS: ours are what the RFCs say, and no bytes of others' break the reader."""

from ipaddress import IPv4Address

import dns.message
import dns.rdatatype
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prsm.data_layer.network.mdns import Service, announcement, question, read

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
