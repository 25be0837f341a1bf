"""Every kind of refusal has a status and the shapes that both SDKs raise as their own exceptions."""

import anthropic
import openai
import pytest
from anthropic.types.shared import ErrorResponse
from tests.unit.api.wire_sdk import Served

from prsm.api.wire.errors import anthropic_error, http_status, openai_error, retry_after
from prsm.core.errors import InvalidRequest, Kind, PrsmError

OPENAI = {
    Kind.INVALID: openai.BadRequestError,
    Kind.UNAUTHENTICATED: openai.AuthenticationError,
    Kind.FORBIDDEN: openai.PermissionDeniedError,
    Kind.NOT_FOUND: openai.NotFoundError,
    Kind.CONFLICT: openai.ConflictError,
    Kind.UNPROCESSABLE: openai.UnprocessableEntityError,
    Kind.RATE_LIMITED: openai.RateLimitError,
}
ANTHROPIC = {
    Kind.INVALID: anthropic.BadRequestError,
    Kind.UNAUTHENTICATED: anthropic.AuthenticationError,
    Kind.FORBIDDEN: anthropic.PermissionDeniedError,
    Kind.NOT_FOUND: anthropic.NotFoundError,
    Kind.CONFLICT: anthropic.ConflictError,
    Kind.UNPROCESSABLE: anthropic.UnprocessableEntityError,
    Kind.RATE_LIMITED: anthropic.RateLimitError,
}


@pytest.mark.parametrize("kind", list(Kind))
def test_the_openai_sdk_raises_its_own_exception(kind: Kind) -> None:
    error = PrsmError("It failed.", kind=kind, code="some_code", remedy="Do this.", param="messages[0].role")
    served = Served(openai_error(error), status=http_status(kind))
    with pytest.raises(openai.APIStatusError) as caught:
        served.openai().models.list()
    assert isinstance(caught.value, OPENAI.get(kind, openai.APIStatusError))
    assert (caught.value.status_code, caught.value.code) == (http_status(kind), "some_code")
    assert caught.value.param == "messages[0].role"
    assert caught.value.type
    assert "It failed. Do this." in caught.value.message


@pytest.mark.parametrize("kind", list(Kind))
def test_the_anthropic_sdk_raises_its_own_exception(kind: Kind) -> None:
    body = anthropic_error(PrsmError("It failed.", kind=kind, code="some_code", remedy="Do this."), "req_1")
    with pytest.raises(anthropic.APIStatusError) as caught:
        Served(body, status=http_status(kind)).anthropic().models.list()
    assert isinstance(caught.value, ANTHROPIC.get(kind, anthropic.APIStatusError))
    assert caught.value.error_code == "some_code"
    if kind is not Kind.TOO_LARGE:  # a documented type that the SDK's own union of types lacks
        assert ErrorResponse.model_validate_json(body, strict=True).error.message == "It failed. Do this."


def test_types_and_statuses_are_those_of_each_api() -> None:
    assert {http_status(kind) for kind in Kind} == {400, 401, 402, 403, 404, 409, 413, 422, 429, 500, 502, 503, 504}
    assert b'"type":"insufficient_quota"' in openai_error(PrsmError("x", kind=Kind.PAYMENT_REQUIRED))
    assert b'"type":"billing_error"' in anthropic_error(PrsmError("x", kind=Kind.PAYMENT_REQUIRED))
    assert b'"type":"overloaded_error"' in anthropic_error(PrsmError("x", kind=Kind.UNAVAILABLE))
    assert b'"type":"invalid_request_error","param":"n","code":"invalid_request"' in openai_error(
        InvalidRequest("x", param="n")
    )


def test_retry_after_is_whole_seconds_and_never_zero() -> None:
    assert retry_after(PrsmError("x")) is None
    assert retry_after(PrsmError("x", retry_after_s=0.0)) == "1"
    assert retry_after(PrsmError("x", retry_after_s=2.1)) == "3"
