"""Every setting of the node, typed and bounded, in one frozen object that is built once and handed down.

Sources, later wins: defaults, the file, the environment, the flags; each value remembers which one it came from. A
setting that is unknown, wrong or at odds with another stops the start with a sentence; nothing is guessed or dropped.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from prsm.core.config_sources import REMEDY, gathered
from prsm.core.errors import ConfigError
from prsm.core.money import BASIS_POINTS, MAX_AMOUNT_MICRO, MICRO_PER_FTNS

SECRETS = frozenset({"database_url", "redis_url", "api_key", "hub_token", "storage_nodes", "storage_gateways"})
HIDDEN = frozenset(
    {"api_key", "hub_token", "alert_webhook_url", "alert_webhook_secret", "alert_smtp_password", "otlp_headers"}
)
"""Settings of which not even a part is shown."""
HOLD_MARGIN_S = 60
"""A hold outlives the longest request by more than this, so that it never expires under a running one."""

_HOURS_24_S = 86_400
_MIB = 1024 * 1024
_GIB = 1024 * _MIB
_MUST_BE = "must_be"


def _whole(default: int, low: int, high: int, meaning: str) -> Any:  # Any: what pydantic's Field() itself claims
    must_be = f"a whole number from {low} to {high}"
    return Field(default, ge=low, le=high, description=meaning, json_schema_extra={_MUST_BE: must_be})


def _chosen(default: str, must_be: str, meaning: str, pattern: str | None = None) -> Any:
    return Field(default, pattern=pattern, description=meaning, json_schema_extra={_MUST_BE: must_be}, max_length=2048)


def _url(schemes: str, must_be: str, meaning: str) -> Any:
    return Field(
        "",
        pattern=rf"^(({schemes})://\S+)?$",
        description=meaning,
        json_schema_extra={_MUST_BE: must_be},
        repr=False,
        max_length=2048,
    )


def _listed(given: object) -> object:
    """A list may be written as one text, its items apart by commas or blanks."""
    return tuple(re.split(r"[,\s]+", given.strip())) if isinstance(given, str) and given.strip() else given or ()


def _several(must_be: str, meaning: str) -> Any:
    return Field(
        (), description=meaning, json_schema_extra={_MUST_BE: f"{must_be}, several apart by commas"}, max_length=100
    )


_Urls = Annotated[
    tuple[Annotated[str, Field(pattern=r"^https?://[^\s,]+$", max_length=2048)], ...], BeforeValidator(_listed)
]
_HostPorts = Annotated[
    tuple[Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:.]+\]|[^\s,:/\[\]]+):\d{1,5}$", max_length=300)], ...],
    BeforeValidator(_listed),
]

_ADDRESS = r"^([^\s@,<>]{1,64}@[^\s@,<>]{1,255})?$"
_Addresses = Annotated[tuple[Annotated[str, Field(pattern=_ADDRESS, max_length=320)], ...], BeforeValidator(_listed)]
_Paths = Annotated[tuple[Annotated[str, Field(pattern=r"^[^\s,]+$", max_length=1000)], ...], BeforeValidator(_listed)]
_Slas = Annotated[
    tuple[Annotated[str, Field(pattern=r"^[^\s,=]{1,200}=[1-9]\d{0,3}/\d{1,6}/\d{1,6}$", max_length=300)], ...],
    BeforeValidator(_listed),
]


class Settings(BaseModel):
    """All settings. Units stand last in the names; money is micro-FTNS; shares are basis points."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    home: Path = Field(
        Path("~/.prsm"),
        description="Folder of the node: its key, its embedded servers' data, its settings file.",
        json_schema_extra={_MUST_BE: "the path of a folder, with ~ only where the user has a home"},
    )
    host: str = _chosen(
        "127.0.0.1", "an address or host name", "Address the node listens on.", r"^[^\s/?#@\\\[\]]{1,255}$"
    )
    port: int = _whole(8420, 1, 65_535, "TCP port the node listens on.")
    workers: int = _whole(1, 1, 64, "Worker processes that answer requests.")
    max_inflight_requests: int = _whole(12_000, 1, 1_000_000, "Requests in work at once per worker; more get a 503.")
    body_limit_bytes: int = _whole(10 * _MIB, 1024, 1024 * _MIB, "Largest request body accepted.")
    header_timeout_s: int = _whole(15, 1, 600, "Longest wait for a request's headers; then the connection ends.")
    body_timeout_s: int = _whole(30, 1, 3600, "Longest wait for a request's body; then it is refused.")
    request_timeout_s: int = _whole(600, 1, _HOURS_24_S, "Longest time one request may take from start to end.")
    shutdown_grace_s: int = _whole(10, 0, 3600, "How long requests in work may go on once the node is told to stop.")
    log_level: Literal["debug", "info", "warning", "error"] = _chosen(
        "info", "debug, info, warning or error", "Least important log line that is written."
    )
    log_format: Literal["console", "json"] = _chosen(
        "console", "console or json", "Log lines for a person (console) or for a machine (json)."
    )

    database_url: str = _url(
        "postgresql|postgres", "empty or a postgresql:// address", "PostgreSQL to use; empty runs the embedded one."
    )
    database_pool_size: int = _whole(10, 1, 1000, "PostgreSQL connections per worker, at most.")
    database_timeout_ms: int = _whole(5000, 10, 600_000, "Longest time one database statement may take.")
    redis_url: str = _url(
        "redis|rediss|unix", "empty or a redis://, rediss:// or unix:// address", "Valkey to use; empty: embedded."
    )

    upstream_connect_timeout_s: int = _whole(5, 1, 300, "Longest wait for a connection to a provider.")
    upstream_first_byte_timeout_s: int = _whole(120, 1, 3600, "Longest wait for the first byte of a provider's answer.")
    upstream_idle_timeout_s: int = _whole(60, 1, 3600, "Longest silence inside a provider's answer.")
    upstream_connections_per_origin: int = _whole(20_000, 1, 65_535, "Open connections to one provider, at most.")
    answer_limit_bytes: int = _whole(4 * _MIB, 1024, 1024 * _MIB, "Largest answer taken from a provider.")
    retry_attempts: int = _whole(3, 1, 10, "Tries of one call at one provider, the first one included.")
    retry_budget_s: int = _whole(20, 0, 3600, "Time that retries of one request may use together.")
    shadow_at_once: int = _whole(4, 0, 1000, "Copies of requests for candidates on trial under way at once, at most.")
    judge_model: str = _chosen(
        "",
        "empty or PROVIDER/MODEL",
        "Instance that compares copies' answers with those given, at the node's cost; empty: nobody.",
        r"^([^\s/]+/\S+)?$",
    )
    judge_per_minute: int = _whole(6, 1, 6000, "Comparisons a minute, at most, of two calls each.")
    screening: Literal["standard", "strict", "observe", "off"] = _chosen(
        "standard",
        "standard, strict, observe or off",
        "The policy by which requests and answers are screened until one is written: prsm safety policy.",
    )
    banned_file: str = _chosen(
        "",
        "empty or the path of a file",
        "TOML of patterns and hashes of what must never pass; empty: nothing.",
    )
    screening_threads: int = _whole(1, 1, 64, "Threads of a worker that detectors run in.")
    screening_remember: int = _whole(
        20_000, 0, 10_000_000, "Texts of which a worker remembers what was found, so that a history is read once."
    )
    screening_timeout_s: int = _whole(20, 1, 600, "Longest time a text may take to be screened; then it is refused.")
    breaker_failure_ratio_bps: int = _whole(
        5000, 1, BASIS_POINTS, "Share of failed calls that opens a model's circuit breaker, in basis points."
    )
    breaker_open_s: int = _whole(10, 1, 3600, "How long an open circuit breaker keeps calls away from a model.")
    probe_per_minute: int = _whole(12, 0, 6000, "Probes of instances that are out or that nobody asks; 0: none.")
    probe_idle_s: int = _whole(300, 1, _HOURS_24_S, "An instance without calls for this long is probed.")
    probe_timeout_s: int = _whole(10, 1, 300, "Longest wait for the answer to a probe.")
    probe_chat: bool = Field(
        False,
        description="Probe by asking for one token, at the node's cost, instead of listing the provider's models.",
        json_schema_extra={_MUST_BE: "true or false"},
    )
    sla_availability_bps: int = _whole(
        9900, 1, BASIS_POINTS - 1, "Share of its calls that a model is to answer, in basis points."
    )
    sla_first_token_ms: int = _whole(0, 0, 600_000, "Time within which 95 % of a model's streams begin; 0: no limit.")
    sla_min_tokens_per_s: int = _whole(0, 0, 100_000, "Pace that 95 % of a model's answers are to have; 0: no limit.")
    sla_models: _Slas = _several(
        "MODEL=AVAILABILITY_BPS/FIRST_TOKEN_MS/MIN_TOKENS_PER_S",
        "Models that are to keep other limits than the three above.",
    )
    default_max_output_tokens: int = _whole(
        4096, 1, 10_000_000, "Output tokens held for when the caller states no limit."
    )
    hedge_share_bps: int = _whole(
        0, 0, 500, "Share of requests that may ask a second model beside a silent one, at the node's cost; 0: none."
    )
    hedge_max_output_tokens: int = _whole(256, 1, 8192, "Longest answer, by its limit, that is hedged so.")
    response_cache: Literal["off", "exact", "semantic"] = _chosen(
        "off", "off, exact or semantic", "Give a caller an answer it was given before, where its request allows that."
    )
    response_cache_ttl_s: int = _whole(3600, 1, 7 * _HOURS_24_S, "How long an answer may be given again.")
    response_cache_answer_bytes: int = _whole(64 * 1024, 256, 1_000_000, "Largest answer that is kept for that.")
    response_cache_caller_bytes: int = _whole(
        16 * _MIB, 1024, _GIB, "Bytes of answers kept for one account within the time they are kept."
    )
    response_cache_price_bps: int = _whole(
        1000, 0, BASIS_POINTS, "Price of an answer that is given again, in basis points of its output's price."
    )

    rate_limit_per_minute: int = _whole(6000, 1, 1_000_000, "Sustained requests per minute of one API key.")
    rate_limit_burst: int = _whole(600, 1, 1_000_000, "Requests one API key may send at once after a pause.")

    hold_ttl_s: int = _whole(900, 1, 7 * _HOURS_24_S, "Age at which an unresolved hold is released.")
    welcome_grant_micro: int = _whole(
        100 * MICRO_PER_FTNS, 0, MAX_AMOUNT_MICRO, "Micro-FTNS given to each new account, once."
    )
    split_owner_bps: int = _whole(7000, 0, BASIS_POINTS, "Model owner's share of each capture, in basis points.")
    split_executor_bps: int = _whole(2000, 0, BASIS_POINTS, "Executor's share of each capture, in basis points.")
    split_treasury_bps: int = _whole(1000, 0, BASIS_POINTS, "Treasury's share of each capture, in basis points.")
    ledger_batch_max: int = _whole(1000, 1, 10_000, "Ledger operations written in one transaction, at most.")
    ledger_queue_max: int = _whole(20_000, 1, 1_000_000, "Ledger operations that may wait; more get a 503.")
    ledger_linger_ms: int = _whole(8, 0, 100, "Longest pause after a busy ledger batch, while more orders come.")
    ledger_timeout_s: int = _whole(10, 1, 600, "Longest wait for one ledger operation.")

    market_epoch_s: int = _whole(
        60, 1, _HOURS_24_S, "How often the prices of offers follow the demand; the same for all nodes on a database."
    )
    market_quote_ttl_s: int = _whole(600, 1, _HOURS_24_S, "Longest time for which a quote binds.")
    market_quotes_open: int = _whole(100, 1, 100_000, "Quotes that one account may have open.")
    market_refund_window_s: int = _whole(
        7 * _HOURS_24_S, 60, 365 * _HOURS_24_S, "How long after an answer a refund may be asked for."
    )

    usd_price_micro_ftns: int = _whole(
        0, 0, MAX_AMOUNT_MICRO, "Micro-FTNS that one USD is worth to the operator; 0: no rate, it is only shown."
    )

    idempotency_ttl_s: int = _whole(_HOURS_24_S, 60, 30 * _HOURS_24_S, "How long an Idempotency-Key is remembered.")
    conversation_kept_days: int = _whole(
        365, 0, 36_500, "Conversations are deleted so long after their last turn; 0: only when their owner says so."
    )
    preference_kept_days: int = _whole(
        0, 0, 36_500, "Preferences are deleted after this; 0: only when their giver takes them back."
    )
    incident_kept_days: int = _whole(
        365, 0, 36_500, "Blocked and reviewed texts are deleted after this; 0: only when their owner is erased."
    )
    conversation_max_messages: int = _whole(1000, 2, 100_000, "Messages kept in one conversation, at most.")

    storage_profile: Literal["unixfs-v1-2025", "kubo-v1"] = _chosen(
        "unixfs-v1-2025", "unixfs-v1-2025 or kubo-v1", "How added files are cut into blocks; it decides their CIDs."
    )
    storage_limit_bytes: int = _whole(
        100 * _GIB, 64 * _MIB, 1 << 60, "Disk the stored objects may take; then what is not pinned makes room."
    )
    storage_object_limit_bytes: int = _whole(100 * _GIB, 1, 1 << 60, "Largest object that is added or fetched.")
    storage_quota_bytes: int = _whole(
        20 * _GIB, 0, 1 << 60, "Bytes one principal that is no admin may keep pinned here."
    )
    storage_nodes: _Urls = _several(
        "http:// or https:// addresses", "IPFS nodes of your own (Kubo's RPC); what is published goes there."
    )
    storage_gateways: _Urls = _several(
        "http:// or https:// addresses", "Trustless IPFS gateways that blocks are read from."
    )
    storage_private_hosts: _HostPorts = _several(
        "HOST:PORT", "Gateways that may be at a private address; every other one is refused there."
    )
    storage_peers_file: str = _chosen("", "empty or the path of a file", "File of more gateways, one a line.")
    storage_mdns_interface: str = _chosen(
        "",
        "empty, an IPv4 address of this machine, or the name of a network interface",
        "Find other nodes on this link by mDNS, and tell them of this node's gateway; empty: off.",
        r"^[^\s/]{0,255}$",
    )
    storage_gateway_enabled: bool = Field(
        True,
        description="Serve stored objects at /ipfs/ to whoever knows their CID, without a key.",
        json_schema_extra={_MUST_BE: "true or false"},
    )
    storage_workers: int = _whole(8, 1, 64, "Connections that fetch one object at the same time.")
    storage_block_budget_s: int = _whole(60, 1, 3600, "Time that all tries of one block may take together.")
    storage_rate_limit_bytes_s: int = _whole(0, 0, 1 << 50, "Bytes a second that transfers may take; 0: no limit.")
    storage_scrub_days: int = _whole(30, 1, 3650, "Each stored object is read and verified again after this.")

    api_key: str = Field(
        "",
        pattern=r"^[\x21-\x7e]*$",
        description="API key that the command line uses; empty: the operator's, from the home.",
        json_schema_extra={_MUST_BE: "empty or an API key"},
        repr=False,
        max_length=200,
    )

    hub_endpoint: str = _chosen(
        "https://huggingface.co",
        "an http:// or https:// address",
        "Hub that models are imported from.",
        r"^https?://\S+$",
    )
    hub_token: str = Field(
        "",
        pattern=r"^[\x21-\x7e]*$",
        description="Access token for the hub; needed for models that are gated or private.",
        json_schema_extra={_MUST_BE: "empty or an access token"},
        repr=False,
        max_length=4000,
    )

    otlp_endpoint: str = _url("http|https", "empty or an http(s):// address", "OTLP receiver of traces; empty: off.")
    otlp_headers: str = _chosen(
        "", "empty or NAME=VALUE, ...", "Headers for it, such as a key.", r"^([^\s=,]+=[^\s,]+,?)*$"
    )
    otlp_share_bps: int = _whole(BASIS_POINTS, 0, BASIS_POINTS, "Share of requests that are traced, in basis points.")
    otlp_content: bool = Field(
        False,
        description="Put the texts of prompts and answers into traces.",
        json_schema_extra={_MUST_BE: "true or false"},
    )
    watched_folders: _Paths = _several("paths of folders", "Further folders whose disks are watched, besides the home.")
    alert_webhook_url: str = _url("http|https", "empty or an http(s):// address", "Where alerts are posted, signed.")
    alert_webhook_secret: str = _chosen("", "empty or a text", "Key of that signature (HMAC-SHA-256).", r"^\S{0,200}$")
    alert_private_hosts: _HostPorts = _several("HOST:PORT", "Receivers of alerts that may be at a private address.")
    alert_mail_to: _Addresses = _several("e-mail addresses", "Who is told of alerts by mail.")
    alert_escalation_mail_to: _Addresses = _several("e-mail addresses", "Who is told of pages that nobody takes.")
    alert_mail_from: str = _chosen("", "empty or an e-mail address", "Sender of those mails.", _ADDRESS)
    alert_smtp_host: str = _chosen("", "empty or a host name", "Mail server they are given to.", r"^[^\s/]{0,255}$")
    alert_smtp_port: int = _whole(587, 1, 65_535, "Its TCP port.")
    alert_smtp_security: Literal["starttls", "tls", "none"] = _chosen(
        "starttls", "starttls, tls or none", "How the connection to it is made safe."
    )
    alert_smtp_ca_file: str = _chosen("", "empty or the path of a file", "Authority of its certificate; empty: system.")
    alert_smtp_user: str = _chosen("", "empty or a user name", "Who logs in there; empty: nobody.")
    alert_smtp_password: str = _chosen("", "empty or a password", "With which password.")
    alert_escalate_after_s: int = _whole(900, 10, _HOURS_24_S, "A page that nobody took for this long is escalated.")
    alert_repeat_s: int = _whole(4 * 3600, 60, 7 * _HOURS_24_S, "What fires on is told again after this.")

    encoder_threads: int = _whole(1, 1, 64, "Processor threads of the text encoder, per worker.")
    learning_enabled: bool = Field(
        True,
        description="Observe answers and learn from them, and from feedback, how well each model answers.",
        json_schema_extra={_MUST_BE: "true or false"},
    )
    learning_period_s: int = _whole(30, 1, 3600, "How often observations are written and learnt from.")
    learning_half_life_days: int = _whole(14, 1, 3650, "Half of what was learnt of a model is forgotten in this time.")
    learning_answers_max: int = _whole(
        500_000, 1_000, 100_000_000, "Observed answers kept, at most; feedback on older ones is not learnt from."
    )
    learning_caller_outcomes: int = _whole(
        3, 1, 1000, "Outcomes in full that one caller may move a model by; more only where all callers are trusted."
    )
    route_answer_micro_per_mtok: int = _whole(
        100 * MICRO_PER_FTNS,
        0,
        MAX_AMOUNT_MICRO,
        "What a good answer is worth to a caller of auto, micro-FTNS per million tokens of question and answer.",
    )
    route_second_micro: int = _whole(
        100, 0, MAX_AMOUNT_MICRO, "What a second less to wait is worth to a caller of auto, micro-FTNS."
    )
    explore_share_bps: int = _whole(
        500, 0, 10_000, "Share of automatic choices that may try a model of which little is known, basis points."
    )
    feedback_ttl_s: int = _whole(7 * _HOURS_24_S, 60, 90 * _HOURS_24_S, "How long after an answer feedback is taken.")
    feedback_kept_days: int = _whole(90, 1, 3650, "Feedback and its comments are deleted after this.")
    training_cpu_second_micro: int = _whole(
        1000,
        0,
        MAX_AMOUNT_MICRO,
        "Micro-FTNS that a run of the trainer costs per processor second; 0: nothing.",
    )
    training_at_once: int = _whole(1, 0, 64, "Runs of the trainer under way at once; 0: none is started.")
    teacher_enabled: bool = Field(
        True,
        description="Offer the embedded teachers: arithmetic and letters, answered with no provider configured.",
        json_schema_extra={_MUST_BE: "true or false"},
    )

    teachers_folder: str = _chosen(
        "",
        "empty or the path of a folder",
        "Each sub-folder is a teacher, offered as local/NAME; empty: home/teachers.",
    )
    teachers_memory_bytes: int = _whole(
        512 * _MIB, 64 * _MIB, 1 << 40, "Memory that teachers of folders may take together; the least used makes room."
    )
    teachers_input_price_micro: int = _whole(
        20 * MICRO_PER_FTNS, 0, MAX_AMOUNT_MICRO, "Micro-FTNS per million tokens read, where teacher.json has no price."
    )
    teachers_output_price_micro: int = _whole(
        60 * MICRO_PER_FTNS, 0, MAX_AMOUNT_MICRO, "The same per million tokens written."
    )

    @property
    def address(self) -> str:
        """The node's own address, as a URL without a path."""
        return f"http://[{self.host}]:{self.port}" if ":" in self.host else f"http://{self.host}:{self.port}"

    @field_validator("home", mode="before")
    @classmethod
    def _absolute(cls, home: object) -> object:
        if not isinstance(home, str | Path) or not str(home):
            raise ValueError
        try:
            return Path(home).expanduser().absolute()
        except RuntimeError:  # nobody knows what ~ stands for
            raise ValueError from None

    @field_validator("banned_file", "storage_peers_file", "teachers_folder", "alert_smtp_ca_file")
    @classmethod
    def _expanded(cls, path: str) -> str:
        try:
            return str(Path(path).expanduser()) if path else ""
        except RuntimeError:
            raise ValueError from None

    @field_validator("host")
    @classmethod
    def _one_address(cls, host: str) -> str:
        if ":" in host:
            ipaddress.IPv6Address(host)
        return host

    @model_validator(mode="after")
    def _agree(self) -> Self:
        for rule in _RULES:
            if not rule.holds(self):
                raise _Disagreement(rule)
        return self


