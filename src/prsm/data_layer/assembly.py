"""How the parts of storage are put together, from plain values; started by nobody but the composition root."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prsm.core.database import Pool
from prsm.data_layer.enhanced_ipfs import EnhancedIPFS, StoragePolicy
from prsm.data_layer.network.addresses import Origin, parse_private_hosts
from prsm.data_layer.network.discovery import Discovery
from prsm.data_layer.network.endpoints import Endpoints
from prsm.data_layer.network.mdns import OwnGateway
from prsm.data_layer.network.neighbours import Neighbours
from prsm.data_layer.seams import Breakers
from prsm.data_layer.store.catalog import Catalog
from prsm.data_layer.store.collector import Collector
from prsm.data_layer.store.object_files import ObjectFiles
from prsm.data_layer.store.uploads import UploadQueue
from prsm.data_layer.transfer.throttle import Bandwidth
from prsm.data_layer.transfer.upload_drain import Uploads


@dataclass(frozen=True, slots=True)
class Places:
    """Where blocks come from and go to, as the operator writes it.

    ``nodes`` are RPC addresses of own IPFS nodes, with credentials before an ``@``: ``user:password`` or
    ``bearer:token``. ``private_hosts`` are ``host:port`` of gateways that may be at private addresses. Other nodes are
    looked for at ``mdns_interface``, nowhere when it is empty, and told of ``own_gateway`` there.
    """

    nodes: Sequence[str] = ()
    gateways: Sequence[str] = ()
    private_hosts: Sequence[str] = ()
    peers_file: Path | None = None
    mdns_interface: str = ""
    own_gateway: OwnGateway | None = None


def assemble(
    folder: Path, pool: Pool, breakers: Breakers, places: Places, policy: StoragePolicy, limit_bytes_s: int | None
) -> EnhancedIPFS:
    """The storage in ``folder``. ``breakers`` are its own. Raises BadAddress, StorageFault (LOCAL_DISK)."""
    files = ObjectFiles(folder)
    catalog = Catalog(pool, files)
    bandwidth = Bandwidth(limit_bytes_s)
    nodes = [_credentials(url) for url in places.nodes]
    discovery = Discovery([*(f"node {url}" for url, _ in nodes), *places.gateways], peers_file=places.peers_file)
    neighbours = Neighbours(
        Endpoints(breakers=breakers),
        discovery,
        parse_private_hosts(places.private_hosts),
        {Origin.parse(url): credentials for url, credentials in nodes if credentials},
    )
    neighbours.learn()
    uploads = Uploads(UploadQueue(pool), files, neighbours, bandwidth)
    if places.mdns_interface:
        neighbours.listen(places.mdns_interface, places.own_gateway)
    return EnhancedIPFS(catalog, Collector(pool, catalog), neighbours, uploads, bandwidth, policy)


def _credentials(url: str) -> tuple[str, str]:
    """An address without its credentials, and those as Kubo's ``AuthSecret`` has them."""
    scheme, separator, rest = url.partition("://")
    given, at, place = rest.rpartition("@")
    if not at:
        return url, ""
    kind = given if given.startswith(("bearer:", "basic:")) else f"basic:{given}"
    return f"{scheme}{separator}{place}", kind
