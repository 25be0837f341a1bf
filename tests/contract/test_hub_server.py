"""The local hub, held to the official client: what ``huggingface_hub`` does at the Hub works against it unchanged."""

import hashlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_download, hf_hub_url, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tests.support.hub_server import EPOCH, HubServer, git_blob_id, served_by

WEIGHTS = bytes(range(256)) * 64
FILES = {"config.json": b'{"model_type": "llama"}', "model.safetensors": WEIGHTS, "sub/notes.txt": b"notes"}


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as server:
        server.add(
            "acme/chat",
            FILES,
            pipeline_tag="text-generation",
            tags=["conversational", "license:mit"],
            cardData={"license": "mit", "base_model": "acme/base"},
            safetensors={"parameters": {"F32": 4096}, "total": 4096},
            inferenceProviderMapping=served_by(together="live", nebius="staging"),
            downloads=7,
        )
        server.add("acme/embed", at=EPOCH + timedelta(days=2), pipeline_tag="feature-extraction", downloads=9)
        server.add("other/gated", FILES, gated="manual", pipeline_tag="text-generation")
        server.add("other/hidden").private = True
        yield server


@pytest.fixture
def api(hub: HubServer) -> HfApi:
    return HfApi(endpoint=hub.origin, token=False)


def ids(models: object) -> list[str]:
    return [model.id for model in models]  # type: ignore[attr-defined]


def test_models_are_listed_searched_filtered_and_sorted(hub: HubServer, api: HfApi) -> None:
    assert set(ids(api.list_models())) == {"acme/chat", "acme/embed", "other/gated"}
    assert ids(api.list_models(search="EMBED")) == ["acme/embed"]
    assert ids(api.list_models(author="acme", sort="downloads")) == ["acme/embed", "acme/chat"]
    assert ids(api.list_models(filter="conversational")) == ["acme/chat"]
    assert ids(api.list_models(pipeline_tag="feature-extraction")) == ["acme/embed"]
    assert ids(api.list_models(inference_provider="together")) == ["acme/chat"]
    assert ids(api.list_models(inference_provider="nebius")) == [], "staging is not served"
    assert ids(api.list_models(gated=True)) == ["other/gated"]
    assert ids(api.list_models(sort="last_modified", limit=1)) == ["acme/embed"]
    assert set(ids(api.list_models(token=hub.token))) >= {"other/hidden"}


def test_pages_are_followed(hub: HubServer, api: HfApi) -> None:
    hub.page_entries = 1
    assert len(ids(api.list_models(sort="last_modified"))) == 3
    assert len(hub.requests) == 3


def test_only_what_is_expanded_is_told(api: HfApi) -> None:
    [model] = api.list_models(search="acme/chat", expand=["safetensors", "inferenceProviderMapping", "cardData"])
    assert (model.safetensors.total, model.card_data.license, model.downloads) == (4096, "mit", None)
    assert [(m.provider, m.status) for m in model.inference_provider_mapping] == [
        ("together", "live"),
        ("nebius", "staging"),
    ]


def test_one_model_with_its_files(hub: HubServer, api: HfApi) -> None:
    first = hub.repos["acme/chat"].refs["main"]
    hub.repos["acme/chat"].refs["v1"] = first
    hub.repos["acme/chat"].commit({"config.json": b"{}"})
    info = api.model_info("acme/chat", revision="v1", files_metadata=True)
    assert info.sha == first
    sizes = {sibling.rfilename: sibling.size for sibling in info.siblings}
    assert sizes == {name: len(data) for name, data in FILES.items()}
    [lfs] = [sibling.lfs for sibling in info.siblings if sibling.lfs]
    assert lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert {ref.name for ref in api.list_repo_refs("acme/chat").branches} == {"main", "v1"}
    expanded = api.model_info("acme/chat", expand=["inferenceProviderMapping"])
    assert [m.provider for m in expanded.inference_provider_mapping] == ["together", "nebius"]


def test_files_and_snapshots_are_downloaded(hub: HubServer, tmp_path: Path) -> None:
    path = hf_hub_download("acme/chat", "model.safetensors", endpoint=hub.origin, cache_dir=tmp_path, token=False)
    assert Path(path).read_bytes() == WEIGHTS
    folder = Path(
        snapshot_download(
            "acme/chat", endpoint=hub.origin, cache_dir=tmp_path, token=False, allow_patterns=["*.json", "sub/*"]
        )
    )
    assert (folder / "sub/notes.txt").read_bytes() == b"notes"
    assert folder.name == hub.repos["acme/chat"].refs["main"]


def test_metadata_ranges_and_etags(hub: HubServer) -> None:
    url = hf_hub_url("acme/chat", "config.json", endpoint=hub.origin)
    metadata = get_hf_file_metadata(url, token=False)
    assert (metadata.etag, metadata.size) == (git_blob_id(FILES["config.json"]), len(FILES["config.json"]))
    large = get_hf_file_metadata(hf_hub_url("acme/chat", "model.safetensors", endpoint=hub.origin), token=False)
    assert (large.etag, large.size) == (hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS))
    part = httpx2.get(large.location, headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, WEIGHTS[100:200])
    assert httpx2.get(large.location, headers={"Range": f"bytes={len(WEIGHTS)}-"}).status_code == 416
    assert httpx2.get(url, headers={"If-None-Match": f'"{metadata.etag}"'}).status_code == 304
    info = f"{hub.origin}/api/models/acme/chat"
    assert httpx2.get(info, headers={"If-None-Match": httpx2.get(info).headers["etag"]}).status_code == 304


def test_what_is_missing_or_gated_is_told_apart(hub: HubServer, api: HfApi, tmp_path: Path) -> None:
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("acme/none")
    with pytest.raises(RepositoryNotFoundError):
        api.model_info("other/hidden")
    assert api.model_info("other/hidden", token=hub.token).private
    with pytest.raises(RevisionNotFoundError):
        api.model_info("acme/chat", revision="nope")
    for token, status in ((False, 401), ("hf_wrong", 403)):
        with pytest.raises(GatedRepoError) as caught:
            hf_hub_download("other/gated", "config.json", endpoint=hub.origin, cache_dir=tmp_path, token=token)
        assert caught.value.response.status_code == status
    assert api.model_info("other/gated").gated == "manual"
    hf_hub_download("other/gated", "config.json", endpoint=hub.origin, cache_dir=tmp_path, token=hub.token)
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download("acme/chat", "none.json", endpoint=hub.origin, cache_dir=tmp_path, token=False)


def test_a_rate_limit_names_its_time(hub: HubServer, api: HfApi) -> None:
    hub.fault = "429"
    with pytest.raises(HfHubHTTPError) as caught:
        api.model_info("acme/chat")
    assert caught.value.response.headers["retry-after"] == "7"
