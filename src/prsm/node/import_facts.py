"""What is known of a model that is imported, and what its operator must say: pure rules.

What its source, its files and the wish together leave open is asked for in a sentence, never guessed.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.data_layer.formats.model_selection import Selection, select_model
from prsm.data_layer.formats.weight_sets import WeightSet
from prsm.federation.hub_download import HubModel
from prsm.federation.registry.lifecycle import State
from prsm.federation.registry.versions import Version

_EMBEDS: Final = ("feature-extraction", "sentence-similarity")
_PICKLES: Final = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_LICENCE_LINE = re.compile(r"^license:[ \t]*['\"]?([A-Za-z0-9][\w.+-]{0,99})['\"]?[ \t]*\r?$", re.ASCII | re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be imported: ``hf:ORG/NAME``, ``hf:ORG/NAME@REVISION`` or a CID; the rest is found out if empty."""

    source: str
    model: str = ""
    version: str = ""
    capabilities: tuple[str, ...] = ()
    context_tokens: int | None = None
    licence: str = ""
    description: str = ""
    state: State = State.DRAFT


@dataclass(frozen=True, slots=True)
class Said:
    """What the source of a model says of it; ``origin`` names that with its revision."""

    origin: str
    name: str
    label: str
    licence: str = ""
    capabilities: tuple[str, ...] = ()


def said_by_hub(source: str, model: HubModel) -> Said:
    """What a hub says; the version is called after its commit."""
    return Said(
        origin=f"{source}{model.repository}@{model.revision}",
        name=model.repository.partition("/")[2],
        label=model.revision[:12],
        licence=model.licence,
        capabilities=_capabilities(model),
    )


def selected(model: HubModel) -> Selection:
    """The files that make the model. Raises PrsmError where there are no weights that may be read."""
    selection = select_model(file.path for file in model.files)
    if selection.weights:
        return selection
    pickle = next((path[:100] for path in selection.left_out if path.endswith(_PICKLES)), "")
    raise PrsmError(
        f"{model.repository} has no safetensors weights at its top"
        + (f"; {pickle} is a pickle, which is never downloaded." if pickle else "."),
        kind=Kind.UNPROCESSABLE,
        code="no_safetensors",
        remedy="Choose a revision, or another repository, that has the model as safetensors.",
    )


def check_known(wish: Wish, said: Said, page_url: str) -> None:
    """Raise before a long download what would be refused after it."""
    _capabilities_of(wish, said)
    if not (wish.licence or said.licence):
        raise _no_licence(said.name, f"Read its card at {page_url}. ")


def version_of(wish: Wish, said: Said, cid: str, weights: Sequence[WeightSet], card: str) -> Version:
    """What this node states of a stored model; ``card`` is its README. Raises PrsmError, InvalidRequest."""
    name = wish.model or said.name
    if not name:
        raise InvalidRequest("An import by CID needs a name for the model.", param="model", remedy="Give --model.")
    capabilities = _capabilities_of(wish, said)
    licence = wish.licence or said.licence or card_licence(card)
    if not licence:
        raise _no_licence(name, "")
    # A folder may hold adapters and projectors besides.
    main = next((each for each in weights if each.kind == "model"), weights[0])
    context_tokens = wish.context_tokens or main.context_length
    if context_tokens is None:
        raise InvalidRequest(
            f"The configuration of {name} does not say how long a context may be.",
            param="context_tokens",
            remedy="Give --context-tokens.",
        )
    return Version(
        model=name,
        version=wish.version or said.label,
        publisher="",
        capabilities=tuple(sorted(set(capabilities))),
        context_tokens=context_tokens,
        weights_cid=cid,
        licence=licence,
        input_modalities=("image", "text") if "vision" in capabilities else ("text",),
        output_modalities=("embeddings",) if "embeddings" in capabilities else ("text",),
        description=wish.description or f"Imported from {said.origin}.",
    )


def card_licence(card: str) -> str:
    """The licence that the head of a model card names (YAML between two lines of dashes); empty where none does."""
    head = re.split(r"^---[ \t]*\r?$", card, maxsplit=2, flags=re.MULTILINE)
    found = _LICENCE_LINE.search(head[1]) if len(head) == 3 and not head[0].strip() else None
    return found[1] if found else ""


def _capabilities(model: HubModel) -> tuple[str, ...]:
    if model.task in _EMBEDS:
        return ("embeddings",)
    if "conversational" not in model.tags:
        return ()
    return ("chat", "vision") if model.task == "image-text-to-text" else ("chat",)


def _capabilities_of(wish: Wish, said: Said) -> tuple[str, ...]:
    if found := wish.capabilities or said.capabilities:
        return found
    raise PrsmError(
        f"What {wish.model or said.name} can do is not known: its source does not say that it chats or embeds.",
        kind=Kind.UNPROCESSABLE,
        code="capabilities_unknown",
        remedy="Give --capability chat (or tools, vision, embeddings).",
    )


def _no_licence(name: str, where: str) -> PrsmError:
    return PrsmError(
        f"{name} names no licence, and without one nobody may use it.",
        kind=Kind.UNPROCESSABLE,
        code="licence_unknown",
        remedy=f"{where}If you know its terms, give them: --licence NAME.",
    )
