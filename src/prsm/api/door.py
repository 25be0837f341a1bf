"""Who may come in: every route of the node, hot or not, admits its caller here and nowhere else."""

from typing import Annotated, Any

from fastapi import Depends, Request, Response, Security
from fastapi.security import APIKeyHeader, HTTPBearer

from prsm.core.acting import act_for
from prsm.core.errors import Kind, PrsmError
from prsm.core.identity import CHAT, EMBEDDINGS, ApiKey
from prsm.core.rate_limit import LeasedLimiter, Rate, headers, retry_after_s
from prsm.node import Node
from prsm.safety.threat import Event
from prsm.safety.threats import SLOWED_TO
from prsm.tokenomics.enrolment import account_of

_ASKING = frozenset({CHAT, EMBEDDINGS})
"""The scopes of asking models: who is suspended, or a node that is halted, still manages keys and money."""
# Here for the OpenAPI document; `bearer` reads both headers for every route alike.
_BEARER = Security(HTTPBearer(auto_error=False, description="An API key of this node: `prsm_...`."))
_X_API_KEY = Security(APIKeyHeader(name="x-api-key", auto_error=False, description="The same, as Anthropic sends it."))


class Door:
    """Checks keys, scopes and rates for one node."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def admit(self, token: str, scope: str | None, extra: list[tuple[str, str]]) -> ApiKey:
        """The caller's key, alive, within its rate and with ``scope`` (None: any live key will do).

        The rate's headers are added to ``extra``, also when the caller is refused. Raises PrsmError.
        """
        key = await self._node.identities.authenticate(token)
        if scope is not None:
            key.require(scope)
        rate = self._rate(key)
        if scope in _ASKING and not self._node.safety.admit(account_of(key.principal_id)):
            rate = rate.share(SLOWED_TO)
        limiter = self._node.limiter
        if isinstance(limiter, LeasedLimiter):
            decision = await limiter.check(key.prefix, rate)
        else:
            decision = limiter.check(key.prefix, rate)
        extra += headers(rate, decision)
        if not decision.allowed:
            self._node.safety.threats.note(account_of(key.principal_id), Event.RATE_LIMITED)
            raise PrsmError(
                "The API key has used up its requests for now.",
                kind=Kind.RATE_LIMITED,
                code="rate_limit_exceeded",
                remedy="Wait as Retry-After says.",
                retry_after_s=retry_after_s(decision),
            )
        return key

    def of(self, scope: str | None) -> Any:
        """A FastAPI dependency that admits the caller and puts the rate's headers on the response."""

        async def caller(
            request: Request, response: Response, _bearer: Annotated[Any, _BEARER], _key: Annotated[Any, _X_API_KEY]
        ) -> ApiKey:
            extra: list[tuple[str, str]] = []
            sent = request.headers
            key = await self.admit(bearer(sent.get("authorization"), sent.get("x-api-key")), scope, extra)
            response.headers.update(dict(extra))
            act_for(f"principal:{key.principal_id} key:{key.prefix}", request.state.request_id)
            return key

        return Depends(caller)

    def _rate(self, key: ApiKey) -> Rate:
        if key.rate_limit_per_minute is None:
            return self._node.rate
        return Rate.per_minute(key.rate_limit_per_minute, min(self._node.rate.burst, key.rate_limit_per_minute))


def bearer(authorization: str | None, x_api_key: str | None) -> str:
    """The token as OpenAI clients (``Authorization: Bearer``) or Anthropic clients (``x-api-key``) send it."""
    if authorization is not None:
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() == "bearer":
            return token.strip()
    return x_api_key or ""
