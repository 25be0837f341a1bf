"""A walk through blocks that are not here: what is here first, and no more of the rest than its limits."""

import pytest
from tests.support.memory_dag import MemoryDag
from tests.support.transfers import MemorySource, supply_of

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.store.object_files import NotStored
from prsm.data_layer.transfer.fetching import TooLarge
from prsm.data_layer.transfer.walking import WalkLimits, walker


@pytest.mark.parametrize(("limits", "may_fetch"), [(WalkLimits(blocks=2), 2), (WalkLimits(size_bytes=1), 1)])
def test_what_is_not_here_is_fetched_up_to_a_bound(limits: WalkLimits, may_fetch: int) -> None:
    dag = MemoryDag()
    first, *others = [dag.add(Codec.RAW, b"%d" % number) for number in range(4)]

    def here(cid: Cid) -> bytes:
        if cid == first:
            return dag[cid]
        raise NotStored("It is not here.")

    source = MemorySource("source", dag)
    get_block = walker(here, supply_of([source]), limits)
    for cid in (first, *others[:may_fetch], first):
        assert get_block(cid) == dag[cid]
    with pytest.raises(TooLarge):
        get_block(others[may_fetch])
    assert source.order == others[:may_fetch], "what is here is neither asked for nor counted"
