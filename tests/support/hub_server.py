"""A local hub: the Hugging Face Hub's protocol as ``huggingface_hub`` uses it, for repositories declared here.

``HfApi(endpoint=hub.origin)``, ``hf_hub_download`` and ``snapshot_download`` work against it. Large files (LFS) are
redirected to a server of their own (``hub.cdn``), as the Hub does.
Run it alone: ``python -m tests.support.hub_server --repo ORG/NAME=FOLDER`` prints its URL and serves until stdin ends.
"""

import argparse
import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlencode

from tests.support.local_http import Answer, LocalServer, Request, json_answer

EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_LFS = (".safetensors", ".bin", ".gguf", ".onnx", ".model")
_EXPANDABLE = frozenset(
    {"author", "cardData", "config", "createdAt", "disabled", "downloads", "gated", "gguf", "inference"}
    | {"inferenceProviderMapping", "lastModified", "library_name", "likes", "pipeline_tag", "private", "safetensors"}
    | {"sha", "siblings", "tags"}
)


@dataclass(slots=True)
class HubRepo:
    """A model repository; ``commits`` are its revisions, oldest first, ``refs`` its branches and tags.

    ``info`` is what the API says of it besides, by the API's own names (pipeline_tag, cardData, gated, ...).
    """

    id: str
    info: dict[str, Any] = field(default_factory=dict[str, Any])
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict[str, dict[str, bytes]])
    refs: dict[str, str] = field(default_factory=dict[str, str])
    changed_at: datetime = EPOCH
    private: bool = False

    def commit(self, files: Mapping[str, bytes], at: datetime | None = None) -> str:
        """A new revision of main with these files only; answers its hash."""
        seed = repr((self.id, len(self.commits), sorted((name, _sha256(data)) for name, data in files.items())))
        sha = hashlib.sha1(seed.encode()).hexdigest()
        self.commits[sha] = dict(files)
        self.refs["main"] = sha
        self.changed_at = at or self.changed_at + timedelta(seconds=1)
        return sha

    def revision(self, name: str) -> str | None:
        sha = self.refs.get(name, name)
        return sha if sha in self.commits else None


class HubServer(LocalServer):
    """A started hub. ``token`` lets in to gated and private repositories; ``broken`` replaces listed fields raw."""

    page_entries = 1_000

    def __init__(self, port: int = 0, token: str = "hf_local_test_token") -> None:
        super().__init__(port)
        self.token = token
        self.repos: dict[str, HubRepo] = {}
        self.broken: dict[str, dict[str, Any]] = {}
        self.next_link = ""
        self.cdn = _Cdn(self)

    def __enter__(self) -> "HubServer":
        self.cdn.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.cdn.__exit__(*error)
        super().__exit__(*error)

    def add(self, repo_id: str, files: Mapping[str, bytes] | None = None, at: datetime = EPOCH, **info: Any) -> HubRepo:
        repo = self.repos[repo_id] = HubRepo(repo_id, info)
        repo.commit(files or {"config.json": b"{}"}, at)
        return repo

    def answer(self, request: Request) -> Answer:
        path = unquote(request.path)
        if path == "/api/models":
            return self._list(request)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/.*)?|/(refs))?", path):
            repo_id, what, revision, refs = found.groups()
            return self._of_repo(request, repo_id, what or refs or "revision", revision or "main")
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(request, *found.groups())
        return Answer(404)

    def _list(self, request: Request) -> Answer:
        repos = [repo for repo in self.repos.values() if self._listed(repo, request)]
        sort = request.first("sort", "trendingScore")
        if sort in ("lastModified", "createdAt"):
            repos.sort(key=lambda repo: repo.changed_at, reverse=True)
        else:
            repos.sort(key=lambda repo: -int(repo.info.get(sort, 0)))
        start = int(request.first("cursor", "0"))
        end = start + min(int(request.first("limit", "1000")), self.page_entries)
        page = [{**self._describe(repo, request), **self.broken.get(repo.id, {})} for repo in repos[start:end]]
        headers: dict[str, str] = {}
        if end < len(repos):
            query = {**request.query, "cursor": [str(end)]}
            following = self.next_link or f"{self.origin}/api/models?{urlencode(query, doseq=True)}"
            headers["Link"] = f'<{following}>; rel="next"'
        return json_answer(page, **headers)

    def _listed(self, repo: HubRepo, request: Request) -> bool:
        info = repo.info
        served = _served(repo)
        wanted = request.query.get("inference_provider", [])
        return (
            (not repo.private or self._knows(request))
            and request.first("search").lower() in repo.id.lower()
            and request.first("author", repo.id.partition("/")[0]) == repo.id.partition("/")[0]
            and set(request.query.get("filter", [])) <= {*info.get("tags", []), info.get("pipeline_tag")}
            and request.first("pipeline_tag", info.get("pipeline_tag", "")) == info.get("pipeline_tag", "")
            and (not wanted or bool(served if "all" in wanted else served & set(wanted)))
            and (request.first("inference") != "warm" or bool(served))
            and ("gated" not in request.query or request.first("gated").lower() == str(bool(info.get("gated"))).lower())
        )

    def _describe(self, repo: HubRepo, request: Request, sha: str = "") -> dict[str, Any]:
        known = self._known(repo, sha or repo.refs["main"])
        expand = request.query.get("expand")
        if expand:
            return {"_id": known["_id"], "id": repo.id} | {name: known[name] for name in expand if name in known}
        whole = "full" in request.query or request.path != "/api/models"
        left_out = {"inferenceProviderMapping", "safetensors", "gguf", "config", "inference"}
        if not whole:
            left_out |= {"author", "sha", "lastModified", "gated", "siblings", "cardData", "disabled"}
        return {name: value for name, value in known.items() if name not in left_out or name in request.query}

    def _known(self, repo: HubRepo, sha: str) -> dict[str, Any]:
        base: dict[str, Any] = {
            "_id": hashlib.md5(repo.id.encode()).hexdigest()[:24],
            "id": repo.id,
            "modelId": repo.id,
            "author": repo.id.partition("/")[0],
            "sha": sha,
            "lastModified": repo.changed_at.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "createdAt": EPOCH.strftime("%Y-%m-%dT%H:%M:%S.000Z"),
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "likes": 0,
            "downloads": 0,
            "tags": [],
            "siblings": [{"rfilename": name} for name in sorted(repo.commits[sha])],
        }
        return base | {name: value for name, value in repo.info.items() if name in _EXPANDABLE}

    def _of_repo(self, request: Request, repo_id: str, what: str, revision: str) -> Answer:
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and not self._knows(request)):
            return self._missing(request)
        if what == "refs":
            branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": sha} for n, sha in repo.refs.items()]
            return json_answer({"branches": branches, "converts": [], "tags": []})
        sha = repo.revision(revision)
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if what == "tree":
            return json_answer([_tree_entry(name, data) for name, data in sorted(repo.commits[sha].items())])
        said = self._describe(repo, request, sha)
        if "blobs" in request.query:
            said["siblings"] = [_sibling(name, data) for name, data in sorted(repo.commits[sha].items())]
        if isinstance(mapping := said.get("inferenceProviderMapping"), list):
            said["inferenceProviderMapping"] = {each["provider"]: each for each in mapping}
        return json_answer(said | self.broken.get(repo.id, {}), request)

    def _resolve(self, request: Request, repo_id: str, revision: str, path: str) -> Answer:
        repo = self.repos.get(repo_id)
        if repo is None or (repo.private and not self._knows(request)):
            return self._missing(request)
        if repo.info.get("gated") and not self._knows(request):
            asked = "authorization" in request.headers
            return _error(403 if asked else 401, "GatedRepo", f"Access to model {repo_id} is restricted.")
        sha = repo.revision(revision)
        if sha is None:
            return _error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        data = repo.commits[sha].get(path)
        if data is None:
            return _error(404, "EntryNotFound", "Entry not found", **{"X-Repo-Commit": sha})
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        if path.endswith(_LFS):
            digest = _sha256(data)
            linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            return Answer(302, b"", {**headers, **linked, "Location": f"{self.cdn.origin}/{digest}"})
        return _ranged(request, data, {**headers, "ETag": f'"{git_blob_id(data)}"'})

    def _knows(self, request: Request) -> bool:
        return request.headers.get("authorization") == f"Bearer {self.token}"

    def _missing(self, request: Request) -> Answer:
        # The Hub does not tell strangers what exists: without a secret it answers 401 for what is not there.
        status = 404 if "authorization" in request.headers else 401
        return _error(status, "RepoNotFound", "Repository not found")


