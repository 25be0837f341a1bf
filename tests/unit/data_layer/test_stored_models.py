"""Models out of the store: what they hold is told, what is unsafe is refused, and only what was inspected is mapped."""

import gc
import io
import os
import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load, save

from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.dag_pb import Link
from prsm.data_layer.codec.unixfs_dag import PROFILES
from prsm.data_layer.formats.folder_files import AsideKind
from prsm.data_layer.formats.model_contents import DEFAULT_LIMITS, ModelFile, ModelFormat, UnsafeModelFile
from prsm.data_layer.formats.model_folder import ModelFolder
from prsm.data_layer.store.ingest import Intake, ingest
from prsm.data_layer.store.object_files import NotStored, ObjectFiles
from prsm.data_layer.stored_models import inspect_stored, open_stored_model, weight_sets

PROFILE = PROFILES["kubo-v1"]
WEIGHTS = save({"layer": np.arange(100_000, dtype=np.float32)})


@pytest.fixture
def files(tmp_path: Path) -> ObjectFiles:
    return ObjectFiles(tmp_path, keep_free_bytes=0)


def take_in(files: ObjectFiles, data: bytes) -> Cid:
    return ingest(io.BytesIO(data).readinto, files, PROFILE).cid


def take_in_folder(files: ObjectFiles, tree: dict[str, bytes]) -> Cid:
    with Intake(files, PROFILE) as intake:
        return intake.tree((path, io.BytesIO(data).readinto) for path, data in tree.items())[-1].cid


def test_a_weight_file_is_told_and_mapped(files: ObjectFiles) -> None:
    cid = take_in(files, WEIGHTS)
    told = inspect_stored(files, cid)
    assert isinstance(told, ModelFile)
    assert (told.format, told.parameters) == (ModelFormat.SAFETENSORS, 100_000)
    with open_stored_model(files, cid) as model:
        assert model.contents == told
        assert bytes(model.weights[""]) == WEIGHTS
        assert not files.remove(cid), "it is in use"
    gc.collect()
    assert files.remove(cid)


def test_a_folder_is_told_and_its_weights_are_mapped_by_path(files: ObjectFiles) -> None:
    tree = {"a/model.safetensors": WEIGHTS, "b/model.safetensors": WEIGHTS, "config.json": b"{}"}
    cid = take_in_folder(files, tree)
    told = inspect_stored(files, cid)
    assert isinstance(told, ModelFolder)
    assert told.texts == {"config.json": 2}
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    with open_stored_model(files, cid) as model:
        assert set(model.weights) == {"a/model.safetensors", "b/model.safetensors"}
        assert all(load(bytes(weights))["layer"][99] == 99 for weights in model.weights.values())
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before


@pytest.mark.parametrize("name", ["vocab.txt", "model.safetensors", "config.json", "tokenizer.model", "logo.png"])
def test_what_is_unsafe_is_refused_with_its_reason_and_nothing_is_mapped(files: ObjectFiles, name: str) -> None:
    bad = pickle.dumps(os.getcwd)
    for cid in (take_in(files, bad), take_in_folder(files, {"weights.safetensors": WEIGHTS, f"sub/{name}": bad})):
        with pytest.raises(UnsafeModelFile, match=r"pickle|text"):
            inspect_stored(files, cid)
        with pytest.raises(UnsafeModelFile), open_stored_model(files, cid):
            raise AssertionError("it was opened")


def test_a_pickle_beside_the_weights_is_told_and_never_mapped(files: ObjectFiles) -> None:
    cid = take_in_folder(files, {"model.safetensors": WEIGHTS, "pytorch_model.bin": pickle.dumps(os.getcwd)})
    with open_stored_model(files, cid) as model:
        assert set(model.weights) == {"model.safetensors"}
        assert isinstance(model.contents, ModelFolder)
        assert model.contents.set_aside["pytorch_model.bin"].kind is AsideKind.PICKLE


def test_a_file_and_a_folder_tell_their_models_alike(files: ObjectFiles) -> None:
    (alone,) = weight_sets(inspect_stored(files, take_in(files, WEIGHTS)))
    (within,) = weight_sets(inspect_stored(files, take_in_folder(files, {"a.safetensors": WEIGHTS})))
    assert replace(within, files=("",)) == alone
    assert (alone.parameters, alone.bytes_by_dtype) == (100_000, {"F32": 400_000})


def test_a_wide_folder_is_refused_before_its_entries_are_looked_at(files: ObjectFiles) -> None:
    cid = take_in_folder(files, {f"{number}/{part}.txt": b"a" for number in range(2) for part in range(60)})
    with pytest.raises(UnsafeModelFile, match="more than 50 entries"):
        inspect_stored(files, cid, replace(DEFAULT_LIMITS, max_files=50))


def test_what_is_not_here_or_only_in_part_is_not_stored(files: ObjectFiles) -> None:
    with pytest.raises(NotStored):
        inspect_stored(files, Cid.of(Codec.RAW, b"nowhere"))
    cid = take_in_folder(files, {"model.safetensors": WEIGHTS, "readme.md": b"read me"})
    files.remove(Cid.of(Codec.RAW, b"read me"))
    with pytest.raises(NotStored):
        inspect_stored(files, cid)


def test_folders_that_repeat_without_end_are_refused(files: ObjectFiles) -> None:
    with Intake(files, PROFILE) as intake:
        below = intake.tree([("", None)])[-1]
        for _ in range(40):
            below = intake.directory([Link(below.cid, name, below.dag_bytes) for name in "ab"])
    with pytest.raises(UnsafeModelFile, match="more than 50 folders"):
        inspect_stored(files, below.cid, replace(DEFAULT_LIMITS, max_files=50))
