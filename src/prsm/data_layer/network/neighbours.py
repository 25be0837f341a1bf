"""The endpoints that are known now, made from what discovery finds; no traffic but what their owners ask for."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import structlog

from prsm.core.errors import InvalidRequest
from prsm.data_layer.network.addresses import Origin, PrivateHosts
from prsm.data_layer.network.discovery import Discovery, EndpointKind, Found
from prsm.data_layer.network.endpoints import Endpoints
from prsm.data_layer.network.gateways import Gateway
from prsm.data_layer.network.kubo import KuboNode
from prsm.data_layer.network.mdns import OwnGateway, Responder

_log: Any = structlog.get_logger("storage")


@dataclass(slots=True)
class Neighbours:
    """``credentials`` are those of one's own nodes, by origin."""

    endpoints: Endpoints
    discovery: Discovery
    private_hosts: PrivateHosts = frozenset()
    credentials: Mapping[Origin, str] = field(default_factory=dict[Origin, str])
    nodes: Mapping[str, KuboNode] = field(default_factory=dict[str, KuboNode])
    """One's own, which take blocks too. A mapping that is never changed, but replaced: any thread may walk it."""
    _known: dict[Found, str] = field(default_factory=dict[Found, str])
    _refused: dict[Found, str] = field(default_factory=dict[Found, str])
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _responder: Responder | None = None

    def listen(self, interface: str, gateway: OwnGateway | None) -> None:
        """Find others on the link at ``interface`` from now on, and tell them of this node's gateway."""
        self._responder = Responder(interface, self.discovery.heard, gateway)

    def close(self) -> None:
        """Leave the link and forget all endpoints; what they still do fails soon after."""
        if self._responder is not None:
            self._responder.close()
        self.endpoints.close()

    def learn(self) -> None:
        """Take up endpoints that are new and drop those that nobody names any more; one that is refused is logged."""
        with self._lock:
            current = self.discovery.current()
            for found in self._known.keys() - set(current):
                name = self._known.pop(found)
                self.nodes = {each: node for each, node in self.nodes.items() if each != name}
                self.endpoints.remove(name)
            self._refused = {found: why for found, why in self._refused.items() if found in current}
            for found in current:
                if found not in self._known:
                    self._take_up(found)

    def _take_up(self, found: Found) -> None:
        try:
            source = self._source(found)
            self.endpoints.add(source)
        except InvalidRequest as error:  # the others are of use all the same; this one is tried again next time
            if self._refused.get(found) != error.message:
                _log.warning("endpoint refused", endpoint=str(found.origin), reason=error.message)
            self._refused[found] = error.message
            return
        self._known[found] = source.name
        self._refused.pop(found, None)
        if isinstance(source, KuboNode):
            self.nodes = {**self.nodes, source.name: source}

    def _source(self, found: Found) -> KuboNode | Gateway:
        hosts = found.private_hosts(self.private_hosts)
        if found.kind is EndpointKind.GATEWAY:
            return Gateway.at(str(found.origin), private_hosts=hosts)
        # An own node may be anywhere: the operator named it.
        hosts |= {(found.origin.host, found.origin.port)}
        credentials = self.credentials.get(found.origin, "")
        return KuboNode.at(str(found.origin), credentials=credentials, private_hosts=hosts)
