"""Fetching from gateways that behave, misbehave, or both: real sockets, a real gateway, a faulty network before it."""

import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from os import environ

import pytest
from tests.support.fault_proxy import ALL_TROUBLE, LIES, FaultProxy, Trouble, fault_proxy
from tests.support.gateway_server import GatewayServer, gateway_server

from prsm.data_layer.codec.block import MAX_BLOCK_BYTES
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.network.addresses import parse_private_hosts
from prsm.data_layer.network.block_fetch import fetch_block
from prsm.data_layer.network.endpoints import Endpoints
from prsm.data_layer.network.gateways import Gateway
from prsm.data_layer.network.http_fetch import UNPACED, HttpLimits
from prsm.data_layer.seams import Fault, Pace, StorageFault
from prsm.data_layer.transfer.cancellation import Cancellation, Cancelled
from prsm.data_layer.transfer.throttle import Bandwidth, Traffic
from prsm.safety.circuit_breaker import BreakerBoard

FETCHES = int(environ.get("PRSM_TEST_CHAOS_FETCHES", "150"))
SHORT = HttpLimits(connect_s=2, idle_s=0.4, slow_after_s=0.6, slow_bytes_s=64 * 1024)

_draw = random.Random(7)
BLOCKS = {
    Cid.of(Codec.RAW, data): data
    for data in (
        _draw.randbytes(size) for size in (0, 1, 8191, 8192, 8193, *(_draw.randrange(70_000) for _ in range(60)))
    )
}
BLOCK_CID, BLOCK = max(BLOCKS.items(), key=lambda item: len(item[1]))


@pytest.fixture(scope="module")
def server() -> Iterator[GatewayServer]:
    with gateway_server(BLOCKS) as server:
        yield server


def gateway_at(url: str, limits: HttpLimits = SHORT) -> Gateway:
    return Gateway.at(url, private_hosts=parse_private_hosts([url.partition("://")[2]]), limits=limits)


def endpoints_of(gateways: Sequence[Gateway]) -> Endpoints:
    return Endpoints(gateways, breakers=BreakerBoard(time.monotonic), draw=random.Random(1).random)


@contextmanager
def proxied(server: GatewayServer, count: int, **plan) -> Iterator[tuple[list[FaultProxy], Endpoints]]:
    """``count`` faulty networks before one gateway, and the endpoints that see only those."""
    with ExitStack() as stack:
        seed = plan.pop("seed", 0)
        proxies = [stack.enter_context(fault_proxy(server.url, seed=seed + n, **plan)) for n in range(count)]
        endpoints = endpoints_of([gateway_at(proxy.url) for proxy in proxies])
        stack.callback(endpoints.close)
        yield proxies, endpoints


def fetch(
    endpoints: Endpoints,
    cid: Cid = BLOCK_CID,
    *,
    budget_s: float = 20.0,
    pace: Pace = UNPACED,
    urgent: bool = False,
) -> bytes:
    room = memoryview(bytearray(MAX_BLOCK_BYTES))
    return bytes(room[: fetch_block(endpoints, cid, room, budget_s=budget_s, pace=pace, urgent=urgent)])


def many(endpoints: Endpoints, count: int, workers: int = 8) -> tuple[int, list[StorageFault]]:
    """Fetch ``count`` blocks side by side; how many came, each checked against the original, and the failures."""
    cids = list(BLOCKS)

    def one(number: int) -> StorageFault | None:
        cid = cids[number % len(cids)]
        try:
            assert fetch(endpoints, cid) == BLOCKS[cid]
        except StorageFault as fault:
            return fault
        return None

    with ThreadPoolExecutor(workers) as threads:
        faults = [fault for fault in threads.map(one, range(count)) if fault is not None]
    return count - len(faults), faults


@pytest.mark.parametrize("cid", list(BLOCKS)[:8], ids=lambda cid: str(cid)[-6:])
def test_a_block_arrives_equal(server: GatewayServer, cid: Cid) -> None:
    room = memoryview(bytearray(len(BLOCKS[cid])))
    gateway = gateway_at(server.url)
    size = gateway.fetch(cid, room, deadline_s=time.monotonic() + 5, pace=UNPACED)
    assert bytes(room[:size]) == BLOCKS[cid]
    gateway.close()


