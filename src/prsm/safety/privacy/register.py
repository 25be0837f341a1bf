"""Which tables hold personal data, of which kind, why, how long, and what becomes of it when its subject is erased.

Export, erasure and the record of processing (GDPR Art. 30) all read this one list, so that none knows of less than
another. In conditions $1 is the subject's id, $2 the name of its account and $3 that account's id.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

_KEYS_OF = "(SELECT id FROM api_keys WHERE principal_id = $1)"
_REQUESTS_OF = "(SELECT id FROM receipts WHERE account_id = $3)"

CONTRACT: Final = "contract (Art. 6(1)(b))"
OBLIGATION: Final = "legal obligation to keep accounts (Art. 6(1)(c); Art. 17(3)(b))"
INTEREST: Final = "legitimate interest (Art. 6(1)(f))"
CONSENT: Final = "consent (Art. 6(1)(a))"
_LEDGER = "as long as the ledger: without it no balance could be proven"
_REGISTRY = "as long as the registry"


@dataclass(frozen=True, slots=True)
class Holding:
    """One table's personal data. ``sealed`` gives for a column the place its text is sealed for, by the row's columns.

    ``at_erasure`` deletes the rows, keeps them (what is sealed in them is then unreadable), or runs ``blank``.
    """

    table: str
    what: str
    purpose: str
    basis: str
    kept: str
    whose: str
    at_erasure: Literal["delete", "keep", "blank"]
    sealed: Mapping[str, str] = field(default_factory=dict[str, str])
    hidden: tuple[str, ...] = ()
    blank: str = ""


HOLDINGS: Final = (
    Holding(
        "principals", "name and role", "to know whose keys and money these are", CONTRACT, "until erased", "id = $1",
        "blank", {"name": "name"},
        blank="UPDATE principals SET name = '', disabled_at = coalesce(disabled_at, now()) WHERE id = $1",
    ),
    Holding(
        "api_keys", "names, scopes and use of API keys", "to admit requests", CONTRACT, "until erased",
        "principal_id = $1", "blank", {"name": "name"}, ("key_hash",),
        blank="UPDATE api_keys SET name = '', revoked_at = coalesce(revoked_at, now()) WHERE principal_id = $1",
    ),
    Holding(
        "preferences", "prompts with a preferred and another answer", "to train models", CONSENT,
        "preference_kept_days, or until taken back", "principal_id = $1", "delete",
        {name: f"preference:{{id}}:{name}" for name in ("prompt", "chosen", "rejected")},
    ),
    Holding(
        "quality_feedback", "ratings of answers, with comments", "to learn which models answer well", INTEREST,
        "feedback_kept_days", "principal_id = $1", "delete", {"comment": "comment:{request_id}"},
    ),
    Holding(
        "quality_answers", "observed answers, without their texts", "to learn which models answer well", INTEREST,
        "feedback_ttl_s", f"request_id IN {_REQUESTS_OF}", "delete",
    ),
    Holding(
        "market_quotes", "quotes asked for", "to bind prices", CONTRACT, "two days after they end", "account = $2",
        "delete",
    ),
    Holding(
        "market_refunds", "refunds asked for, with notes", "to decide them", OBLIGATION, _LEDGER, "payer_account = $2",
        "keep", {"note": "note:{id}"},
    ),
    Holding(
        "market_refund_decisions", "refunds decided, with notes", "to pay them", OBLIGATION, _LEDGER, "by_account = $2",
        "keep", {"note": "note:{refund_id}"},
    ),
    Holding(
        "market_offers", "offers of a seller", "to sell", CONTRACT, _LEDGER, "owner_account = $2", "keep",
    ),
    Holding(
        "market_offer_revisions", "changes of offers", "to prove prices", OBLIGATION, _LEDGER, "by_account = $2",
        "keep",
    ),
    Holding("ledger_accounts", "the balance", "to pay and be paid", OBLIGATION, _LEDGER, "id = $3", "keep"),
    Holding(
        "ledger_budgets", "caps of keys and what they spent", "to keep to them", OBLIGATION, _LEDGER,
        f"api_key_id IN {_KEYS_OF}", "keep",
    ),
    Holding("ledger_holds", "money set aside for requests", "to be paid", OBLIGATION, _LEDGER, "account_id = $3",
            "keep"),
    Holding(
        "ledger_resolutions", "what requests cost", "to be paid", OBLIGATION, _LEDGER,
        "hold_id IN (SELECT id FROM ledger_holds WHERE account_id = $3)", "keep",
    ),
    Holding(
        "ledger_transfers", "postings from and to the account", "to pay and be paid", OBLIGATION, _LEDGER,
        "debit_account_id = $3 OR credit_account_id = $3", "keep",
    ),
    Holding(
        "receipts", "receipts: digests of requests and answers, models, amounts", "to prove what was charged",
        OBLIGATION, _LEDGER, "account_id = $3", "keep",
    ),
    Holding("market_sums", "monthly sums", "statements", OBLIGATION, _LEDGER, "account_id = $3", "keep"),
    Holding(
        "training_runs", "runs asked for and paid", "to carry them out", CONTRACT, _LEDGER, "account = $2", "keep",
    ),
    Holding("models", "instances whose owner's share is paid here", "to pay it", CONTRACT, _REGISTRY,
            "owner_account = $2", "keep"),
    Holding("model_versions", "versions whose royalties are paid here", "to pay them", CONTRACT, _REGISTRY,
            "owner_account = $2", "keep"),
    Holding("model_history", "changes of models made", "to say who changed what", INTEREST, _REGISTRY, "by = $2",
            "keep"),
    Holding("evaluations", "evaluations stored", "evidence for gates", INTEREST, _REGISTRY, "by = $2", "keep"),
    Holding("gate_decisions", "decisions of gates asked for", "evidence for releases", INTEREST, _REGISTRY, "by = $2",
            "keep"),
    Holding(
        "safety_incidents", "texts that were blocked or put before a person, with appeals", "to keep the service safe",
        INTEREST, "incident_kept_days, or until erased", "account = $2", "delete",
        {"texts": "incident:{id}", "appeal": "appeal:{request_id}"},
    ),
    Holding("safety_threats", "how suspicious an account is", "to keep the service safe", INTEREST,
            "a week after the last event", "account = $2", "delete"),
    # Last of what is deleted, and in the order of the ledger, whose batches wait for these rows.
    Holding(
        "idempotency_keys", "answers to requests with an Idempotency-Key", "to answer a retry without charging twice",
        CONTRACT, "idempotency_ttl_s", f"api_key_id IN {_KEYS_OF}", "delete", {"answer": "answer:{request_id}"},
    ),
    Holding(
        "conversation_turns", "messages of conversations", "to continue them", CONTRACT,
        "conversation_kept_days after the last turn, or until deleted",
        "conversation_id IN (SELECT id FROM conversations WHERE principal_id = $1)", "delete",
        {"messages": "turn:{request_id}"},
    ),
    Holding(
        "conversations", "which conversations there are", "to continue them", CONTRACT,
        "conversation_kept_days after the last turn, or until deleted", "principal_id = $1", "delete",
    ),
    Holding("safety_policies", "policies of screening written", "to say who changed what", INTEREST,
            "as long as the node", "by = $2", "keep"),
    Holding("breakers", "breakers opened by hand, and a stopped account", "to keep the service safe", INTEREST,
            "until reset", "by = $2 OR name = $2", "keep"),
    Holding("alerts", "alerts looked after", "to say who did what", INTEREST, "as long as the node", "acked_by = $2",
            "keep"),
    Holding("alert_silences", "alerts silenced", "to say who did what", INTEREST, "as long as the node", "by = $2",
            "keep"),
    Holding("privacy_consents", "consents given and withdrawn", "to prove them (Art. 7(1))", OBLIGATION,
            "as long as the node", "subject_id = $1", "keep"),
    Holding("privacy_erasures", "the certificate of an erasure", "to prove it (Art. 5(2))", OBLIGATION,
            "as long as the node", "subject_id = $1", "keep"),
    Holding(
        "audit_entries", "entries that name the subject by its id", "to prove who changed what", OBLIGATION,
        "as long as the log: without one entry none could be proven",
        "position(convert_to($2, 'UTF8') IN body) > 0", "keep",
    ),
)  # fmt: skip
"""Rows are deleted in this order."""


@dataclass(frozen=True, slots=True)
class Purpose:
    """Something a person may agree to; ``default`` is what counts until it says anything."""

    name: str
    says: str
    default: bool


PURPOSES: Final = {
    purpose.name: purpose
    for purpose in (
        Purpose("training", "Preferences I give may be read as training data by this node's operators.", True),
        Purpose("sharing", "My personal data may be sold or shared (CCPA). This node does neither; no is kept.", False),
    )
}
