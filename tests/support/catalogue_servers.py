"""Local servers that list models as OpenRouter, an OpenAI-compatible server, Ollama and a PRSM node do."""

import copy
import json
from typing import Any

from tests.support.local_http import Answer, LocalServer, Request, json_answer

Entry = dict[str, Any]


class CatalogueServer(LocalServer):
    """A started server; ``entries`` are what it lists, by name, each as it stands in its list."""

    path = "/v1/models"
    key = "data"
    etags = True

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, Entry] = {}

    def answer(self, request: Request) -> Answer:
        if request.path != self.path:
            return Answer(404)
        answer = json_answer({"object": "list", self.key: list(self.entries.values())}, request)
        if not self.etags:
            answer.headers.pop("ETag", None)
        return answer

    def add(self, name: str) -> None:
        self.entries[name] = self.example(name)

    def change(self, name: str) -> None:
        """Say something else of a model."""
        raise NotImplementedError

    def example(self, name: str) -> Entry:
        raise NotImplementedError


class OpenRouterServer(CatalogueServer):
    path = "/api/v1/models"

    def example(self, name: str) -> Entry:
        entry = copy.deepcopy(OPENROUTER_ENTRY)
        return {**entry, "id": name, "canonical_slug": name}

    def change(self, name: str) -> None:
        self.entries[name]["pricing"]["prompt"] = "0.000003"


class OpenAIServer(CatalogueServer):
    """vLLM's form: OpenAI's with ``max_model_len``; without ETags, as most of them."""

    etags = False

    def example(self, name: str) -> Entry:
        base = {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "vllm", "root": name}
        return {**base, "parent": None, "max_model_len": 32_768, "permission": [{"id": "modelperm-1"}]}

    def change(self, name: str) -> None:
        self.entries[name]["max_model_len"] = 16_384


class PrsmServer(CatalogueServer):
    etags = False

    def example(self, name: str) -> Entry:
        base = {"id": name, "object": "model", "created": 0, "owned_by": "local"}
        return {**base, "prsm": copy.deepcopy(PRSM_OBJECT)}

    def change(self, name: str) -> None:
        self.entries[name]["prsm"]["output_price_micro_per_mtok"] = 70_000_000


class OllamaServer(CatalogueServer):
    """Its list, and what it shows of each model (``shown``)."""

    path = "/api/tags"
    key = "models"
    etags = False

    def __init__(self) -> None:
        super().__init__()
        self.shown: dict[str, Entry] = {}

    def answer(self, request: Request) -> Answer:
        if request.path == "/api/show" and request.method == "POST":
            name = json.loads(request.body)["model"]
            return json_answer(self.shown[name]) if name in self.shown else Answer(404)
        return super().answer(request)

    def add(self, name: str) -> None:
        super().add(name)
        self.shown[name] = copy.deepcopy(OLLAMA_SHOWN)

    def example(self, name: str) -> Entry:
        details = {"format": "gguf", "family": "llama", "parameter_size": "8.0B", "quantization_level": "Q4_0"}
        when = "2026-05-14T15:49:43.634137516-07:00"
        return {"name": name, "model": name, "modified_at": when, "size": 1, "digest": f"{name}-1", "details": details}

    def change(self, name: str) -> None:
        self.entries[name]["digest"] += "2"
        self.shown[name]["model_info"]["llama.context_length"] = 8_192


OPENROUTER_ENTRY: Entry = {
    "id": "acme/chat",
    "canonical_slug": "acme/chat",
    "hugging_face_id": "",
    "name": "Acme: Chat",
    "created": 1_741_818_122,
    "description": "Answers\nquestions.\u0000",
    "context_length": 1_047_576,
    "architecture": {
        "modality": "text+image->text",
        "input_modalities": ["text", "image"],
        "output_modalities": ["text"],
        "tokenizer": "GPT",
        "instruct_type": None,
    },
    "pricing": {
        "prompt": "0.0000025",
        "completion": "0.00001",
        "request": "0",
        "image": "0.003613",
        "web_search": "0",
        "internal_reasoning": "0",
        "input_cache_read": "0.00000125",
    },
    "top_provider": {"context_length": 1_047_576, "max_completion_tokens": 32_768, "is_moderated": True},
    "per_request_limits": None,
    "supported_parameters": ["max_tokens", "tools", "tool_choice"],
}

PRSM_OBJECT: Entry = {
    "capabilities": ["chat", "tools"],
    "domain": "arithmetic",
    "context_tokens": 1_000_000,
    "max_output_tokens": 256,
    "licence": "MIT",
    "input_price_micro_per_mtok": 20_000_000,
    "output_price_micro_per_mtok": 60_000_000,
    "cached_input_price_micro_per_mtok": None,
    "version": "1",
    "resting": False,
}

OLLAMA_SHOWN: Entry = {
    "modelfile": "# Modelfile\nFROM /some/blob",
    "template": "{{ .Prompt }}",
    "details": {"family": "llama", "families": ["llama"]},
    "model_info": {
        "general.architecture": "llama",
        "general.parameter_count": 8_030_261_248,
        "llama.context_length": 131_072,
        "llama.rope.freq_base": 500_000.5,
        "tokenizer.ggml.tokens": None,
    },
    "capabilities": ["completion", "tools", "insert"],
}