def test_connections_are_kept_and_the_node_says_who_it_is(server: GatewayServer) -> None:
    gateway = gateway_at(server.url)
    before = server.accepted
    room = memoryview(bytearray(MAX_BLOCK_BYTES))
    for cid in BLOCKS:
        gateway.fetch(cid, room, deadline_s=time.monotonic() + 5, pace=UNPACED)
    assert server.accepted == before + 1
    head = server.heads[-1]
    assert head["user-agent"].startswith("prsm/")
    assert head["accept-encoding"] == "identity"
    assert head["accept"] == "application/vnd.ipld.raw"
    gateway.close()


def test_a_kept_connection_that_died_is_replaced_unnoticed() -> None:
    with gateway_server(BLOCKS) as server:
        gateway = gateway_at(server.url)
        room = memoryview(bytearray(MAX_BLOCK_BYTES))
        gateway.fetch(BLOCK_CID, room, deadline_s=time.monotonic() + 5, pace=UNPACED)
        server.drop_connections()
        assert gateway.fetch(BLOCK_CID, room, deadline_s=time.monotonic() + 5, pace=UNPACED) == len(BLOCK)
        assert server.accepted == 2
        gateway.close()


def test_a_block_that_is_larger_than_the_buffer_is_a_lie(server: GatewayServer) -> None:
    gateway = gateway_at(server.url)
    with pytest.raises(StorageFault, match="at most 100 bytes") as refused:
        gateway.fetch(BLOCK_CID, memoryview(bytearray(100)), deadline_s=time.monotonic() + 5, pace=UNPACED)
    assert refused.value.fault is Fault.BAN
    gateway.close()


def test_probe(server: GatewayServer) -> None:
    gateway = gateway_at(server.url)
    assert 0 < gateway.probe(time.monotonic() + 5) < 5
    assert server.requests["/ipfs/bafkqaaa?format=raw"] > 0
    gateway.close()
    with pytest.raises(StorageFault, match="refused the connection"):
        gateway_at("http://127.0.0.1:9").probe(time.monotonic() + 5)


@pytest.mark.parametrize(
    ("trouble", "fault", "said"),
    [
        (Trouble.RESET, Fault.RETRY, "reset|closed"),
        (Trouble.RESET_MIDWAY, Fault.RETRY, "reset|closed"),
        (Trouble.HANG, Fault.RETRY, "nothing moved for 0.4 s"),
        (Trouble.HANG_MIDWAY, Fault.RETRY, "nothing moved for 0.4 s"),
        (Trouble.DRIP, Fault.RETRY, "less than 65536 bytes per second"),
        (Trouble.TRUNCATE, Fault.RETRY, "closed the connection before the end"),
        (Trouble.CORRUPT, Fault.BAN, "another hash"),
        (Trouble.OTHER, Fault.BAN, "another hash"),
        (Trouble.HUGE, Fault.BAN, "sent 1099511627776 bytes where at most 2097152"),
        (Trouble.HUGE_CHUNKED, Fault.BAN, "sent more where at most 2097152"),
        (Trouble.SHORT_LENGTH, Fault.BAN, "another hash"),
        (Trouble.LONG_LENGTH, Fault.RETRY, "nothing moved for 0.4 s"),
        (Trouble.NOT_FOUND, Fault.OTHER_REPLICA, "answered 404 .* does not have it"),
        (Trouble.GONE, Fault.OTHER_REPLICA, "answered 410"),
        (Trouble.TOO_MANY, Fault.RETRY, "answered 429"),
        (Trouble.ERROR, Fault.RETRY, "answered 500"),
        (Trouble.UNAVAILABLE, Fault.RETRY, "answered 503"),
        (Trouble.REDIRECT, Fault.BAN, "redirects to 169.254.169.254"),
        (Trouble.SLOW_HEAD, Fault.RETRY, "less than 65536 bytes per second"),
        (Trouble.ENDLESS_HEAD, Fault.RETRY, "not HTTP"),
        (Trouble.GARBAGE, Fault.RETRY, "not HTTP|before the end"),
        (Trouble.COMPRESSED, Fault.OTHER_REPLICA, "compressed"),
    ],
)
def test_each_trouble_is_named_and_another_gateway_makes_up_for_it(
    server: GatewayServer, trouble: Trouble, fault: Fault, said: str
) -> None:
    with proxied(server, 1) as ([proxy], alone):
        proxy.script.extend([trouble] * 30)
        proxy.retry_after = "30"
        with pytest.raises(StorageFault, match=said) as failed:
            fetch(alone, budget_s=1.0)
        assert str(BLOCK_CID) in failed.value.message
        assert proxy.url in failed.value.message
        assert failed.value.fault is fault
        view = alone.snapshot()[0]
        assert (view.banned_s > 0) == (fault is Fault.BAN)
        assert view.fetched == 0
        alone.add(gateway_at(server.url))
        assert fetch(alone) == BLOCK
        assert proxy.did[trouble] > 0


