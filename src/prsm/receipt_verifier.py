#!/usr/bin/env python3
"""Checks a PRSM receipt offline: one file, only Python's standard library, nothing of the project that made it.

    python receipt_verifier.py receipt.json [--node-key HEX] [--request body.json] [--answer answer.txt|response.json]

Exit code 0: every check passed; 1: a check failed, one sentence each; 2: a file or an argument cannot be used.
A receipt is trusted no further than its node's key: give the key you know of the node with ``--node-key``.
"""

import argparse
import base64
import hashlib
import json
import re
import struct
import sys
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

DOMAIN = b"prsm-receipt-v1\n"
MAX_RECEIPT_BYTES = 1 << 20
MAX_INPUT_BYTES = 1 << 28
MAX_INT = 2**53 - 1
MAX_ARGUMENTS_DEPTH = 64
TOKENS_PER_PRICE = 1_000_000


class Unusable(Exception):
    """Something cannot be read as what it should be."""


def main(arguments: list[str] | None = None) -> int:
    """The command; answers its exit code."""
    parser = argparse.ArgumentParser(description="Check a PRSM receipt offline.")
    parser.add_argument("receipt", help="the receipt, a JSON file")
    parser.add_argument("--node-key", metavar="HEX", help="the node's Ed25519 public key, 64 hex digits")
    parser.add_argument("--request", metavar="FILE", help="the body of the request, byte for byte as it was sent")
    parser.add_argument("--answer", metavar="FILE", help="the answer's text, or the whole response as JSON")
    options = parser.parse_args(arguments)
    try:
        problems, signer = verify(
            _read(options.receipt, MAX_RECEIPT_BYTES),
            node_key=options.node_key,
            request=_read(options.request, MAX_INPUT_BYTES) if options.request else None,
            answer=_read(options.answer, MAX_INPUT_BYTES) if options.answer else None,
        )
    except Unusable as error:
        print(error, file=sys.stderr)
        return 2
    for problem in problems:
        print(problem)
    if problems:
        return 1
    print(f"The receipt is valid, signed by the node key {signer}.")
    if not options.node_key:
        print("Whose key that is, the receipt cannot prove: compare it with the node's, or give it with --node-key.")
    return 0


def verify(
    signed: bytes, *, node_key: str | None = None, request: bytes | None = None, answer: bytes | None = None
) -> tuple[list[str], str]:
    """What is wrong with a receipt (an empty list: nothing), and the hex public key that signed it.

    Raises Unusable when ``node_key`` is no Ed25519 key, or ``answer`` is not of the receipt's kind.
    """
    if node_key is not None and not re.fullmatch("[0-9a-fA-F]{64}", node_key):
        raise Unusable("The node key must be 64 hex digits.")
    try:
        document = parse(signed)
    except Unusable as error:
        return [f"The receipt is not strict JSON: {error}."], ""
    problems: list[str] = []
    _check_shape(document, _SIGNED.get(_version(document), _SIGNED[3]), "", problems)
    if problems:
        return problems, ""
    receipt, key = document["receipt"], document["receipt"]["node"]["public_key"]
    if node_key is not None and node_key.lower() != key:
        problems.append(f"The receipt is signed by the node key {key}, not by the one given.")
    if not ed25519_verify(bytes.fromhex(key), bytes.fromhex(document["signature"]), DOMAIN + canonical(receipt)):
        problems.append("The signature is not the node key's signature of this receipt.")
    _check_facts(receipt, problems)
    if request is not None and hashlib.sha256(request).hexdigest() != receipt["request_digest"]:
        problems.append("The request is not the one of this receipt: its digest differs.")
    if answer is not None and receipt["output_digest"] not in answer_digests(answer, receipt["operation"]):
        problems.append("The answer is not the one of this receipt: its digest differs.")
    return problems, key


# -- what a receipt must say --------------------------------------------------------------------------------------