class Row(NamedTuple):
    """One line of ``prsm config``; ``value`` is safe to show."""

    name: str
    value: str
    source: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings, and for each name where its value came from (``environment PRSM_PORT``)."""

    settings: Settings
    provenance: dict[str, str]

    def describe(self) -> list[Row]:
        """Every setting with value, source and meaning; passwords are masked."""
        return [
            Row(name, _shown(name, getattr(self.settings, name)), self.provenance[name], field.description or "")
            for name, field in Settings.model_fields.items()
        ]


def load_settings(env: Mapping[str, str], flags: Mapping[str, Any], file: Path | None = None) -> Loaded:
    """Merge all sources and validate. A flag that is None was not given.

    ``file`` (or ``PRSM_CONFIG``) must exist; without either, ``prsm.toml`` in the home folder is read if it is there.
    Raises ConfigError naming every offending setting, its source, the limit and, for a misspelt one, the likely name.
    """
    fields = Settings.model_fields
    given = gathered(env, flags, file, names=fields, usual_home=fields["home"].default)
    values = {name: value for name, value, _ in given}
    provenance = dict.fromkeys(fields, "default") | {name: source for name, _, source in given}
    return Loaded(_validate(values, provenance), provenance)


def mask_url(url: str) -> str:
    """The address without its password: neither ``user:password@``, ``https://token@`` nor ``?password=`` is shown."""
    masked = re.sub(r"(?<=://)([^:/@]*):.*@", r"\1:***@", url)
    masked = re.sub(r"(?i)(https?://)[^:/?#@\s]+@", r"\1***@", masked)
    return re.sub(r"(?i)((?:ssl)?password=)[^&]*", r"\1***", masked)


