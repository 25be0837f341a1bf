"""Training in the started node: its runs, the ledger as their meter, and what each kind of run is carried out by."""

from uuid import UUID

from prsm.core.clock import now
from prsm.core.config import Settings
from prsm.core.database import Database
from prsm.core.money import BASIS_POINTS
from prsm.core.subject_keys import SubjectKeys
from prsm.teachers.runs.evidence_book import EvidenceBook
from prsm.teachers.runs.preference_book import PreferenceBook
from prsm.teachers.runs.run_book import Run, RunBook, RunKind
from prsm.teachers.runs.supervisor import Supervisor
from prsm.tokenomics.ftns_service import Ledger
from prsm.tokenomics.orders import HoldOrder
from prsm.tokenomics.splits import Share, split

TRAINING = "training"
"""The kind of a posting that pays for a run."""
_MODULES: dict[RunKind, str] = {
    "train": "prsm.teachers.training.main",
    "rlvr": "prsm.teachers.rlvr_job",
    "distil": "prsm.teachers.distillation.main",
    "evaluate": "prsm.teachers.evaluation.job",
}


class Training:
    """The runs of a node and who looks after them, what evaluations found, and what people preferred."""

    def __init__(
        self, book: RunBook, supervisor: Supervisor, evidence: EvidenceBook, preferences: PreferenceBook
    ) -> None:
        self.book = book
        self.supervisor = supervisor
        self.evidence = evidence
        self.preferences = preferences


class LedgerMeter:
    """Pays the node that trains, less the treasury's share, out of the account that asked for the run."""

    def __init__(self, ledger: Ledger, node_account: str, treasury_bps: int) -> None:
        self._ledger = ledger
        self._shares = (
            Share(node_account, TRAINING, BASIS_POINTS - treasury_bps),
            Share("treasury", "treasury", treasury_bps),
        )

    async def hold(self, hold_id: UUID, run: Run, amount_micro: int) -> None:
        """Set money aside for the next slice."""
        account_id = await self._ledger.account_id(run.account)
        await self._ledger.hold(HoldOrder(hold_id, account_id, run.api_key_id, amount_micro))

    async def capture(self, hold_id: UUID, run: Run, amount_micro: int) -> None:
        """Charge what a slice came to; nothing is a release."""
        if amount_micro:
            await self._ledger.capture(hold_id, split(amount_micro, self._shares))
        else:
            await self._ledger.release(hold_id)


def open_training(
    settings: Settings, node_id: str, account: str, store: Database, ledger: Ledger, keys: SubjectKeys
) -> Training:
    """The runs of this node, in a folder of its home."""
    book = RunBook(store.pool, node_id)
    supervisor = Supervisor(
        store.pool,
        book,
        settings.home / "training",
        _MODULES,
        LedgerMeter(ledger, account, settings.split_treasury_bps),
        price_micro=settings.training_cpu_second_micro,
        at_once=settings.training_at_once,
        clock=now,
    )
    return Training(book, supervisor, EvidenceBook(store.pool), PreferenceBook(store.pool, keys))
