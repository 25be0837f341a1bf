"""The endpoints that are known now, made from what discovery finds; no traffic but what their owners ask for."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prsm.core.errors import InvalidRequest
from prsm.data_layer.addresses import Origin, PrivateHosts
from prsm.data_layer.discovery import Discovery, EndpointKind, Found
from prsm.data_layer.endpoints import Endpoints
from prsm.data_layer.gateways import Gateway
from prsm.data_layer.kubo import KuboNode


@dataclass(slots=True)
class Neighbours:
    """``nodes`` are those of one's own, which take blocks too; ``credentials`` are theirs, by origin."""

    endpoints: Endpoints
    discovery: Discovery
    private_hosts: PrivateHosts = frozenset()
    credentials: Mapping[Origin, str] = field(default_factory=dict[Origin, str])
    nodes: dict[str, KuboNode] = field(default_factory=dict[str, KuboNode])
    _known: dict[Found, str] = field(default_factory=dict[Found, str])

    def learn(self) -> None:
        """Take up endpoints that are new and drop those that nobody names any more."""
        current = self.discovery.current()
        for found in set(self._known) - set(current):
            name = self._known.pop(found)
            self.nodes.pop(name, None)
            self.endpoints.remove(name)
        for found in current:
            if found not in self._known:
                self._take_up(found)

    def _take_up(self, found: Found) -> None:
        hosts = found.private_hosts(self.private_hosts)
        if found.kind is EndpointKind.NODE:
            hosts |= {(found.origin.host, found.origin.port)}  # an own node may be anywhere: the operator named it
            source = KuboNode.at(
                str(found.origin), credentials=self.credentials.get(found.origin, ""), private_hosts=hosts
            )
            self.nodes[source.name] = source
        else:
            source = Gateway.at(str(found.origin), private_hosts=hosts)
        try:
            self.endpoints.add(source)
        except InvalidRequest:
            self.nodes.pop(source.name, None)
            return
        self._known[found] = source.name
