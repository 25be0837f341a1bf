"""Where alerts are told: the log, a webhook, mail. Each has a bounded queue and tries again; none waits for another.

A sink that fails is itself an alert, told by the others.
"""

import asyncio
import random
import smtplib
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any, Literal, Protocol

import structlog

from prsm.core.cancellation import end_tasks
from prsm.core.clock import uuid7
from prsm.monitoring.alerting import messages
from prsm.monitoring.alerting.states import Alert, Notice

Post = Callable[[bytes, Mapping[str, str]], Awaitable[int]]
"""Posts a body with headers to the one receiver; answers the status. Raises OSError or PrsmError, within a deadline."""
Count = Callable[[str, Literal["sent", "failed", "dropped"]], object]
_log: Any = structlog.get_logger("alerts")


class NotDelivered(Exception):
    """A sink did not take a message. ``final``: asking again is of no use."""

    def __init__(self, why: str, *, final: bool = False) -> None:
        super().__init__(why)
        self.final = final


class Sink(Protocol):
    """One way to tell people."""

    name: str

    async def send(self, notice: Notice) -> None:
        """Tell once. Raises NotDelivered."""
        ...


class LogSink:
    """The node's log; it cannot fail."""

    name = "log"

    async def send(self, notice: Notice) -> None:
        """A line for each alert."""
        for alert in notice.alerts:
            _log.warning(
                f"alert {notice.kind.replace('_', ' ')}",
                rule=alert.rule,
                severity=alert.severity,
                summary=alert.summary,
                value=round(alert.value, 6),
                **{f"label_{name}": value for name, value in alert.labels.items()},
            )


class WebhookSink:
    """A signed POST; the receiver is one that ``post`` was made for."""

    name = "webhook"

    def __init__(self, post: Post, secret: str, node: str) -> None:
        self._post = post
        self._secret = secret
        self._node = node

    async def send(self, notice: Notice) -> None:
        """Any 2xx is taken; 408, 429 and 5xx may be better later."""
        now_s = time.time()
        body = messages.as_json(notice, self._node, now_s)
        signed = messages.signature(self._secret, body, now_s)
        headers = {"content-type": "application/json", messages.SIGNATURE: signed}
        try:
            status = await self._post(body, headers)
        except Exception as error:
            raise NotDelivered(f"the receiver cannot be reached ({type(error).__name__}: {error})") from error
        if not 200 <= status < 300:
            final = 300 <= status < 500 and status not in (408, 429)
            raise NotDelivered(f"the receiver answered with status {status}", final=final)


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where mail is handed over. ``ca_file`` is the authority of its certificate, empty: the system's."""

    host: str
    port: int
    security: Literal["starttls", "tls", "none"]
    user: str = ""
    password: str = ""
    ca_file: str = ""
    timeout_s: float = 20.0


class MailSink:
    """Mail over SMTP; a server that does not offer STARTTLS when told to gets nothing."""

    name = "mail"

    def __init__(
        self,
        server: MailServer,
        sender: str,
        to: tuple[str, ...],
        escalated_to: tuple[str, ...],
        node: str,
        address: str,
    ) -> None:
        self._server = server
        self._sender = sender
        self._to = to
        self._escalated_to = escalated_to
        self._node = node
        self._address = address

    async def send(self, notice: Notice) -> None:
        """One mail to all; what is escalated goes further up too."""
        to = (*self._to, *self._escalated_to) if notice.kind == "escalated" else self._to
        try:
            await asyncio.to_thread(self._hand_over, notice, tuple(dict.fromkeys(to)))
        except smtplib.SMTPRecipientsRefused as error:
            raise NotDelivered("the mail server refused every recipient", final=True) from error
        except smtplib.SMTPAuthenticationError as error:
            raise NotDelivered("the mail server refused user and password", final=True) from error
        except (OSError, smtplib.SMTPException) as error:
            raise NotDelivered(f"the mail server did not take it ({type(error).__name__})") from error

    def _hand_over(self, notice: Notice, to: tuple[str, ...]) -> None:
        mail = EmailMessage()
        mail["From"], mail["To"] = self._sender, ", ".join(to)
        mail["Subject"] = messages.subject(notice, self._node)
        mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no out-of-office answers
        mail.set_content(messages.as_text(notice, self._node, self._address))
        server = self._server
        context = ssl.create_default_context(cafile=server.ca_file or None)
        if server.security == "tls":
            client: smtplib.SMTP = smtplib.SMTP_SSL(server.host, server.port, timeout=server.timeout_s, context=context)
        else:
            client = smtplib.SMTP(server.host, server.port, timeout=server.timeout_s)
        with client:
            if server.security == "starttls":
                client.starttls(context=context)  # raises where it is not offered
            if server.user:
                client.login(server.user, server.password)
            client.send_message(mail)


@dataclass(frozen=True, slots=True)
class Patience:
    """How often and how long a message is tried; pauses are drawn up to ``first_s`` doubled at each try."""

    tries: int = 16
    first_s: float = 1.0
    most_s: float = 300.0
    queued: int = 200


class Courier:
    """Carries notices to one sink in order, one at a time; when its queue is full the newest is dropped and counted."""

    def __init__(
        self, sink: Sink, count: Count, patience: Patience = Patience(), draw: Callable[[], float] = random.random
    ) -> None:
        self.sink = sink
        self.failing = ""
        """Why the last message did not go; empty while they go."""
        self._count = count
        self._patience = patience
        self._draw = draw
        self._queue: asyncio.Queue[Notice] = asyncio.Queue(patience.queued)
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to carry."""
        self._task = asyncio.create_task(self._run(), name=f"alerts-{self.sink.name}")

    async def close(self) -> None:
        """Stop; what waits is given up."""
        if self._task:
            await end_tasks([self._task])

    def take(self, notice: Notice) -> None:
        """Deliver it soon; never waits."""
        try:
            self._queue.put_nowait(notice)
        except asyncio.QueueFull:
            self._count(self.sink.name, "dropped")

    async def _run(self) -> None:
        while True:
            notice = await self._queue.get()
            try:
                await self._deliver(notice)
            except Exception as error:  # noqa: BLE001 - or nothing would be told this way any more
                self.failing = f"it failed ({type(error).__name__})"
                _log.exception("alert not delivered", sink=self.sink.name, rule=notice.rule)
                self._count(self.sink.name, "failed")

    async def _deliver(self, notice: Notice) -> None:
        for turn in range(self._patience.tries):
            try:
                await self.sink.send(notice)
            except NotDelivered as error:
                self.failing = str(error)
                if error.final or turn + 1 == self._patience.tries:
                    _log.warning("alert not delivered", sink=self.sink.name, rule=notice.rule, reason=str(error))
                    self._count(self.sink.name, "failed")
                    return
                pause_s = min(self._patience.first_s * 2**turn, self._patience.most_s)
                await asyncio.sleep(pause_s * self._draw())
            else:
                self.failing = ""
                self._count(self.sink.name, "sent")
                return


def trial(severity: Literal["page", "ticket"], now_s: float) -> Notice:
    """A message by which people see that they would be told."""
    alert = Alert(
        uuid7(), "test", "Test", severity, {}, "This is a test that somebody asked for; nothing is wrong.", "firing",
        0.0, now_s, now_s, fired_s=now_s,
    )  # fmt: skip
    return Notice("firing", "Test", severity, (alert,))
