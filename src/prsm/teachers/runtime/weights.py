"""Reads a weights file: safetensors in float32, float16, bfloat16 or eight bits, checked before the first use.

Names, shapes, kinds and finiteness must be those that the shape asks for; nothing is unpickled.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import safetensors
from safetensors import SafetensorError
from safetensors.numpy import save

from prsm.core.errors import ConfigError
from prsm.teachers.runtime.int8 import RUN, Array, Int8Matrix, Matrix, runs_of
from prsm.teachers.shape import Shape

SCALE: Final = "_scale"
"""Stands behind the name of an eight-bit matrix where its scales are."""
INT8_CONFIG: Final = {"quant_method": "prsm-int8", "run": RUN}
"""``quantization_config`` of an eight-bit folder: other programs refuse it instead of reading it wrongly."""
_REMEDY: Final = "Export the teacher again, or fetch its folder again from where it was published."
_safetensors: Any = safetensors  # its stub gives this function no types
_Stored = Mapping[str, Any]


def read_weights(data: bytes, shape: Shape, *, int8: bool) -> dict[str, Matrix]:
    """The tensors of a weights file: gains and matrices in float32, or with ``int8`` the matrices in eight bits.

    Raises ConfigError on anything but exactly what ``shape`` asks for.
    """
    try:
        stored: dict[str, _Stored] = dict(_safetensors.deserialize(data))
    except SafetensorError as error:
        raise ConfigError(f"The weights are not a valid safetensors file ({error}).", remedy=_REMEDY) from None
    sizes = shape.tensors()
    scales = {name + SCALE: (size[0], runs_of(size[1])) for name, size in sizes.items() if int8 and len(size) > 1}
    if stored.keys() != sizes.keys() | scales.keys():
        wrong = sorted(stored.keys() ^ (sizes.keys() | scales.keys()))[0]
        raise ConfigError(f"The weights and their config.json disagree about the tensor {wrong}.", remedy=_REMEDY)
    read: dict[str, Matrix] = {}
    for name, size in sizes.items():
        if name + SCALE in scales:
            values = _checked(name, stored[name], size, ("I8",))
            parts = _floats(name + SCALE, stored[name + SCALE], scales[name + SCALE])
            read[name] = Int8Matrix(np.frombuffer(values, np.int8).reshape(size), parts)
        else:
            read[name] = _floats(name, stored[name], size)
    return read


def written(weights: Mapping[str, Matrix]) -> bytes:
    """The weights file of these tensors."""
    flat: dict[str, Any] = {}
    for name, matrix in weights.items():
        if isinstance(matrix, Int8Matrix):
            flat |= {name: matrix.values, name + SCALE: matrix.scales}
        else:
            flat[name] = matrix
    return save(flat, {"format": "pt"})


def _floats(name: str, stored: _Stored, size: tuple[int, ...]) -> Array:
    data = _checked(name, stored, size, ("F32", "F16", "BF16"))
    if stored["dtype"] == "BF16":  # the upper half of a float32
        read = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        read = np.frombuffer(data, "<f4" if stored["dtype"] == "F32" else "<f2").astype(np.float32)
    if not np.isfinite(read).all():
        raise ConfigError(f"The tensor {name} holds values that are not finite.", remedy=_REMEDY)
    return read.reshape(size)


def _checked(name: str, stored: _Stored, size: tuple[int, ...], kinds: tuple[str, ...]) -> bytes:
    if tuple(stored["shape"]) != size or stored["dtype"] not in kinds:
        raise ConfigError(
            f"The tensor {name} is {stored['dtype']} {tuple(stored['shape'])}, not {' or '.join(kinds)} {size}.",
            remedy=_REMEDY,
        )
    return stored["data"]
