"""Statements of provenance and models through the whole storage, on a real PostgreSQL."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import save
from tests.support.storage_nodes import OWNER, add, opened, storage_at

from prsm.core.database import Pool
from prsm.core.errors import PrsmError
from prsm.core.keys import NodeKey
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.formats.model_contents import ModelFile, UnsafeModelFile
from prsm.data_layer.provenance import signed_statement
from prsm.data_layer.provenance.signed_statement import (
    BadProvenance,
    ContentKind,
    Origin,
    Provenance,
    Relation,
)
from prsm.data_layer.provenance.statement_store import MAX_STATEMENTS, Claims, Statements
from prsm.data_layer.store.catalog import Catalog
from prsm.data_layer.store.object_files import NotStored, ObjectFiles

OURS = NodeKey(Ed25519PrivateKey.from_private_bytes(b"\x07" * 32))
THEIRS = NodeKey(Ed25519PrivateKey.from_private_bytes(b"\x08" * 32))
AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
CID, BASE = Cid.of(Codec.RAW, b"model"), Cid.of(Codec.RAW, b"base")
CLAIMS = Claims(ContentKind.MODEL, "mit", "A model", "application/vnd.safetensors")
FOREIGN = Provenance(
    cid=str(CID),
    kind=ContentKind.MODEL,
    publisher=THEIRS.node_id,
    public_key=THEIRS.public_key_hex,
    published_at=AT - timedelta(days=1),
    licence="Apache-2.0",
    title="The same model",
    media_type="application/vnd.safetensors",
    size_bytes=5,
)


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def statements(pool: Pool, tmp_path: Path) -> Statements:
    return Statements(Catalog(pool, ObjectFiles(tmp_path)), OURS.public_key_hex, OURS.sign, lambda: AT)


async def test_own_and_foreign_statements_are_kept_verified_and_in_order(statements: Statements) -> None:
    claims = replace(CLAIMS, derived_from=(Origin(str(BASE), Relation.FINE_TUNED_FROM),))
    own = await statements.state(CID, 5, OURS.node_id, claims)
    assert own.statement.licence == "MIT"
    envelope = signed_statement.sign(FOREIGN, THEIRS.sign)
    foreign = await statements.accept(envelope)
    assert await statements.accept(envelope) == foreign, "twice is once"
    assert await statements.about(CID) == [foreign, own]
    assert await statements.about(BASE) == []


async def test_a_tampered_statement_is_refused_and_one_tampered_with_in_the_database_is_left_out(
    statements: Statements, pool: Pool
) -> None:
    envelope = signed_statement.sign(FOREIGN, THEIRS.sign)
    for tampered in (
        envelope.replace(b"Apache-2.0", b"MIT"),
        envelope.replace(b"}", b"} ", 1),
        signed_statement.sign(replace(FOREIGN, published_at=AT + timedelta(days=2)), THEIRS.sign),
        b"{}",
    ):
        with pytest.raises(BadProvenance):
            await statements.accept(tampered)
    assert await statements.about(CID) == []
    own = await statements.state(CID, 5, OURS.node_id, CLAIMS)
    await statements.accept(envelope)
    changed = envelope.replace(b"Apache-2.0", b"BSD-3-Clause")
    await pool.execute("UPDATE storage_provenance SET envelope = $1 WHERE publisher = $2", changed, THEIRS.node_id)
    assert await statements.about(CID) == [own]
    # A sound statement about something else does not count for this.
    other = signed_statement.sign(replace(FOREIGN, cid=str(BASE)), THEIRS.sign)
    await pool.execute("UPDATE storage_provenance SET envelope = $1 WHERE publisher = $2", other, THEIRS.node_id)
    assert await statements.about(CID) == [own]


async def test_strangers_cannot_bury_an_object_under_statements(statements: Statements, pool: Pool) -> None:
    await pool.execute(
        "INSERT INTO storage_provenance (cid, digest, envelope, publisher, at) "
        "SELECT $1, sha256(n::text::bytea), n::text::bytea, 'x', $2 FROM generate_series(1, $3) n",
        str(CID),
        AT - timedelta(days=9),
        MAX_STATEMENTS,
    )
    with pytest.raises(PrsmError, match="already"):
        await statements.accept(signed_statement.sign(FOREIGN, THEIRS.sign))
    own = await statements.state(CID, 5, OURS.node_id, CLAIMS)
    assert await statements.about(CID) == [own]


async def test_a_model_is_inspected_before_it_is_opened_and_kept_while_it_is(tmp_path: Path, pool: Pool) -> None:
    weights = save({"layer": np.arange(1000, dtype=np.float32)})
    async with opened(storage_at(tmp_path, pool)) as storage:
        cid = await add(storage, weights)
        told = await storage.inspect(cid)
        assert isinstance(told, ModelFile)
        assert told.parameters == 1000
        folder = (await storage.add_directory([("model.safetensors", cid)], OWNER)).cid
        for each in (cid, folder):
            await storage.unpin(each, OWNER)
        async with storage.open_model(folder) as model:
            assert bytes(model.weights["model.safetensors"]) == weights
            assert (await storage.collect()).objects == 0
        assert (await storage.collect()).objects == 2
        with pytest.raises(NotStored):
            await storage.inspect(cid)
        text = await add(storage, b"cos\nsystem\n(S'true'\ntR.")
        with pytest.raises(UnsafeModelFile):
            await storage.inspect(text)
        with pytest.raises(UnsafeModelFile):
            async with storage.open_model(text):
                await asyncio.sleep(0)
        assert not (await storage.catalog.usage()).leased
