"""Opens a back end by the name that recipes give it; only the one that is asked for is imported."""

from prsm.core.errors import Kind, PrsmError
from prsm.teachers.distillation.seams import Backend

_EXTRAS = {"torch": "train", "transformers": "train", "tensorflow": "tensorflow"}


class BackendMissing(PrsmError):
    """The libraries of a back end are not installed."""

    kind = Kind.UNAVAILABLE
    code = "backend_missing"


def open_backend(name: str) -> Backend:
    """The back end ``torch``, ``transformers`` or ``tensorflow``. Raises BackendMissing where it is not installed."""
    try:
        return _imported(name)
    except ImportError as error:
        raise BackendMissing(
            f"The back end {name} cannot be imported: {error}.",
            remedy=f"Install PRSM with the extra {_EXTRAS[name]}, for instance with `make train`.",
            param="backend",
        ) from error


def _imported(name: str) -> Backend:
    # Each library takes seconds and hundreds of MiB to import, and none of them is in the base install.
    match name:
        case "torch":
            from prsm.teachers.distillation.backends.torch_decoder import TorchDecoder

            return TorchDecoder()
        case "transformers":
            from prsm.teachers.distillation.backends.transformers_model import TransformersModel

            return TransformersModel()
        case "tensorflow":
            from prsm.teachers.distillation.backends.keras_decoder import KerasBackend

            return KerasBackend()
        case _:
            raise BackendMissing(f"There is no back end {name}.", param="backend")
