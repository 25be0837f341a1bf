"""What all commands of one run share: the settings, and the client made of them."""

from prsm.cli.client import NodeClient
from prsm.core.config import Loaded, Settings
from prsm.core.errors import ConfigError


class Context:
    """Filled once by the options that stand before the command."""

    def __init__(self) -> None:
        self._loaded: Loaded | None = None

    @property
    def loaded(self) -> Loaded:
        """The settings with where they came from."""
        if self._loaded is None:
            raise ConfigError("The settings were not read.")
        return self._loaded

    @loaded.setter
    def loaded(self, loaded: Loaded) -> None:
        self._loaded = loaded

    @property
    def settings(self) -> Settings:
        """The settings."""
        return self.loaded.settings

    @property
    def client(self) -> NodeClient:
        """The node that the settings name."""
        return NodeClient.of(self.settings)


context = Context()
