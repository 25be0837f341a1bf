"""How a node is watched: its vitals, its alerter and whom that tells, and the state that all its workers show.

The worker that evaluates writes what it knows to a file of the home; the others read it there, so that every worker
shows the same.
"""

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any

from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.data_layer.network.addresses import Origin, parse_private_hosts
from prsm.data_layer.network.http_fetch import UNPACED, HttpOrigin
from prsm.data_layer.storage_watch import StorageWatch
from prsm.monitoring.alerting.alerter import Alerter
from prsm.monitoring.alerting.book import AlertBook
from prsm.monitoring.alerting.sinks import (
    Courier,
    LogSink,
    MailServer,
    MailSink,
    NotDelivered,
    Post,
    Sink,
    WebhookSink,
    trial,
)
from prsm.monitoring.alerting.states import AlertPolicy
from prsm.monitoring.capacity.traffic import FAMILIES, Traffic
from prsm.monitoring.metrics import Metrics
from prsm.monitoring.objectives.declared import shipped
from prsm.monitoring.objectives.selector import Sample
from prsm.node.status import LEVEL_FAMILIES, State, Tracks, read_state, used_levels, write_state
from prsm.node.vitals import Vitals, expose_vitals

_WEBHOOK_S = 15.0


class Monitoring:
    """What watches one node; ``close`` it when the node ends."""

    def __init__(
        self, settings: Settings, node_id: str, store: Database, metrics: Metrics, storage: StorageWatch
    ) -> None:
        self.vitals = Vitals(settings, store.url, metrics, storage)
        self.book = AlertBook(store.pool, node_id)
        self.couriers = [Courier(sink, metrics.notice) for sink in _sinks(settings, node_id)]
        self._metrics = metrics
        self._folder = settings.home / "monitoring"
        self._shared = settings.workers > 1
        self._traffic = Traffic()
        self._tracks = Tracks()
        self._families = {*(each.family for each in shipped().selectors()), *FAMILIES, *LEVEL_FAMILIES}
        self.alerter = Alerter(
            shipped(),
            self._read,
            self.book,
            self.couriers,
            self._folder,
            AlertPolicy(escalate_s=settings.alert_escalate_after_s, repeat_s=settings.alert_repeat_s),
        )
        expose_vitals(self.vitals, metrics, store.pool, settings.ledger_queue_max)
        metrics.levels(
            "prsm_alert_sink_failing", "1 while messages about alerts do not go this way.", "sink", self.failing
        )
        metrics.levels("prsm_alerts_firing", "Alerts that fire.", "severity", self.firing)

    def start(self) -> None:
        """Begin to tell."""
        for courier in self.couriers:
            courier.start()

    async def close(self) -> None:
        """Stop telling, keep what is to be kept."""
        for courier in self.couriers:
            await courier.close()
        self.alerter.close()
        self.vitals.close()

    async def look(self) -> None:
        """Look at the parts, and write this worker's share of what is summed over all."""
        await self.vitals.look()
        self._metrics.write_shared()

    async def tick(self) -> None:
        """One evaluation, where it is this worker's turn."""
        if self.alerter.leading:
            self.vitals.judge()
        if await self.alerter.tick():
            now_s, samples = time.time(), self.alerter.samples
            self._traffic.add(samples, now_s)
            self._tracks.add(used_levels(samples), now_s)
            if self._shared:
                with contextlib.suppress(OSError):  # a full disk: the others show what was last
                    write_state(self._folder, self.state())

    def state(self) -> State:
        """The node as a whole, from whichever worker."""
        alerter = self.alerter
        if not alerter.leading:
            return read_state(self._folder)
        return State(
            alerter.at_s,
            list(alerter.alerts.values()),
            alerter.budgets(),
            self._traffic.now(),
            list(self._traffic.minutes),
            self._tracks.levels(),
            {courier.sink.name: courier.failing for courier in self.couriers},
        )

    async def try_sinks(self) -> dict[str, str]:
        """Send a test every way at once, without a queue: why it was not taken; empty where it was."""
        notice = trial("ticket", time.time())

        async def one(sink: Sink) -> str:
            try:
                await sink.send(notice)
            except NotDelivered as error:
                return str(error)
            return ""

        sinks = [courier.sink for courier in self.couriers]
        answers = await asyncio.gather(*map(one, sinks))
        return {sink.name: answer for sink, answer in zip(sinks, answers, strict=True)}

    def failing(self) -> Mapping[str, float]:
        """Each way to tell, and whether it fails now."""
        return {courier.sink.name: float(bool(courier.failing)) for courier in self.couriers}

    def firing(self) -> Mapping[str, float]:
        """Alerts that fire, by severity, as the worker that evaluates knows; of the others none."""
        counts = {"page": 0.0, "ticket": 0.0}
        for alert in self.alerter.alerts.values():
            counts[alert.severity] += alert.state == "firing"
        return counts

    async def _read(self) -> Sequence[Sample]:
        metrics = self._metrics
        metrics.write_shared()
        counted = await asyncio.to_thread(metrics.counted, self._families)
        return [*counted, *metrics.levels_now(self._families)]


def watching_works(monitoring: Monitoring, repeat: Any) -> dict[str, Any]:
    """What goes on for it."""
    return {
        "vitals": repeat(2.0, monitoring.look, at_once=True),
        "feel-loop": monitoring.vitals.feel_loop(),
        "alerts": repeat(5.0, monitoring.tick, at_once=True),
        "forget-alerts": repeat(3600, monitoring.book.forget_old),
    }


def _sinks(settings: Settings, name: str) -> list[Sink]:
    sinks: list[Sink] = [LogSink()]
    if settings.alert_webhook_url:
        sinks.append(WebhookSink(poster(settings), settings.alert_webhook_secret, name))
    if settings.alert_mail_to:
        server = MailServer(
            settings.alert_smtp_host,
            settings.alert_smtp_port,
            settings.alert_smtp_security,
            settings.alert_smtp_user,
            settings.alert_smtp_password,
            settings.alert_smtp_ca_file,
        )
        further = settings.alert_escalation_mail_to
        sinks.append(
            MailSink(server, settings.alert_mail_from, settings.alert_mail_to, further, name, settings.address)
        )
    return sinks


def poster(settings: Settings) -> Post:
    """Posts to the webhook's address, which is checked as every address that storage connects to."""
    receiver = Origin.parse(settings.alert_webhook_url)
    origin = HttpOrigin(
        receiver,
        name="the receiver of alerts",
        private_hosts=parse_private_hosts(settings.alert_private_hosts),
    )

    def send(body: bytes, headers: Mapping[str, str]) -> int:
        with origin.exchange(
            "POST",
            "" if receiver.path else "/",
            asked="an alert",
            deadline_s=time.monotonic() + _WEBHOOK_S,
            pace=UNPACED,
            headers=headers,
            body=[body],
        ) as reply:
            reply.pass_over()
            return reply.status

    async def post(body: bytes, headers: Mapping[str, str]) -> int:
        return await asyncio.to_thread(send, body, headers)

    return post
