"""What the node API answers, as the OpenAPI document promises it; every JSON response is checked against these.

Money is micro-FTNS. Receipts and lists of models are not here: they go out as the bytes that were signed or that
another API's clients expect.
"""

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from prsm.core.identity import Role


class Refusal(BaseModel):
    """Why a request was refused, in the shape of OpenAI's errors; ``code`` is stable."""

    class Detail(BaseModel):
        """``message`` says what to do next; ``param`` names the field at fault."""

        message: str
        type: str
        param: str | None
        code: str

    error: Detail


class AnthropicRefusal(BaseModel):
    """The same in the shape of Anthropic's errors, for its routes and for callers that send ``anthropic-version``."""

    class Detail(BaseModel):
        """``details`` holds our stable code."""

        type: str
        message: str
        details: dict[str, str]

    type: Literal["error"]
    error: Detail
    request_id: str | None


class KeyBudget(BaseModel):
    """What a key may spend over its life (null: no cap of its own), has spent, and has on hold."""

    cap_micro: int | None
    spent_micro: int
    held_micro: int


class Key(BaseModel):
    """An API key without its secret."""

    id: UUID
    principal_id: UUID
    prefix: str
    name: str
    scopes: list[str]
    rate_limit_per_minute: int | None
    expires_at: datetime | None
    revoked_at: datetime | None
    created_at: datetime
    budget: KeyBudget | None


class CreatedKey(Key):
    """A new key with its token, which is shown this once."""

    token: str


class Wallet(BaseModel):
    """The caller's money, and what the key that asked has spent."""

    account: str
    balance_micro: int
    held_micro: int
    available_micro: int
    available_ftns: str
    key: KeyBudget | None


class Session(BaseModel):
    """A conversation that can be continued by its id."""

    id: UUID
    turns: int
    created_at: datetime
    updated_at: datetime


class Transcript(BaseModel):
    """The messages of a conversation, in OpenAI chat form."""

    id: UUID
    messages: list[dict[str, Any]]


class FoundModel(BaseModel):
    """A model whose description means something like the question."""

    model: str
    similarity: float
    description: str


class PrincipalShown(BaseModel):
    """Who owns keys and money."""

    id: UUID
    name: str
    role: Role
    account: str
    created_at: datetime
    disabled_at: datetime | None


class GrantShown(BaseModel):
    """FTNS issued to an account; ``already_granted`` when this id had been seen before."""

    id: UUID
    account: str
    amount_micro: int
    already_granted: bool


class ProviderShown(BaseModel):
    """A provider without its secret."""

    name: str
    kind: str
    base_url: str
    has_api_key: bool


class ModelShown(BaseModel):
    """A model as it is stored; prices are micro-FTNS per million tokens."""

    name: str
    capabilities: list[str]
    context_tokens: int
    max_output_tokens: int
    input_price_micro: int
    output_price_micro: int
    description: str
    version: str
    cid: str
    model: str
    licence: str
    region: str
    cached_input_price_micro: int | None
    owner_principal_id: UUID | None


class LedgerProof(BaseModel):
    """What a replay of the whole ledger found."""

    ok: bool
    head: int
    holds: int
    captures: int
    releases: int
    expiries: int
    transfers: int
    refunds: int
    open_holds: int
    violation_count: int
    violations: list[str]


class Alive(BaseModel):
    """The process answers."""

    ok: bool


class Part(BaseModel):
    """The state of one part of the node."""

    ok: bool
    latency_ms: float | None = None
    error: str | None = None
    count: int | None = None
    waiting: int | None = None
    objects: int | None = None
    damaged: int | None = None
    uploads_waiting: int | None = None
    offline: bool | None = Field(None, description="Nothing can be fetched now; what is stored is served all the same.")
    reason: str | None = Field(None, description="Why it is offline, or off.")


class NodeIdentity(BaseModel):
    """Who signs this node's receipts: ``public_key`` is Ed25519, in hex."""

    id: str
    public_key: str = Field(pattern="^[0-9a-f]{64}$")
    version: str