class _Cdn(LocalServer):
    """Large files by their hash, to anybody."""

    def __init__(self, hub: HubServer) -> None:
        super().__init__()
        self._hub = hub

    def answer(self, request: Request) -> Answer:
        digest = request.path.removeprefix("/")
        for repo in self._hub.repos.values():
            for data in (data for files in repo.commits.values() for data in files.values()):
                if _sha256(data) == digest:
                    return _ranged(request, data, {"ETag": f'"{digest}"', "Accept-Ranges": "bytes"})
        return Answer(403)


def served_by(**statuses: str) -> list[dict[str, Any]]:
    """An inferenceProviderMapping as lists have it: provider to status (live, staging, error)."""
    return [
        {"provider": name.replace("_", "-"), "providerId": f"at-{name}", "status": status, "task": "conversational"}
        for name, status in statuses.items()
    ]


def git_blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def _served(repo: HubRepo) -> set[str]:
    return {m["provider"] for m in repo.info.get("inferenceProviderMapping") or [] if m["status"] == "live"}


def _ranged(request: Request, data: bytes, headers: dict[str, str]) -> Answer:
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Answer(304, b"", headers)
    found = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if found is None:
        return Answer(200, data, headers)
    start, end = int(found[1]), int(found[2] or len(data) - 1)
    if start >= len(data):
        return Answer(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
    part = data[start : end + 1]
    return Answer(206, part, {**headers, "Content-Range": f"bytes {start}-{start + len(part) - 1}/{len(data)}"})


def _sibling(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": git_blob_id(data)}
    if name.endswith(_LFS):
        entry["lfs"] = {"sha256": _sha256(data), "size": len(data), "pointerSize": 134}
    return entry


def _tree_entry(name: str, data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": "file", "path": name, "size": len(data), "oid": git_blob_id(data)}
    if name.endswith(_LFS):
        entry["lfs"] = {"oid": _sha256(data), "size": len(data), "pointerSize": 134}
    return entry


def _error(status: int, code: str, message: str, **headers: str) -> Answer:
    answer = json_answer({"error": message}, status=status)
    answer.headers |= {"X-Error-Code": code, "X-Error-Message": message, **headers}
    return answer


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--repo", action="append", default=[], metavar="ORG/NAME=FOLDER")
    arguments = parser.parse_args()
    with HubServer(arguments.port) as hub:
        for declared in arguments.repo:
            repo_id, _, folder = declared.partition("=")
            files = {str(p.relative_to(folder)): p.read_bytes() for p in Path(folder).rglob("*") if p.is_file()}
            hub.add(repo_id, files, pipeline_tag="text-generation")
        print(hub.origin, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