def test_a_good_answer_after_a_bad_one_from_the_same_gateway(server: GatewayServer) -> None:
    with proxied(server, 1) as ([proxy], endpoints):
        proxy.script.extend([Trouble.RESET, Trouble.ERROR, Trouble.TRUNCATE])
        assert fetch(endpoints) == BLOCK
        assert proxy.did == {Trouble.RESET: 1, Trouble.ERROR: 1, Trouble.TRUNCATE: 1, Trouble.NONE: 1}


def test_retry_after_is_waited_for(server: GatewayServer) -> None:
    with proxied(server, 1) as ([proxy], endpoints):
        proxy.script.append(Trouble.TOO_MANY)
        started_s = time.monotonic()
        assert fetch(endpoints) == BLOCK
        assert time.monotonic() - started_s >= 1.0


def test_the_drip_does_not_outlive_the_deadline(server: GatewayServer) -> None:
    patient = HttpLimits(idle_s=60, slow_after_s=60)
    with fault_proxy(server.url) as proxy:
        proxy.script.extend([Trouble.DRIP, Trouble.SLOW_HEAD])
        gateway = gateway_at(proxy.url, patient)
        for _ in range(2):
            with pytest.raises(StorageFault, match="did not finish in time"):
                gateway.fetch(
                    BLOCK_CID, memoryview(bytearray(len(BLOCK))), deadline_s=time.monotonic() + 0.3, pace=UNPACED
                )
        gateway.close()


@pytest.mark.parametrize("trouble", [Trouble.HANG, Trouble.HANG_MIDWAY, Trouble.DRIP])
def test_a_cancelled_fetch_ends_while_the_gateway_hangs(server: GatewayServer, trouble: Trouble) -> None:
    cancelled = Cancellation()
    patient = HttpLimits(idle_s=60, slow_after_s=60)
    with fault_proxy(server.url) as proxy:
        proxy.script.append(trouble)
        endpoints = endpoints_of([gateway_at(proxy.url, patient)])
        timer = threading.Timer(0.3, cancelled.set)
        timer.start()
        with pytest.raises(Cancelled):
            fetch(endpoints, budget_s=60, pace=Bandwidth().pace(Traffic.BULK, cancelled))
        timer.join()
        view = endpoints.snapshot()[0]
        assert (view.failed, view.in_flight, view.last_fault) == (0, 0, "")
        endpoints.close()


def test_closing_ends_a_fetch_that_hangs(server: GatewayServer) -> None:
    with fault_proxy(server.url) as proxy:
        proxy.script.append(Trouble.HANG)
        gateway = gateway_at(proxy.url, HttpLimits(idle_s=60))
        timer = threading.Timer(0.2, gateway.close)
        timer.start()
        with pytest.raises(StorageFault, match="no longer in use"):
            gateway.fetch(BLOCK_CID, memoryview(bytearray(9)), deadline_s=time.monotonic() + 60, pace=UNPACED)
        timer.join()


def test_our_own_bandwidth_limit_is_no_fault_of_the_gateway(server: GatewayServer) -> None:
    endpoints = endpoints_of([gateway_at(server.url)])
    pace = Bandwidth(limit_bytes_s=40_000).pace(Traffic.BULK, Cancellation())
    started_s = time.monotonic()
    assert fetch(endpoints, budget_s=0.5, pace=pace) == BLOCK  # takes longer than its budget, by the limit alone
    assert time.monotonic() - started_s > 0.5
    endpoints.close()


