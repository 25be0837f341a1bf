"""Messages about alerts against real receivers: an HTTP server that verifies them, and a mail server with STARTTLS."""

import asyncio
import contextlib
import datetime
import hashlib
import hmac
import json
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web
from aiosmtpd.controller import Controller
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from prsm.core.config import Settings
from prsm.monitoring.alerting.sinks import Courier, MailServer, MailSink, NotDelivered, Patience, WebhookSink
from prsm.monitoring.alerting.states import Alert, Notice
from prsm.node.monitoring import poster

SECRET = "a-secret"
ALERT = Alert(
    UUID(int=7), "k", "DiskAlmostFull", "page", {}, "Full.", "firing", 0.01, 1.0, 2.0, fired_s=2.0, told_s=2.0
)
NOTICE = Notice("firing", "DiskAlmostFull", "page", (ALERT,))


class Receiver:
    """Answers with the statuses given, then with 204; keeps what it got and whether the signature held."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
        self.got: list[dict[str, Any]] = []
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        body = await request.read()
        signed = dict(part.split("=") for part in request.headers["x-prsm-signature"].split(","))
        wanted = hmac.new(SECRET.encode(), f"{signed['t']}.".encode() + body, hashlib.sha256).hexdigest()
        assert hmac.compare_digest(wanted, signed["v1"])
        self.got.append(json.loads(body))
        return web.Response(status=self.statuses.pop(0) if self.statuses else 204)


@contextlib.asynccontextmanager
async def receiving(*statuses: int) -> AsyncIterator[Receiver]:
    receiver = Receiver(*statuses)
    app = web.Application()
    app.router.add_post("/hook", receiver.take)
    app.router.add_get("/elsewhere", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = runner.addresses[0][1]
    try:
        yield receiver
    finally:
        await runner.cleanup()


def webhook(port: int, *private: str, host: str = "127.0.0.1") -> WebhookSink:
    settings = Settings(
        alert_webhook_url=f"http://{host}:{port}/hook", alert_webhook_secret=SECRET, alert_private_hosts=private
    )
    return WebhookSink(poster(settings), SECRET, "node-1")


async def until(holds: Any) -> None:
    async with asyncio.timeout(60):
        while not holds():
            await asyncio.sleep(0.02)


async def test_a_receiver_gets_a_body_that_it_can_verify() -> None:
    async with receiving() as receiver:
        await webhook(receiver.port, f"127.0.0.1:{receiver.port}").send(NOTICE)
    assert [each["rule"] for each in receiver.got] == ["DiskAlmostFull"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "169.254.169.254", "10.0.0.1"])
async def test_a_private_address_that_the_operator_did_not_name_is_never_asked(host: str) -> None:
    async with receiving() as receiver:
        with pytest.raises(NotDelivered, match="not an address of the public internet"):
            await webhook(receiver.port, host=host).send(NOTICE)
    assert receiver.got == []


async def test_what_metadata_services_answer_at_is_refused_even_if_named() -> None:
    with pytest.raises(NotDelivered, match="link-local"):
        await webhook(80, "169.254.169.254:80", host="169.254.169.254").send(NOTICE)


async def test_a_message_is_tried_again_until_it_is_taken_and_is_then_the_same_one() -> None:
    counted: list[tuple[str, str]] = []
    async with receiving(503, 429) as receiver:
        sink = webhook(receiver.port, f"127.0.0.1:{receiver.port}")
        courier = Courier(sink, lambda *what: counted.append(what), Patience(first_s=0.01))
        courier.start()
        courier.take(NOTICE)
        await until(lambda: counted)
        await courier.close()
    assert counted == [("webhook", "sent")]
    assert [each["id"] for each in receiver.got] == [receiver.got[0]["id"]] * 3
    assert courier.failing == ""


@pytest.mark.parametrize("status", [400, 404, 302])
async def test_what_is_refused_for_good_is_not_tried_again(status: int) -> None:
    counted: list[tuple[str, str]] = []
    async with receiving(status) as receiver:
        sink = webhook(receiver.port, f"127.0.0.1:{receiver.port}")
        courier = Courier(sink, lambda *what: counted.append(what), Patience(first_s=0.01))
        courier.start()
        courier.take(NOTICE)
        await until(lambda: counted)
        await courier.close()
    assert counted == [("webhook", "failed")]
    assert len(receiver.got) == 1
    assert str(status) in courier.failing


async def test_a_receiver_that_is_away_is_given_up_after_its_tries_and_the_queue_is_bounded() -> None:
    counted: list[tuple[str, str]] = []
    port = closed_port()
    sink = webhook(port, f"127.0.0.1:{port}")
    courier = Courier(sink, lambda *what: counted.append(what), Patience(tries=3, first_s=0.01, queued=2))
    for _ in range(5):
        courier.take(NOTICE)
    assert counted == [("webhook", "dropped")] * 3
    courier.start()
    await until(lambda: len(counted) == 5)
    await courier.close()
    assert counted[3:] == [("webhook", "failed")] * 2
    assert courier.failing


class Mailbox:
    """What a mail server took, and whether that came over TLS."""

    def __init__(self) -> None:
        self.mails: list[tuple[list[str], Any]] = []
        self.encrypted: list[bool] = []

    async def handle_DATA(self, server: Any, _session: Any, envelope: Any) -> str:
        self.encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
        self.mails.append((envelope.rcpt_tos, message_from_bytes(envelope.content, policy=policy.default)))
        return "250 taken"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ssl.SSLContext]:
    """A certificate of localhost that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    folder = tmp_path_factory.mktemp("certificate")
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return folder / "cert.pem", context


@contextlib.contextmanager
def mail_server(tls: ssl.SSLContext | None) -> Iterator[tuple[Mailbox, int]]:
    box, port = Mailbox(), closed_port()
    controller = Controller(
        box,
        hostname="127.0.0.1",
        port=port,
        tls_context=tls,
        require_starttls=tls is not None,
        server_hostname="localhost",
    )
    controller.start()
    try:
        yield box, port
    finally:
        controller.stop()


def mail(port: int, **more: Any) -> MailSink:
    server = MailServer("localhost", port, **{"security": "starttls"} | more)
    return MailSink(server, "node@example.org", ("ann@example.org",), ("bob@example.org",), "node-1", "http://node")


async def test_mail_goes_over_starttls_to_a_server_whose_certificate_is_checked(
    certificate: tuple[Path, ssl.SSLContext],
) -> None:
    with mail_server(certificate[1]) as (box, port):
        await mail(port, ca_file=str(certificate[0])).send(NOTICE)
        await mail(port, ca_file=str(certificate[0])).send(Notice("escalated", "X", "page", (ALERT,)))
        with pytest.raises(NotDelivered, match="SSL"):
            await mail(port).send(NOTICE)
    assert box.encrypted == [True, True]
    (first, sent), (second, _) = box.mails
    assert first == ["ann@example.org"]
    assert second == ["ann@example.org", "bob@example.org"]
    assert sent["Subject"] == "[page] FIRING: DiskAlmostFull on node-1"
    assert "Full." in sent.get_content()


async def test_a_server_without_starttls_gets_nothing_unless_the_operator_says_so() -> None:
    with mail_server(None) as (box, port):
        with pytest.raises(NotDelivered, match="did not take it"):
            await mail(port).send(NOTICE)
        assert box.mails == []
        await mail(port, security="none").send(NOTICE)
    assert box.encrypted == [False]


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