def _check_facts(receipt: dict[str, Any], problems: list[str]) -> None:
    node, amounts = receipt["node"], receipt["amounts"]
    name = base64.b32encode(hashlib.sha256(bytes.fromhex(node["public_key"])).digest()[:20]).decode().lower()
    if node["id"] != f"prsm1{name}":
        problems.append(f"node.id is not the name of the node's key, which is prsm1{name}.")
    try:
        datetime.fromisoformat(receipt["time"])
    except ValueError:
        problems.append("time is no date that exists.")
    held, captured = amounts["held_micro"], amounts["captured_micro"]
    if captured > held:
        problems.append(f"captured_micro {captured} is more than held_micro {held}.")
    if (paid := sum(split["amount_micro"] for split in receipt["splits"])) != captured:
        problems.append(f"The splits sum to {paid}, captured_micro is {captured}.")
    usage, prices = receipt["usage"], receipt["prices"]
    if usage["cached_input_tokens"] > usage["input_tokens"]:
        problems.append("usage.cached_input_tokens is more than usage.input_tokens, whose part it is.")
    if (segments := receipt.get("segments")) and (
        said := sum(segment["output_tokens"] for segment in segments)
    ) != usage["output_tokens"]:
        problems.append(f"The segments have {said} output tokens, usage.output_tokens is {usage['output_tokens']}.")
    # Version 1 charged cached input as any other. Input is rounded up once, whatever it is made of.
    input_price = prices["input_micro_per_mtok"]
    cached_price = prices.get("cached_input_micro_per_mtok", input_price)
    if cached_price > input_price:
        problems.append("prices.cached_input_micro_per_mtok is more than prices.input_micro_per_mtok.")
    cached = usage["cached_input_tokens"]
    cost = _rounded_up((usage["input_tokens"] - cached) * input_price + cached * cached_price)
    cost += _rounded_up(usage["output_tokens"] * prices["output_micro_per_mtok"])
    if captured != min(held, cost):
        problems.append(f"captured_micro is {captured}; by usage and prices it is {min(held, cost)}.")


