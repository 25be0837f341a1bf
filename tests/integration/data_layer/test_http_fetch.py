"""HTTP as it comes over real sockets: TLS by name, framing of all kinds, garbage, caps, kept connections."""

import contextlib
import datetime
import ipaddress
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.support.gateway_server import gateway_server

from prsm.core.errors import InvalidRequest
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.network.addresses import Origin, parse_private_hosts
from prsm.data_layer.network.gateways import Gateway
from prsm.data_layer.network.http_fetch import UNPACED, HttpLimits, HttpOrigin
from prsm.data_layer.seams import Fault, StorageFault

DATA = random.Random(3).randbytes(300_000)
CID = Cid.of(Codec.RAW, DATA)
QUICK = HttpLimits(connect_s=2, idle_s=0.4, idle_connections=3)


class Peer:
    """A server that plays one answer to each connection, and keeps what it was sent."""

    def __init__(self, play: Callable[[socket.socket], None]) -> None:
        self._play = play
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.heard: list[bytes] = []
        self.accepted = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.accepted += 1
                threading.Thread(target=self._one, args=(sock,), daemon=True).start()

    def _one(self, sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            self._play(sock)

    def hear(self, sock: socket.socket) -> None:
        head = b""
        while b"\r\n\r\n" not in head and (data := sock.recv(65536)):
            head += data
        self.heard.append(head)

    def close(self) -> None:
        self._listener.close()


@contextlib.contextmanager
def peer_saying(answer: bytes) -> Iterator[tuple[Peer, HttpOrigin]]:
    """A peer that answers the first request of each connection with ``answer``, and hangs up."""

    def play(sock: socket.socket) -> None:
        peer.hear(sock)
        sock.sendall(answer)

    peer = Peer(play)
    origin = origin_at(peer.port)
    try:
        yield peer, origin
    finally:
        origin.close()
        peer.close()


def origin_at(port: int, **options) -> HttpOrigin:
    url = f"http://127.0.0.1:{port}"
    named = parse_private_hosts([f"127.0.0.1:{port}"])
    return HttpOrigin(Origin.parse(url), name="peer", private_hosts=named, limits=QUICK, **options)


def get(origin: HttpOrigin, room: int = 1000, **options) -> bytes:
    into = memoryview(bytearray(room))
    within = {"asked": "it", "deadline_s": time.monotonic() + 5, "pace": UNPACED} | options
    with origin.exchange("GET", "/", **within) as reply:
        return bytes(into[: reply.read_into(into)])


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.0 200 OK\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhello",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nX-T: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Encoding: identity\r\n\r\nhello",
    ],
)
@pytest.mark.parametrize("room", [5, 6, 1000])
def test_every_framing_is_read(answer: bytes, room: int) -> None:
    with peer_saying(answer) as (_, origin):
        assert get(origin, room) == b"hello"


