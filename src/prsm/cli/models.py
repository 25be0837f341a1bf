"""``prsm models``: which models the node can ask, and adding more; of registered models see ``registry.py``."""

import json
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.table import Table

from prsm.cli import registry
from prsm.cli.context import context
from prsm.cli.screen import print_table
from prsm.core.errors import ConfigError
from prsm.core.money import format_ftns, parse_ftns

app = typer.Typer(
    help="Models: instances that are asked, and versions and releases of what they serve.", no_args_is_help=True
)

_BASE_URLS = {
    "openai": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "huggingface": "https://router.huggingface.co/v1",
    "openrouter": "https://openrouter.ai/api/v1",
    "ollama": "http://127.0.0.1:11434/v1",
    "vllm": "http://127.0.0.1:8000/v1",
}


@app.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """List the models with their prices in FTNS per million tokens."""
    found: list[dict[str, Any]] = context.client.call("GET", "/v1/models")["data"]
    if as_json:
        print(json.dumps(found, indent=2))
        return
    table = Table("model", "serves", "can", "good for", "in FTNS/M", "out FTNS/M", "state", box=None, pad_edge=False)
    for model in found:
        more = model["prsm"]
        table.add_row(
            model["id"],
            f"{more['model']}@{more['version']}" if more["version"] else more["model"],
            " ".join(more["capabilities"]),
            more["domain"] or "anything",
            format_ftns(more["input_price_micro_per_mtok"]),
            format_ftns(more["output_price_micro_per_mtok"]),
            "resting" if more["resting"] else "live",
        )
    print_table(table, whole=2)


@app.command()
def add(
    name: Annotated[str, typer.Argument(help="PROVIDER/MODEL, the model as the provider names it.")],
    price_in: Annotated[str, typer.Option(help="FTNS per million input tokens.")],
    price_out: Annotated[str, typer.Option(help="FTNS per million output tokens.")],
    kind: Annotated[str, typer.Option(help=f"{', '.join(_BASE_URLS)} or prsm; default: the provider's name.")] = "",
    base_url: Annotated[str, typer.Option(help="Where it is reached; known for the usual providers.")] = "",
    api_key: Annotated[
        str, typer.Option(envvar="PROVIDER_API_KEY", help="The provider's key; better given as PROVIDER_API_KEY.")
    ] = "",
    capability: Annotated[list[str] | None, typer.Option(help="chat, tools, vision, embeddings.")] = None,
    context_tokens: Annotated[int, typer.Option(help="Context window.")] = 128_000,
    max_output_tokens: Annotated[int, typer.Option(help="Longest answer.")] = 16_384,
    description: Annotated[str, typer.Option(help="What it is good at; found by search.")] = "",
    model: Annotated[str, typer.Option(help="The model it serves; default: its name at the provider.")] = "",
    version: Annotated[str, typer.Option(help="The version of that; none: whichever is stable.")] = "",
    licence: Annotated[str, typer.Option(help="As SPDX spells it.")] = "",
    region: Annotated[str, typer.Option(help="Where it runs.")] = "",
    price_cached: Annotated[str, typer.Option(help="FTNS per million cached input tokens; default: as any.")] = "",
) -> None:
    """Add an instance: a model as a provider serves it, and the provider with it.

    Example: PROVIDER_API_KEY=sk-... prsm models add openai/gpt-5-mini --price-in 0.25 --price-out 2
    """
    provider, separator, upstream_name = name.partition("/")
    if not separator or not upstream_name:
        raise ConfigError(f"{name!r} is not PROVIDER/MODEL.", remedy="Write it like openai/gpt-5-mini.")
    # A provider that is there stays as it is, but for what is said anew.
    known = {found["name"]: found for found in context.client.call("GET", "/node/v1/providers")}.get(provider, {})
    kind = kind or known.get("kind", provider)
    address = base_url or known.get("base_url") or _BASE_URLS.get(kind, "")
    if not address:
        raise ConfigError(f"Where is the provider {provider}?", remedy="Give --base-url, and --kind if it is not one.")
    change = {"kind": kind, "base_url": address, "api_key": api_key}
    context.client.call("PUT", f"/node/v1/providers/{quote(provider)}", change)
    instance = {
        "capabilities": capability or ["chat", "tools"],
        "context_tokens": context_tokens,
        "max_output_tokens": max_output_tokens,
        "input_price_micro": parse_ftns(price_in),
        "output_price_micro": parse_ftns(price_out),
        "description": description,
        "model": model,
        "version": version,
        "licence": licence,
        "region": region,
        "cached_input_price_micro": parse_ftns(price_cached) if price_cached else None,
    }
    context.client.call("PUT", f"/node/v1/models/{quote(provider)}/{quote(upstream_name, safe='/:')}", instance)
    print(f"added {name}")


@app.command()
def discover(provider: str) -> None:
    """List what a provider that is on the node offers, by names that `prsm models add` takes."""
    for name in context.client.call("GET", f"/node/v1/providers/{quote(provider, safe='')}/models"):
        print(f"{provider}/{name}")


@app.command()
def remove(name: str) -> None:
    """Remove a model; its provider goes with its last one."""
    context.client.call("DELETE", f"/node/v1/models/{quote(name, safe='/:')}")
    print(f"removed {name}")


@app.command()
def search(text: str, limit: Annotated[int, typer.Option(min=1, max=100)] = 10) -> None:
    """Find models by what their descriptions mean."""
    for hit in context.client.call("GET", f"/node/v1/models/search?q={quote(text)}&limit={limit}"):
        print(f"{hit['similarity']:.3f}  {hit['model']}  {hit['description']}")


for command in (
    registry.show, registry.versions, registry.register, registry.candidate, registry.promote, registry.rollback,
    registry.deprecate, registry.retire, registry.alias, registry.limits, registry.history, registry.compare,
):  # fmt: skip
    app.command()(command)
