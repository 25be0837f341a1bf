"""Model files from strangers, checked before any use: safetensors and GGUF pass by what their bytes are, nothing else.

A file's name decides nothing about weights. Nothing is unpickled, imported or run; of a file of any size only what
describes the weights is read, and ``ModelLimits`` bounds the time and memory that takes.
"""

from prsm.data_layer.formats.foreign_formats import RUNNING_PICKLE, disguise, foreign, kind_of, runs_as_pickle
from prsm.data_layer.formats.gguf_file import MAGIC, parse_gguf
from prsm.data_layer.formats.model_contents import (
    DEFAULT_LIMITS,
    FileBytes,
    ModelFile,
    ModelLimits,
    ModelSource,
    UnsafeModelFile,
)
from prsm.data_layer.formats.safetensors_file import parse_safetensors

HEAD_BYTES = 512
"""Enough to tell what a file is."""


def inspect_model_file(source: ModelSource, limits: ModelLimits = DEFAULT_LIMITS) -> ModelFile:
    """What the weight file at ``source`` holds.

    Raises UnsafeModelFile for anything but a whole and valid safetensors or GGUF file that is nothing else besides, and
    InvalidRequest when it cannot be opened. The answer is about the bytes as they were read: check what nobody can
    still write to.
    """
    with FileBytes(source) as file:
        if model := inspect_weights(file, limits):
            return model
        head = file.read(0, HEAD_BYTES)
        may_run = "pickle" in (foreign(head) or "pickle")  # an archive is told as such, whatever lies in it
        kind = RUNNING_PICKLE if may_run and runs_as_pickle(file) else kind_of(head)
    raise UnsafeModelFile(
        f"This is no model file that is taken here: it is {kind}.",
        remedy="Ask its publisher for safetensors or GGUF, or convert it on a machine that may run its code.",
    )


def inspect_weights(file: FileBytes, limits: ModelLimits) -> ModelFile | None:
    """``inspect_model_file`` of an open file; None where it does not even begin as weights."""
    head = file.read(0, HEAD_BYTES)
    if head.startswith(MAGIC):
        model = parse_gguf(file, limits)
    # Safetensors has no magic number, but a length, whose upper half is zero below 4 GB, and then a JSON object.
    elif head[4:9] == b"\0\0\0\0{":
        model = parse_safetensors(file, limits)
    else:
        return None
    if other := disguise(file):
        raise UnsafeModelFile(f"The file is valid {model.format}, but at the same time {other}.")
    return model