@dataclass(frozen=True, slots=True)
class _Rule:
    """A law between settings: the names it binds, the test, and the sentence."""

    names: tuple[str, ...]
    holds: Callable[[Settings], bool]
    sentence: str


class _Disagreement(ValueError):
    def __init__(self, rule: _Rule) -> None:
        super().__init__(rule.sentence)
        self.rule = rule


_RULES = (
    _Rule(
        ("hold_ttl_s", "request_timeout_s"),
        lambda s: s.hold_ttl_s > s.request_timeout_s + HOLD_MARGIN_S,
        f"hold_ttl_s must be more than request_timeout_s + {HOLD_MARGIN_S}, or a hold could expire under a request",
    ),
    _Rule(
        ("split_owner_bps", "split_executor_bps", "split_treasury_bps"),
        lambda s: s.split_owner_bps + s.split_executor_bps + s.split_treasury_bps == BASIS_POINTS,
        f"split_owner_bps, split_executor_bps and split_treasury_bps must add up to {BASIS_POINTS}",
    ),
    _Rule(
        ("alert_webhook_url", "alert_webhook_secret"),
        lambda s: not s.alert_webhook_url or bool(s.alert_webhook_secret),
        "alert_webhook_url needs alert_webhook_secret, or the receiver could not tell who writes",
    ),
    _Rule(
        ("alert_mail_to", "alert_mail_from", "alert_smtp_host"),
        lambda s: not s.alert_mail_to or bool(s.alert_mail_from and s.alert_smtp_host),
        "alert_mail_to needs alert_mail_from and alert_smtp_host",
    ),
    _Rule(
        ("ledger_batch_max", "ledger_queue_max"),
        lambda s: s.ledger_batch_max <= s.ledger_queue_max,
        "ledger_batch_max must not be more than ledger_queue_max",
    ),
)


