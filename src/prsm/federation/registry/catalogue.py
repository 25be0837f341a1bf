"""Providers, the instances they serve, and all that is registered of models, as one snapshot that never changes.

Pure: what may be stored, and what is read from it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final

from prsm.core.errors import InvalidRequest
from prsm.federation.registry.lifecycle import OFFERED, Status
from prsm.federation.registry.releases import Release
from prsm.federation.registry.versions import CAPABILITIES, MAX_TOKENS, STABLE, Ref, Registered

PROVIDER_KINDS: Final = ("openai", "anthropic", "huggingface", "ollama", "vllm", "openrouter", "prsm", "embedded")
MAX_PRICE_MICRO: Final = 10**12


@dataclass(frozen=True, slots=True)
class Provider:
    """Where models are reached. ``api_key`` is plaintext here and sealed at rest."""

    name: str
    kind: str
    base_url: str = ""
    api_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Model:
    """An instance, what callers may name: ``name`` is ``provider/model``; prices are micro-FTNS per million tokens.

    ``model`` is the registered model that it serves (else it stands for itself), ``version`` the version of that.
    ``region`` is where it runs, as its operator says. A cached input token without a price costs as any input token.
    """

    name: str
    provider: str
    upstream_name: str
    capabilities: frozenset[str]
    domain: str | None = None
    context_tokens: int = 8192
    max_output_tokens: int = 4096
    input_price_micro: int = 0
    output_price_micro: int = 0
    description: str = ""
    version: str = ""
    cid: str = ""
    owner_account: str = ""
    model: str = ""
    licence: str = ""
    region: str = ""
    cached_input_price_micro: int | None = None

    @property
    def serves(self) -> str:
        """The model that it is an instance of."""
        return self.model or self.upstream_name


@dataclass(frozen=True, slots=True)
class Registry:
    """All that is registered, as it was at one moment."""

    versions: Mapping[Ref, Registered]
    statuses: Mapping[Ref, Status]
    releases: Mapping[str, Release]


@dataclass(frozen=True, slots=True)
class Catalogue:
    """One consistent view: instances and providers by name, instances by model, and what is registered of models."""

    models: MappingProxyType[str, Model]
    providers: MappingProxyType[str, Provider]
    by_model: MappingProxyType[str, tuple[Model, ...]]
    versions: MappingProxyType[Ref, Registered]
    statuses: MappingProxyType[Ref, Status]
    releases: MappingProxyType[str, Release]

    def offered(self, of: Iterable[str] | None = None) -> list[Model]:
        """The instances (``of`` some models) that may be asked: those of drafts and of retired versions may not."""
        asked = self.models.values() if of is None else (each for name in of for each in self.by_model.get(name, ()))
        return [model for model in asked if self._is_offered(model)]

    def registered(self, registered: Registry) -> "Catalogue":
        """The same instances and providers, with what is registered now."""
        return replace(
            self,
            versions=MappingProxyType(dict(registered.versions)),
            statuses=MappingProxyType(dict(registered.statuses)),
            releases=MappingProxyType(dict(registered.releases)),
        )

    def serving(self, model: str, version: str) -> list[Model]:
        """The instances that answer for a version; one that names none answers for what is stable."""
        release = self.releases.get(model)
        unnamed = release.stable if release else ""
        return [each for each in self.by_model.get(model, ()) if (each.version or unnamed) == version]

    def meant(self, model: str, label: str = STABLE) -> Registered | None:
        """The registered version that ``model@label`` means."""
        release = self.releases.get(model)
        return self.versions.get((model, release.meaning(label))) if release else None

    def _is_offered(self, model: Model) -> bool:
        status = self.statuses.get((model.serves, model.version))
        return status is None or status.state in OFFERED


_NOTHING = Registry({}, {}, {})


def build_catalogue(
    providers: Sequence[Provider], models: Sequence[Model], registered: Registry = _NOTHING
) -> Catalogue:
    """Index models and providers; models whose provider is not known are left out."""
    known = {provider.name: provider for provider in providers}
    able = {model.name: model for model in models if model.provider in known}
    groups: dict[str, list[Model]] = {}
    for model in able.values():
        groups.setdefault(model.serves, []).append(model)
    return Catalogue(
        MappingProxyType(able),
        MappingProxyType(known),
        MappingProxyType({name: tuple(group) for name, group in groups.items()}),
        MappingProxyType(dict(registered.versions)),
        MappingProxyType(dict(registered.statuses)),
        MappingProxyType(dict(registered.releases)),
    )


def check_provider(provider: Provider) -> None:
    """Raise InvalidRequest unless the provider can be used."""
    _check_name(provider.name, "provider")
    if provider.kind not in PROVIDER_KINDS:
        raise InvalidRequest(f"A provider's kind is one of {', '.join(PROVIDER_KINDS)}.", param="kind")
    if provider.kind != "embedded" and not provider.base_url.startswith(("http://", "https://")):
        raise InvalidRequest("A provider's base_url begins with http:// or https://.", param="base_url")
    if any(ord(c) <= 32 or ord(c) > 126 for c in provider.base_url + provider.api_key):
        raise InvalidRequest("base_url and api_key are plain ASCII without spaces.", param="base_url")
    if len(provider.base_url) > 2000 or len(provider.api_key) > 4000:
        raise InvalidRequest("base_url has at most 2,000 and api_key at most 4,000 characters.", param="base_url")


def check_model(model: Model) -> None:
    """Raise InvalidRequest, naming the field, unless every value is in its range."""
    _check_name(model.provider, "provider")
    if model.name != f"{model.provider}/{model.upstream_name}":
        raise InvalidRequest("A model's name is provider/model.", param="name")
    if not 1 <= len(model.upstream_name) <= 200 or not _plain(model.upstream_name):
        # The name stands in a header of the response.
        raise InvalidRequest("A model's name has 1 to 200 printable ASCII characters.", param="upstream_name")
    unknown = model.capabilities - set(CAPABILITIES)
    if unknown or not model.capabilities:
        raise InvalidRequest(f"Capabilities are some of {', '.join(CAPABILITIES)}.", param="capabilities")
    for name in ("input_price_micro", "output_price_micro"):
        if not 0 <= getattr(model, name) <= MAX_PRICE_MICRO:
            raise InvalidRequest(f"{name} is from 0 to {MAX_PRICE_MICRO} micro-FTNS per million tokens.", param=name)
    if not 0 <= (model.cached_input_price_micro or 0) <= model.input_price_micro:
        raise InvalidRequest(
            "A cached input token costs at most what any input token does.", param="cached_input_price_micro"
        )
    for name in ("context_tokens", "max_output_tokens"):
        if not 1 <= getattr(model, name) <= MAX_TOKENS:
            raise InvalidRequest(f"{name} is from 1 to {MAX_TOKENS}.", param=name)
    for name in ("domain", "version", "cid", "owner_account", "model", "licence", "region"):
        if len(text := getattr(model, name) or "") > 200 or not _plain(text):
            raise InvalidRequest(f"{name} has at most 200 printable ASCII characters.", param=name)
    if len(model.description) > 4000 or "\0" in model.description:
        raise InvalidRequest("A description has at most 4,000 characters and no NUL.", param="description")


def _check_name(name: str, param: str) -> None:
    if (
        not 1 <= len(name) <= 64
        or not name.isascii()
        or not name.replace("-", "").replace("_", "").replace(".", "").isalnum()
    ):
        raise InvalidRequest("A provider's name has 1 to 64 letters, digits, '-', '_' or '.'.", param=param)


def _plain(text: str) -> bool:
    return text.isascii() and text.isprintable()