@pytest.mark.parametrize(
    ("answer", "fault", "said"),
    [
        (b"", Fault.RETRY, "closed the connection"),
        (b"HTTP/1.1 200 O", Fault.RETRY, "closed the connection before the end"),
        (b"HTTP/1.1 200 OK\r\nContent-Le", Fault.RETRY, "closed the connection before the end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Fault.RETRY, "closed the connection before the end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", Fault.RETRY, "closed the connection before the end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\nhello", Fault.BAN, "9999 bytes where at most 1000"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + bytes(1001), Fault.BAN, "more where at most 1000"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel", Fault.RETRY, "before the end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhel", Fault.RETRY, "before the end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhel", Fault.RETRY, "before the end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 1001, Fault.BAN, "at most 1000"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: y\r\n" * 99_999,
            Fault.RETRY,
            "too much|not HTTP",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"x" * 99_999, Fault.RETRY, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n\r\nhello", Fault.OTHER_REPLICA, "compressed"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Many: x\r\n" * 101 + b"\r\nhello", Fault.RETRY, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 70_000 + b"\r\n\r\nhello", Fault.RETRY, "not HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"X-Big: " * 5_000 + b"\r\n\r\nhello", Fault.RETRY, "not HTTP"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 99_999, Fault.RETRY, "not HTTP"),
        (b"HTTP/3 200 OK\r\n\r\nhello", Fault.RETRY, "not HTTP"),
        (b"HTTP/1.1 abc OK\r\n\r\nhello", Fault.RETRY, "not HTTP"),
        (b"HTTP/1.1 99999 OK\r\n\r\nhello", Fault.RETRY, "not HTTP"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Fault.RETRY, "not HTTP"),
        (b"\x15\x03\x01\x00\x02\x02\x46", Fault.RETRY, "before the end"),
    ],
    ids=lambda value: ascii(value)[:50],
)
def test_what_is_wrong_is_named(answer: bytes, fault: Fault, said: str) -> None:
    with peer_saying(answer) as (_, origin), pytest.raises(StorageFault, match=said) as failed:
        get(origin)
    assert failed.value.fault is fault
    assert failed.value.endpoint == "peer"


def test_no_bytes_of_any_kind_break_the_reader() -> None:
    dice = random.Random(17)
    good = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n"
    for _ in range(300):
        answer = bytearray(good if dice.random() < 0.8 else dice.randbytes(60))
        for _ in range(dice.randrange(1, 5)):
            answer[dice.randrange(len(answer))] = dice.choice(b"\r\n\x00:; 0123456789abcdef\xff")
        # Anything but a StorageFault would fail the test.
        cut = bytes(answer[: dice.randrange(len(answer) + 1)])
        with peer_saying(cut) as (_, origin), contextlib.suppress(StorageFault):
            assert len(get(origin)) <= 1000


def test_the_request_is_plain_and_takes_nothing_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9/")
    with peer_saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (peer, origin):
        assert get(origin, headers={"Accept": "x/y"}) == b""
        lines = peer.heard[0].decode().split("\r\n")
    assert lines[0] == "GET / HTTP/1.1"
    assert sorted(line.partition(":")[0] for line in lines[1:] if line) == [
        "Accept",
        "Accept-Encoding",
        "Host",
        "User-Agent",
    ]
    assert f"Host: 127.0.0.1:{peer.port}" in lines


@pytest.mark.parametrize("bad", ["x\r\nX-Evil: 1", "x\ny", "x\x00", "ü"])
def test_nothing_is_smuggled_into_a_head(bad: str) -> None:
    with peer_saying(b"") as (peer, origin):
        with pytest.raises(InvalidRequest):
            get(origin, headers={"Accept": bad})
        with (
            pytest.raises(InvalidRequest),
            origin.exchange("GET", f"/{bad}", asked="it", deadline_s=time.monotonic() + 5, pace=UNPACED),
        ):
            pass
        with pytest.raises(InvalidRequest):
            origin_at(peer.port, headers={"Authorization": bad})
        assert peer.accepted == 0


def test_a_connection_that_has_more_to_say_is_not_used_again() -> None:
    read, said = threading.Event(), threading.Event()

    def play(sock: socket.socket) -> None:
        peer.hear(sock)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        read.wait(10)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        said.set()
        sock.recv(1)

    peer = Peer(play)
    origin = origin_at(peer.port)
    assert get(origin) == b"ok"
    read.set()
    assert said.wait(10)
    assert get(origin) == b"ok"
    assert peer.accepted == 2
    origin.close()
    peer.close()


def test_a_body_that_was_not_read_to_its_end_closes_the_connection() -> None:
    with gateway_server({CID: DATA}) as server:
        origin = origin_at(server.port)
        for _ in range(2):
            with origin.exchange(
                "GET", f"/ipfs/{CID}?format=raw", asked="it", deadline_s=time.monotonic() + 5, pace=UNPACED
            ) as reply:
                reply.read_piece(memoryview(bytearray(10)))
        assert server.accepted == 2
        origin.close()


def test_what_the_reader_of_a_reply_does_wrong_is_not_the_peers_fault() -> None:
    with peer_saying(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n") as (_, origin):
        with (
            pytest.raises(OSError, match="disk full"),
            origin.exchange("GET", "/", asked="it", deadline_s=time.monotonic() + 5, pace=UNPACED),
        ):
            raise OSError("disk full")
        assert get(origin) == b""


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", id="interim"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="broken chunk"),
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\n\r\nso", id="half a body"),
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 99999\r\n\r\nso", id="a long body"),
        pytest.param(b"HTTP/1.1 404 Not Found\r\n\r\nso", id="no length"),
        pytest.param(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\nConnection: close\r\n\r\nso", id="to be closed"),
    ],
)
def test_what_comes_after_an_answer_that_was_none_is_not_taken_for_the_next(first: bytes) -> None:
    go_on = threading.Event()

    def play(sock: socket.socket) -> None:
        peer.hear(sock)
        if peer.accepted > 1:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        sock.sendall(first)
        go_on.wait(10)
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate")

    peer = Peer(play)
    url = f"http://127.0.0.1:{peer.port}"
    gateway = Gateway.at(url, private_hosts=parse_private_hosts([f"127.0.0.1:{peer.port}"]), limits=QUICK)
    room = memoryview(bytearray(100))
    with pytest.raises(StorageFault):
        gateway.fetch(CID, room, deadline_s=time.monotonic() + 5, pace=UNPACED)
    timer = threading.Timer(0.1, go_on.set)
    timer.start()
    assert gateway.fetch(CID, room, deadline_s=time.monotonic() + 5, pace=UNPACED) == 2
    assert bytes(room[:2]) == b"ok"
    timer.join()
    gateway.close()
    peer.close()


def test_a_gateway_that_does_not_have_it_keeps_its_connection() -> None:
    with gateway_server({}) as server:
        gateway = Gateway.at(server.url, private_hosts=parse_private_hosts([f"127.0.0.1:{server.port}"]), limits=QUICK)
        for _ in range(5):
            with pytest.raises(StorageFault, match="404"):
                gateway.fetch(CID, memoryview(bytearray(10)), deadline_s=time.monotonic() + 5, pace=UNPACED)
        assert server.accepted == 1
        gateway.close()


def test_connections_that_nobody_needs_any_more_are_closed() -> None:
    limits = HttpLimits(keep_s=0.3)
    with gateway_server({CID: DATA}) as server:
        gateway = Gateway.at(server.url, private_hosts=parse_private_hosts([f"127.0.0.1:{server.port}"]), limits=limits)

        def fetch(_: int) -> int:
            return gateway.fetch(CID, memoryview(bytearray(len(DATA))), deadline_s=time.monotonic() + 20, pace=UNPACED)

        with ThreadPoolExecutor(8) as threads:
            assert set(threads.map(fetch, range(40))) == {len(DATA)}
        for _ in range(4):  # one at a time, more often than connections grow old
            time.sleep(0.15)
            gateway.probe(time.monotonic() + 5)
        server.wait_for_connections(1)
        gateway.close()


def test_idle_connections_are_bounded() -> None:
    with gateway_server({CID: DATA}) as server:
        gateway = Gateway.at(server.url, private_hosts=parse_private_hosts([f"127.0.0.1:{server.port}"]), limits=QUICK)

        def fetch(_: int) -> int:
            return gateway.fetch(CID, memoryview(bytearray(len(DATA))), deadline_s=time.monotonic() + 20, pace=UNPACED)

        with ThreadPoolExecutor(12) as threads:
            assert set(threads.map(fetch, range(60))) == {len(DATA)}
        server.wait_for_connections(3)
        gateway.close()
        server.wait_for_connections(0)


def test_an_upload_that_is_refused_midway_says_why() -> None:
    def play(sock: socket.socket) -> None:
        sock.recv(1000)
        sock.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n")
        sock.shutdown(socket.SHUT_WR)
        time.sleep(0.2)

    peer = Peer(play)
    origin = origin_at(peer.port)
    with origin.exchange(
        "POST", "/", asked="it", deadline_s=time.monotonic() + 5, pace=UNPACED, body=[bytes(20_000_000)]
    ) as reply:
        assert (reply.status, reply.read_text(100)) == (413, "no\n")
    origin.close()
    peer.close()


def test_an_upload_to_one_that_does_not_read_ends() -> None:
    peer = Peer(lambda sock: time.sleep(3))
    origin = origin_at(peer.port)
    with (
        pytest.raises(StorageFault, match=r"nothing moved for 0\.4 s"),
        origin.exchange(
            "POST", "/", asked="it", deadline_s=time.monotonic() + 5, pace=UNPACED, body=[bytes(20_000_000)]
        ),
    ):
        pass
    origin.close()
    peer.close()


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self._certificate = self._sign(self._name, self._key, x509.BasicConstraints(ca=True, path_length=0))
        self.client = ssl.create_default_context(
            cadata=self._certificate.public_bytes(serialization.Encoding.PEM).decode()
        )

    def server(self, *names: x509.GeneralName, days: int = 30) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        certificate = self._sign(subject, key, x509.SubjectAlternativeName(names), days)
        path = self._folder / f"{x509.random_serial_number()}.pem"
        path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _sign(self, subject: x509.Name, key, extension: x509.ExtensionType, days: int = 30) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=60))
            .not_valid_after(now + datetime.timedelta(days=days))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .sign(self._key, hashes.SHA256())
        )


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def tls_fetch(server_tls: ssl.SSLContext, client_tls: ssl.SSLContext | None, host: str) -> bytes:
    with gateway_server({CID: DATA}, tls=server_tls) as server:
        gateway = Gateway.at(
            f"https://{host}:{server.port}",
            private_hosts=parse_private_hosts([f"{host}:{server.port}"]),
            tls=client_tls,
            limits=QUICK,
            look_up=lambda host, port: ["127.0.0.1"],
        )
        with contextlib.closing(gateway):
            room = memoryview(bytearray(len(DATA)))
            for _ in range(2):
                size = gateway.fetch(CID, room, deadline_s=time.monotonic() + 5, pace=UNPACED)
            assert server.accepted == 1
            return bytes(room[:size])