def _validate(values: Mapping[str, Any], provenance: Mapping[str, str]) -> Settings:
    # pydantic reads True as 1; a switch where a number belongs is a mistake.
    switches = [n for n, v in values.items() if isinstance(v, bool) and Settings.model_fields[n].annotation is int]
    try:
        if not switches:
            return Settings.model_validate(dict(values))
    except ValidationError as error:
        problems = [_sentence(values, provenance, item["loc"], item.get("ctx", {})) for item in error.errors()]
    else:
        problems = [_wrong(name, values, provenance) for name in switches]
    # The cause is dropped: pydantic repeats the input, which may hold a password.
    raise ConfigError("\n".join(problems), remedy=REMEDY) from None


def _sentence(
    values: Mapping[str, Any], provenance: Mapping[str, str], loc: tuple[int | str, ...], ctx: Mapping[str, Any]
) -> str:
    broken = ctx.get("error")
    if not isinstance(broken, _Disagreement):
        return _wrong(str(loc[0]), values, provenance)
    return f"{broken}; now {_and(_current(name, values, provenance) for name in broken.rule.names)}."


def _wrong(name: str, values: Mapping[str, Any], provenance: Mapping[str, str]) -> str:
    must_be = cast("dict[str, str]", Settings.model_fields[name].json_schema_extra)[_MUST_BE]
    return f"The setting {name} is {_shown(name, values[name])!r} ({provenance[name]}); it must be {must_be}."


def _current(name: str, values: Mapping[str, Any], provenance: Mapping[str, str]) -> str:
    return f"{name} is {_shown(name, values.get(name, Settings.model_fields[name].default))} ({provenance[name]})"


def _and(parts: Iterable[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}"


def _shown(name: str, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ", ".join(_shown(name, item) for item in cast("Iterable[object]", value))
    if name in HIDDEN:
        return "***" if value else ""
    shown = mask_url(str(value))
    return shown if name in SECRETS else shown[:200]
