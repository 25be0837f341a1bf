"""Files of a model from a local hub: whole, verified, gone on with, and every refusal a sentence."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.hub_server import HubServer
from tests.support.local_http import LocalServer

from prsm.core.errors import InvalidRequest, PrsmError
from prsm.federation.discovery.seams import SourceError
from prsm.federation.hub_download import HubDownload, HubFile, HubModel

TOKEN = "hf_local_test_token"
WEIGHTS = os.urandom(3 * 1024 * 1024 + 17)
FILES = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "README.md": b"# Card"}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(token=TOKEN) as server:
        server.add("acme/chat", FILES, pipeline_tag="text-generation", tags=["conversational", "license:mit"])
        server.add("acme/gated", FILES, gated="manual", tags=["license:other"])
        server.add("acme/hidden", FILES).private = True
        yield server


def file_of(model: HubModel, path: str) -> HubFile:
    return next(file for file in model.files if file.path == path)


def fetch(download: HubDownload, model: HubModel, path: str, folder: Path) -> tuple[Path, int]:
    moved: list[int] = []
    file = file_of(model, path)
    return download.fetch(model, file, folder, download.budget(file.size_bytes, 1), moved.append), sum(moved)


def test_a_model_is_described_with_its_files(hub: HubServer) -> None:
    model = HubDownload(hub.origin).look("acme/chat")
    assert model.revision == hub.repos["acme/chat"].refs["main"]
    assert (model.licence, model.task) == ("mit", "text-generation")
    assert {file.path: file.size_bytes for file in model.files} == {name: len(data) for name, data in FILES.items()}
    assert file_of(model, "model.safetensors").sha256
    assert file_of(model, "config.json").blob_id


def test_files_come_as_they_are(hub: HubServer, tmp_path: Path) -> None:
    download = HubDownload(hub.origin, TOKEN)
    model = download.look("acme/chat")
    for name, data in FILES.items():
        path, moved = fetch(download, model, name, tmp_path)
        assert (path.name, path.read_bytes(), moved) == (name, data, len(data))
    asked = len(hub.requests)
    assert fetch(download, model, "model.safetensors", tmp_path)[1] == len(WEIGHTS)
    assert len(hub.requests) == asked, "what is there is not asked for again"
    assert all("authorization" in request.headers for request in hub.requests)
    assert not any("authorization" in request.headers for request in hub.cdn.requests), "the secret stays with the hub"


def test_a_connection_that_breaks_off_is_gone_on_with(hub: HubServer, tmp_path: Path) -> None:
    download = HubDownload(hub.origin)
    model = download.look("acme/chat")
    hub.cdn.cuts = [1_000_000, 500_000]
    path, moved = fetch(download, model, "model.safetensors", tmp_path)
    assert (path.read_bytes(), moved) == (WEIGHTS, len(WEIGHTS))
    assert [request.headers.get("range") for request in hub.cdn.requests] == [
        None,
        "bytes=1000000-",
        "bytes=1500000-",
    ]


def test_another_process_goes_on_with_what_was_left(hub: HubServer, tmp_path: Path) -> None:
    model = HubDownload(hub.origin).look("acme/chat")
    (tmp_path / "model.safetensors.part").write_bytes(WEIGHTS[:2_000_000])
    path, moved = fetch(HubDownload(hub.origin), model, "model.safetensors", tmp_path)
    assert (path.read_bytes(), moved) == (WEIGHTS, len(WEIGHTS))
    assert hub.cdn.requests[0].headers["range"] == "bytes=2000000-"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("left", [b"x" * 1_000, b"x" * len(WEIGHTS), b"x" * (len(WEIGHTS) + 5)])
def test_what_was_left_wrong_is_found_out(hub: HubServer, tmp_path: Path, left: bytes) -> None:
    download = HubDownload(hub.origin)
    model = download.look("acme/chat")
    (tmp_path / "model.safetensors.part").write_bytes(left)
    if len(left) <= len(WEIGHTS):
        with pytest.raises(SourceError) as caught:
            fetch(download, model, "model.safetensors", tmp_path)
        assert caught.value.code == "source_malformed"
        assert list(tmp_path.iterdir()) == [], "nothing wrong stays"
    path, moved = fetch(download, model, "model.safetensors", tmp_path)
    assert (path.read_bytes(), moved) == (WEIGHTS, len(WEIGHTS))


def test_a_hub_that_sends_other_bytes_than_it_says_is_refused(hub: HubServer, tmp_path: Path) -> None:
    download = HubDownload(hub.origin)
    model = download.look("acme/chat")
    sha = hub.repos["acme/chat"].refs["main"]
    for name, forged in (("config.json", b'{"a": 2}'), ("README.md", b"# Card with more than it says")):
        hub.repos["acme/chat"].commits[sha][name] = forged
        with pytest.raises(SourceError) as caught:
            fetch(download, model, name, tmp_path)
        assert caught.value.code in ("source_malformed", "source_too_large")
        assert not (tmp_path / name).exists()


def test_a_hub_that_never_gets_on_is_left(hub: HubServer, tmp_path: Path) -> None:
    download = HubDownload(hub.origin, pause_s=0.01)
    model = download.look("acme/chat")
    hub.cdn.cuts = [0] * 100
    with pytest.raises(SourceError) as caught:
        fetch(download, model, "model.safetensors", tmp_path)
    assert caught.value.code == "source_unreachable"
    assert len(hub.cdn.requests) == 5


def test_a_cancelled_download_ends(hub: HubServer, tmp_path: Path) -> None:
    download = HubDownload(hub.origin)
    model = download.look("acme/chat")
    file = file_of(model, "model.safetensors")
    budget = download.budget(file.size_bytes, 1)

    def stop(_: int) -> None:
        budget.cancel()

    with pytest.raises(SourceError) as caught:
        download.fetch(model, file, tmp_path, budget, stop)
    assert caught.value.code == "source_cancelled"
    assert 0 < (tmp_path / "model.safetensors.part").stat().st_size < len(WEIGHTS)


def test_gated_missing_and_wrong_ones_are_explained(hub: HubServer, tmp_path: Path) -> None:
    stranger, wrong, friend = (
        HubDownload(hub.origin),
        HubDownload(hub.origin, "hf_wrong"),
        HubDownload(hub.origin, TOKEN),
    )
    gated = stranger.look("acme/gated")
    for download in (stranger, wrong):
        with pytest.raises(PrsmError) as caught:
            fetch(download, gated, "config.json", tmp_path)
        assert caught.value.code == "model_gated"
        assert f"{hub.origin}/acme/gated" in str(caught.value)
        assert "PRSM_HUB_TOKEN" in str(caught.value)
    fetch(friend, gated, "config.json", tmp_path)
    for download in (stranger, wrong):
        with pytest.raises(PrsmError) as caught:
            download.look("acme/hidden")
        assert caught.value.code == "model_not_on_hub"
    assert friend.look("acme/hidden").files
    with pytest.raises(PrsmError) as caught:
        stranger.look("acme/chat", "no-such-branch")
    assert caught.value.code == "revision_not_on_hub"


@pytest.mark.parametrize("name", ["chat", "a/b/c", "../x", "a/..", "a b/c", "acme/", "/chat", "acme/ch%20at"])
def test_a_name_that_is_none_is_refused_without_asking(hub: HubServer, name: str) -> None:
    with pytest.raises(InvalidRequest):
        HubDownload(hub.origin).look(name)
    assert not hub.requests


@pytest.mark.parametrize("fault", ["404", "429", "500", "403", "not-json", "cut", "reset", "garbage", "endless"])
def test_faults_are_errors_without_secrets(hub: HubServer, fault: str) -> None:
    hub.fault = fault
    with pytest.raises(SourceError) as caught:
        HubDownload(hub.origin, TOKEN).look("acme/chat")
    assert TOKEN not in f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"


def test_a_redirect_gets_no_secret(hub: HubServer) -> None:
    class Elsewhere(LocalServer):
        pass

    with Elsewhere() as elsewhere:
        hub.fault, hub.elsewhere = "redirect", elsewhere.origin
        with pytest.raises(SourceError):
            HubDownload(hub.origin, TOKEN).look("acme/chat")
        assert not elsewhere.requests
