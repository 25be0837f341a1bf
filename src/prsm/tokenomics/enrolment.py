"""New principals and keys together with their money: an account, the welcome grant, and each key's budget.

Every step can be done again without doing it twice, so a crash between two of them is mended by asking again.
"""

from uuid import NAMESPACE_OID, UUID, uuid5

from prsm.core.errors import PrsmError
from prsm.core.identity import ApiKey, Grant, Identities, IssuedKey, Principal, Role
from prsm.tokenomics.ftns_service import Ledger


def account_of(principal_id: UUID) -> str:
    """The name of a principal's ledger account."""
    return f"principal:{principal_id}"


class Enrolment:
    """Makes principals and keys that can pay."""

    def __init__(self, identities: Identities, ledger: Ledger, *, welcome_grant_micro: int) -> None:
        self._identities = identities
        self._ledger = ledger
        self._welcome_grant_micro = welcome_grant_micro

    async def principal(self, name: str, role: Role) -> Principal:
        """A new principal with an account and the welcome grant."""
        principal = await self._identities.create_principal(name, role)
        await self.welcome(principal.id)
        return principal

    async def welcome(self, principal_id: UUID) -> None:
        """Open the account and give the grant; a principal gets it once, however often this is called."""
        account = account_of(principal_id)
        await self._ledger.account_id(account)
        if self._welcome_grant_micro:
            grant_id = uuid5(NAMESPACE_OID, f"welcome:{principal_id}")
            try:
                await self._ledger.transfer(grant_id, "issuance", account, self._welcome_grant_micro, "welcome_grant")
            except PrsmError as error:
                if error.code != "duplicate_transfer":  # the grant was given when it was another amount
                    raise

    async def key(self, principal_id: UUID, grant: Grant, *, actor: ApiKey | None, cap_micro: int | None) -> IssuedKey:
        """A new key with its budget; what a key that has a cap gives to another is taken out of its own.

        A crash between the two steps leaves a key that cannot spend.
        """
        issued = await self._identities.create_key(principal_id, grant, actor=actor)
        if actor is None or actor.is_admin:
            await self._ledger.set_cap(issued.key.id, cap_micro)
        else:
            await self._ledger.share_cap(actor.id, issued.key.id, cap_micro)
        return issued

    async def rotate(self, key_id: UUID, *, actor: ApiKey | None, grace_s: int) -> IssuedKey:
        """A new key like an old one; it inherits what the old key's cap had left, and no money is spent twice."""
        issued = await self._identities.rotate(key_id, actor=actor, grace_s=grace_s)
        await self._ledger.share_cap(key_id, issued.key.id, None)
        return issued