def test_tls_by_name_and_by_address(authority: Authority) -> None:
    tls = authority.server(x509.DNSName("gateway.example"), x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
    assert tls_fetch(tls, authority.client, "gateway.example") == DATA
    assert tls_fetch(tls, authority.client, "127.0.0.1") == DATA


@pytest.mark.parametrize(
    ("names", "days", "trusted", "said"),
    [
        ([x509.DNSName("other.example")], 30, True, "certificate does not hold .*gateway.example"),
        ([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))], 30, True, "certificate does not hold"),
        ([x509.DNSName("gateway.example")], -1, True, "expired"),
        ([x509.DNSName("gateway.example")], 30, False, "certificate does not hold"),
    ],
)
def test_a_certificate_that_does_not_hold_ends_it(
    authority: Authority, names: list[x509.GeneralName], days: int, trusted: bool, said: str
) -> None:
    with pytest.raises(StorageFault, match=said) as failed:
        tls_fetch(authority.server(*names, days=days), authority.client if trusted else None, "gateway.example")
    assert failed.value.fault is Fault.RETRY


def test_tls_to_one_that_speaks_none_and_to_one_that_says_nothing(authority: Authority) -> None:
    for play, said in (
        (lambda sock: sock.sendall(b"HTTP/1.1 400 Bad\r\n\r\n"), "TLS failed"),
        (lambda sock: time.sleep(2), "timed out"),
    ):
        peer = Peer(play)
        gateway = Gateway.at(
            f"https://127.0.0.1:{peer.port}",
            private_hosts=parse_private_hosts([f"127.0.0.1:{peer.port}"]),
            tls=authority.client,
            limits=QUICK,
        )
        with pytest.raises(StorageFault, match=said) as failed:
            gateway.probe(time.monotonic() + 0.5)
        assert failed.value.fault is Fault.RETRY
        gateway.close()
        peer.close()