def test_nobody_has_it(server: GatewayServer) -> None:
    absent = Cid.of(Codec.RAW, b"nowhere")
    with proxied(server, 3) as (proxies, endpoints):
        with pytest.raises(StorageFault, match="answered 404") as failed:
            fetch(endpoints, absent)
        assert (failed.value.fault, failed.value.code) == (Fault.OTHER_REPLICA, "block_not_found")
        assert sum(proxy.did[Trouble.NONE] for proxy in proxies) == 3  # nobody is asked twice
        assert all(view.banned_s == 0 and view.missed == 1 for view in endpoints.snapshot())


def test_who_waits_for_a_block_is_soon_told_of_each_gateway_that_was_away_before() -> None:
    with ExitStack() as stack:
        closed = [stack.enter_context(gateway_server({})).url for _ in range(2)]
    with gateway_server({}) as without, gateway_server(BLOCKS) as server, fault_proxy(server.url) as hanging:
        hanging.script.extend([Trouble.HANG] * 10_000)
        urls = (*closed, without.url, hanging.url)
        endpoints = endpoints_of([gateway_at(url) for url in urls])
        endpoints.probe_all()
        with pytest.raises(StorageFault) as failed:  # an hour later, if it went by the budget
            fetch(endpoints, budget_s=3600, urgent=True)
        assert all(url in failed.value.message for url in urls)
        assert failed.value.message.count("it refused the connection") == 2
        assert failed.value.fault is Fault.RETRY
        assert without.requests.total() == 2, "it said once that it is there, and once that it has no such block"
        endpoints.close()


def test_the_least_bad_is_asked_before_anybody_is_told_that_all_are_away(server: GatewayServer) -> None:
    with proxied(server, 2) as (proxies, endpoints):
        for proxy in proxies:
            proxy.script.extend([Trouble.RESET] * 10_000)
        for _ in range(3):
            with pytest.raises(StorageFault):
                fetch(endpoints, budget_s=0.5)
        assert endpoints.silent_s() == float("inf")
        assert all(view.failing > 0.5 for view in endpoints.snapshot())
        proxies[1].script.clear()
        assert fetch(endpoints, budget_s=3600, urgent=True) == BLOCK


def test_no_endpoint_at_all() -> None:
    with pytest.raises(StorageFault, match="no endpoint to ask"):
        fetch(endpoints_of([]))


def test_identity_needs_no_endpoint() -> None:
    assert fetch(endpoints_of([]), Cid(Codec.RAW, b"in itself", identity=True)) == b"in itself"


def test_one_of_three_gateways_is_bad(server: GatewayServer) -> None:
    with proxied(server, 1, chance=1.0, seed=11) as ([bad], endpoints):
        endpoints.add(gateway_at(server.url))
        with gateway_server(BLOCKS) as second:
            endpoints.add(gateway_at(second.url))
            came, faults = many(endpoints, FETCHES)
            assert came >= 0.999 * FETCHES, faults[:3]
            assert bad.did.total() > 0


def test_all_three_gateways_at_a_fifth_of_chaos(server: GatewayServer) -> None:
    with proxied(server, 3, chance=0.2, seed=23) as (proxies, endpoints):
        came, faults = many(endpoints, FETCHES)
        assert came >= 0.99 * FETCHES, faults[:3]
        did = sum((proxy.did for proxy in proxies), start=proxies[0].did.__class__())
        assert did.total() - did[Trouble.NONE] > 0.1 * FETCHES
        if FETCHES >= 3000:
            assert set(did) == {Trouble.NONE, *ALL_TROUBLE}


def test_all_gateways_corrupt_fails_closed(server: GatewayServer) -> None:
    with proxied(server, 3, chance=1.0, kinds=LIES, seed=5) as (proxies, endpoints):
        for cid in list(BLOCKS)[1:6]:
            with pytest.raises(StorageFault, match=r"lied about|bytes belong") as failed:
                fetch(endpoints, cid)
            assert failed.value.fault is Fault.BAN
            assert str(cid) in failed.value.message
            assert all(proxy.url in failed.value.message for proxy in proxies)
        assert all(view.banned_s > 0 and view.ban_reason and view.fetched == 0 for view in endpoints.snapshot())
