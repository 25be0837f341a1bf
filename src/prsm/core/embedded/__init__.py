"""PostgreSQL and Valkey from wheels, run as real servers in a node's home without system packages or privileges.

The servers outlive a killed node; the next start adopts the healthy ones and ends the others.
"""

from prsm.core.embedded.home import HomeInUse, NodeHome, Site
from prsm.core.embedded.postgres import EmbeddedPostgres
from prsm.core.embedded.valkey import EmbeddedValkey

__all__ = ["EmbeddedPostgres", "EmbeddedValkey", "HomeInUse", "NodeHome", "Site"]