def _rounded_up(micro_per_mtok: int) -> int:
    return -(-micro_per_mtok // TOKENS_PER_PRICE)


def _version(document: Any) -> Any:
    """The version a document says it is of; an unknown one is read as the newest, whose rules then say what it is."""
    receipt = cast("dict[str, Any]", document).get("receipt") if isinstance(document, dict) else None
    version = cast("dict[str, Any]", receipt).get("version") if isinstance(receipt, dict) else None
    return version if type(version) is int else None


def _text(pattern: str, what: str) -> Callable[[Any], str]:
    rule = re.compile(pattern, re.DOTALL)

    def check(value: Any) -> str:
        return "" if isinstance(value, str) and rule.fullmatch(value) else what

    return check


def _whole(least: int) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        return "" if type(value) is int and least <= value <= MAX_INT else f"a whole number from {least} to {MAX_INT}"

    return check


def _known_version(value: Any) -> str:
    return "" if type(value) is int and value in (1, 2, 3) else "the number 1, 2 or 3"


def _truth(value: Any) -> str:
    return "" if isinstance(value, bool) else "true or false"


_UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_NAME = _text(".{1,1000}", "a text of 1 to 1000 characters")
_MAYBE = _text(".{0,1000}", "a text of at most 1000 characters")
_HEX32 = _text("[0-9a-f]{64}", "64 lower-case hex digits")
_COUNT = _whole(0)
_DONE = _text("(allow|annotate|redact|review|block|escalate)?", "empty or what was done about the texts")

# An object's members with their rules; [rule] is a list of such; a function answers what a wrong value should be.
_RECEIPT: dict[str, Any] = {
    "version": _known_version,
    "id": _text(_UUID, "a UUID"),
    "time": _text(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", "a UTC time with milliseconds"),
    "node": {"id": _NAME, "public_key": _HEX32},
    "account": _NAME,
    "operation": _text("chat|embeddings", "chat or embeddings"),
    "request_digest": _HEX32,
    "output_digest": _HEX32,
    "completed": _truth,
    "model": {"name": _NAME, "version": _MAYBE, "cid": _MAYBE},
    "provider": _NAME,
    "usage": {
        "input_tokens": _COUNT,
        "output_tokens": _COUNT,
        "cached_input_tokens": _COUNT,
        "metered_by": _text("upstream|node", "upstream or node"),
    },
    "prices": {
        "input_micro_per_mtok": _COUNT,
        "output_micro_per_mtok": _COUNT,
        "cached_input_micro_per_mtok": _COUNT,
    },
    "quote": _text(f"({_UUID})?", "empty or a UUID"),
    "segments": [{"model": _NAME, "provider": _NAME, "output_tokens": _COUNT}],
    "cached_from": _text(f"({_UUID})?", "empty or a UUID"),
    "amounts": {"held_micro": _COUNT, "captured_micro": _COUNT},
    "splits": [{"account": _NAME, "kind": _NAME, "amount_micro": _whole(1)}],
    "screened_by": [_NAME],
    "screening": {
        "policy": _text("([0-9a-f]{64})?", "empty or 64 lower-case hex digits"),
        "input": _DONE,
        "output": _DONE,
        "categories": [_NAME],
    },
}
_RECEIPT_2: dict[str, Any] = {name: rule for name, rule in _RECEIPT.items() if name != "screening"}
_SINCE_2 = ("quote", "segments", "cached_from")
_RECEIPT_1: dict[str, Any] = {name: rule for name, rule in _RECEIPT_2.items() if name not in _SINCE_2} | {
    "prices": {"input_micro_per_mtok": _COUNT, "output_micro_per_mtok": _COUNT}
}
_SIGNATURE = _text("[0-9a-f]{128}", "128 lower-case hex digits")
_SIGNED: dict[Any, Any] = {
    version: {"receipt": rules, "signature": _SIGNATURE}
    for version, rules in ((1, _RECEIPT_1), (2, _RECEIPT_2), (3, _RECEIPT))
}


def _check_shape(value: Any, rule: Any, where: str, problems: list[str]) -> None:
    if isinstance(rule, dict):
        if not isinstance(value, dict):
            problems.append(f"{where or 'The document'} must be an object.")
            return
        at = f"{where}." if where else ""
        members, rules = cast("dict[str, Any]", value), cast("dict[str, Any]", rule)
        problems += [f"{at}{name} is missing." for name in rules if name not in members]
        problems += [f"{at}{name} is not a member of a receipt." for name in members if name not in rules]
        for name in rules.keys() & members.keys():
            _check_shape(members[name], rules[name], f"{at}{name}", problems)
    elif isinstance(rule, list):
        if not isinstance(value, list):
            problems.append(f"{where} must be a list.")
            return
        for place, item in enumerate(cast("list[Any]", value)):
            _check_shape(item, rule[0], f"{where}[{place}]", problems)
    elif good := rule(value):
        problems.append(f"{where} must be {good}.")


# -- JSON, read strictly and written in one way -------------------------------------------------------------------


def parse(data: bytes) -> Any:
    """JSON in UTF-8 with no doubled key, no float, no integer that some readers round. Raises Unusable."""

    def refuse(text: str) -> Any:
        raise Unusable(f"{text[:40]} is no whole number")

    def whole(text: str) -> int:
        # By its length first, so that no huge number is ever computed.
        value = int(text) if len(text) <= 20 else MAX_INT + 1
        return value if abs(value) <= MAX_INT else refuse(text)

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        value = dict(pairs)
        if len(value) != len(pairs):
            raise Unusable("an object has the same key twice")
        if not all(key.isascii() for key in value):
            raise Unusable("a key is not ASCII")
        return value

    try:
        text = data.decode("utf-8", "strict")
        value = json.loads(text, object_pairs_hook=members, parse_float=refuse, parse_int=whole, parse_constant=refuse)
        canonical(value)
    except RecursionError:
        raise Unusable("it is nested too deeply") from None
    except UnicodeError:
        raise Unusable("it is not UTF-8, or has half of a surrogate pair") from None
    except ValueError as error:
        raise Unusable(str(error)) from None
    return value


def canonical(value: Any) -> bytes:
    """RFC 8785 for what ``parse`` lets through: keys sorted, no white space, UTF-8."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


# -- the answer's digest ------------------------------------------------------------------------------------------


def answer_digests(answer: bytes, operation: str) -> set[str]:
    """The digests that an answer given as a file can have: as a response of any of the formats, and as plain text."""
    try:
        text = answer.decode()
    except UnicodeError:
        raise Unusable("The answer is not UTF-8.") from None
    try:
        response: Any = json.loads(text)
    except (ValueError, RecursionError):
        response = None
    if operation == "embeddings":
        return {_vectors_digest(response)}
    # An editor or a shell adds a line's end that the answer did not have.
    digests = {_choices_digest([(plain, [])]) for plain in (text, text.removesuffix("\n"), text.removesuffix("\r\n"))}
    choices = _choices(cast("dict[str, Any]", response)) if isinstance(response, dict) else None
    return digests if choices is None else digests | {_choices_digest(choices)}


def _choices_digest(choices: list[tuple[str, list[tuple[str, str]]]]) -> str:
    """SHA-256 of the canonical ``{"choices": [{"content", "tool_calls": [{"name", "arguments"}]}]}``."""
    shown = [
        {"content": content, "tool_calls": [{"name": name, "arguments": arguments} for name, arguments in calls]}
        for content, calls in choices
    ]
    try:
        return hashlib.sha256(canonical({"choices": shown})).hexdigest()
    except UnicodeError:
        raise Unusable("The answer has half of a surrogate pair.") from None


def _choices(response: dict[str, Any]) -> list[tuple[str, list[tuple[str, str]]]] | None:
    """(text, tool calls) per choice of a chat completion, a Responses API object or an Anthropic message."""
    try:
        if isinstance(response.get("choices"), list):
            ordered = sorted(response["choices"], key=lambda choice: choice["index"])
            return [_chat_message(choice["message"]) for choice in ordered]
        if isinstance(response.get("output"), list):
            return [_responses_output(response["output"])]
        if response.get("type") == "message" and isinstance(response.get("content"), list):
            return [_anthropic_content(response["content"])]
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise Unusable(f"The answer looks like a response and a part of it is missing or wrong: {error}.") from None
    return None


def _chat_message(message: dict[str, Any]) -> tuple[str, list[tuple[str, str]]]:
    functions = [call["function"] for call in message.get("tool_calls") or ()]
    calls = [(function["name"], _arguments(function["arguments"])) for function in functions]
    return (message.get("content") or "") + (message.get("refusal") or ""), calls


def _responses_output(output: list[dict[str, Any]]) -> tuple[str, list[tuple[str, str]]]:
    parts = [part for item in output if item["type"] == "message" for part in item["content"]]
    said = "".join(part["text"] for part in parts if part["type"] == "output_text")
    refused = "".join(part["refusal"] for part in parts if part["type"] == "refusal")
    calls = [(item["name"], _arguments(item["arguments"])) for item in output if item["type"] == "function_call"]
    return said + refused, calls


def _anthropic_content(blocks: list[dict[str, Any]]) -> tuple[str, list[tuple[str, str]]]:
    text = "".join(block["text"] for block in blocks if block["type"] == "text")
    calls = [
        (block["name"], _jcs(block["input"], MAX_ARGUMENTS_DEPTH)) for block in blocks if block["type"] == "tool_use"
    ]
    return text, calls


def _arguments(text: str) -> str:
    """The arguments of a tool call in one form, however they were written; see ``_jcs``."""
    if not text.strip():
        return "{}"
    try:
        value = json.loads(text, parse_constant=_no_number)
        if isinstance(value, dict):
            return _jcs(value, MAX_ARGUMENTS_DEPTH)
    except (ValueError, RecursionError):
        pass
    return _jcs({"raw_arguments": text}, MAX_ARGUMENTS_DEPTH)


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no JSON number")


def _jcs(value: Any, depth: int) -> str:
    """RFC 8785, but integers keep all their digits; ValueError when nested deeper than ``depth``."""
    if isinstance(value, dict | list) and depth == 0:
        raise ValueError("too deep")
    if isinstance(value, dict):
        items = sorted(
            cast("dict[str, Any]", value).items(), key=lambda item: item[0].encode("utf-16-be", "surrogatepass")
        )
        return "{" + ",".join(f"{_jcs(key, 0)}:{_jcs(item, depth - 1)}" for key, item in items) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_jcs(item, depth - 1) for item in cast("list[Any]", value)) + "]"
    if isinstance(value, float):
        return _ecmascript(value)
    text = json.dumps(value, ensure_ascii=False)
    text.encode()  # half of a surrogate pair is a ValueError here
    return text


def _ecmascript(value: float) -> str:
    """A double as ECMAScript's Number::toString writes it."""
    if value in (float("inf"), float("-inf")):
        raise ValueError("no JSON number")
    sign, digit_tuple, exponent = Decimal(repr(value)).as_tuple()
    digits = "".join(map(str, digit_tuple)).rstrip("0")
    if not digits or not isinstance(exponent, int):
        return "0"
    point = len(digit_tuple) + exponent
    if len(digits) <= point <= 21:
        text = digits + "0" * (point - len(digits))
    elif 0 < point <= 21:
        text = f"{digits[:point]}.{digits[point:]}"
    elif -6 < point <= 0:
        text = f"0.{'0' * -point}{digits}"
    else:
        text = f"{digits[0]}{'.' if len(digits) > 1 else ''}{digits[1:]}e{point - 1:+d}"
    return f"-{text}" if sign else text


def _vectors_digest(response: Any) -> str:
    """SHA-256 of all numbers of an embeddings response, each as a little-endian 32-bit float."""
    hasher = hashlib.sha256()
    try:
        for item in sorted(response["data"], key=lambda item: item["index"]):
            vector = item["embedding"]
            if isinstance(vector, str):
                hasher.update(base64.b64decode(vector, validate=True))
            else:
                hasher.update(struct.pack(f"<{len(vector)}f", *vector))
    except (KeyError, TypeError, ValueError, OverflowError, struct.error):
        raise Unusable("The receipt is of embeddings, so the answer must be an embeddings response.") from None
    return hasher.hexdigest()


# -- Ed25519 (RFC 8032, section 5.1) -----------------------------------------------------------------------------------

_P = 2**255 - 19
_L = 2**252 + 27742317777372353535851937790883648493
_D = -121665 * pow(121666, -1, _P) % _P
_SQRT_MINUS_1 = pow(2, (_P - 1) // 4, _P)

_Point = tuple[int, int, int, int]
"""Extended homogeneous coordinates (X, Y, Z, T): x = X/Z, y = Y/Z, x*y = T/Z."""

_NEUTRAL: _Point = (0, 1, 1, 0)


def ed25519_verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` is that of ``message`` by ``public_key``.

    Strict: S below the group order, the key a canonical point that is not of small order, and R compared byte for
    byte, so that a signature cannot be altered into another valid one.
    """
    if len(public_key) != 32 or len(signature) != 64:
        return False
    key = _decompress(public_key)
    if key is None or _same(_multiply(8, key), _NEUTRAL):
        return False
    s = int.from_bytes(signature[32:], "little")
    if s >= _L:
        return False
    k = int.from_bytes(hashlib.sha512(signature[:32] + public_key + message).digest(), "little") % _L
    x, y, z, t = key
    difference = _add(_multiply(s, _BASE), _multiply(k, (-x % _P, y, z, -t % _P)))
    return _compress(difference) == signature[:32]


def _add(a: _Point, b: _Point) -> _Point:
    e = (a[1] - a[0]) * (b[1] - b[0]) % _P
    f = (a[1] + a[0]) * (b[1] + b[0]) % _P
    g = 2 * a[3] * b[3] * _D % _P
    h = 2 * a[2] * b[2] % _P
    e, g, h, f = f - e, h - g, h + g, f + e
    return e * g % _P, h * f % _P, g * h % _P, e * f % _P


def _multiply(scalar: int, point: _Point) -> _Point:
    product = _NEUTRAL
    while scalar:
        if scalar & 1:
            product = _add(product, point)
        point = _add(point, point)
        scalar >>= 1
    return product


def _same(a: _Point, b: _Point) -> bool:
    return (a[0] * b[2] - b[0] * a[2]) % _P == 0 and (a[1] * b[2] - b[1] * a[2]) % _P == 0


def _compress(point: _Point) -> bytes:
    inverse = pow(point[2], -1, _P)
    x, y = point[0] * inverse % _P, point[1] * inverse % _P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def _decompress(data: bytes) -> _Point | None:
    """The point, or None when ``data`` is not the one canonical encoding of a point on the curve."""
    encoded = int.from_bytes(data, "little")
    sign, y = encoded >> 255, encoded & (1 << 255) - 1
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if (x * x - square) % _P:
        x = x * _SQRT_MINUS_1 % _P
    if (x * x - square) % _P or (x == 0 and sign):
        return None
    if x & 1 != sign:
        x = _P - x
    return x, y, 1, x * y % _P


_BASE = _decompress((4 * pow(5, -1, _P) % _P).to_bytes(32, "little")) or _NEUTRAL


def _read(name: str, most_bytes: int) -> bytes:
    try:
        with Path(name).open("rb") as file:
            data = file.read(most_bytes + 1)
    except OSError as error:
        raise Unusable(f"{name} cannot be read: {error.strerror}.") from None
    if len(data) > most_bytes:
        raise Unusable(f"{name} is larger than {most_bytes} bytes.")
    return data


if __name__ == "__main__":
    sys.exit(main())
