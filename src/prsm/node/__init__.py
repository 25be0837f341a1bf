"""How everything is put together: ``open_node`` makes a node on given servers; ``servers`` runs embedded ones."""

from prsm.node.background import reload_market
from prsm.node.catalogue import publish_models, reload_models
from prsm.node.composition import open_node, recover
from prsm.node.gauges import readiness
from prsm.node.market import bind
from prsm.node.parts import KEY_REVOKED, Node
from prsm.node.servers import servers

__all__ = [
    "KEY_REVOKED",
    "Node",
    "bind",
    "open_node",
    "publish_models",
    "readiness",
    "recover",
    "reload_market",
    "reload_models",
    "servers",
]
