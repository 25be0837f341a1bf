"""What a run needs to go on bit-equal, as safetensors and JSON: weights, optimizers, generators, place in the data.

Never pickle. Sharded networks are written by ``torch.distributed.checkpoint`` as safetensors, a file a process, and are
read back over any number of processes; what a process alone knows lies in files of its own.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import json
import random
import warnings
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from prsm.teachers.training.optimizers import Optimizers, empty_state, optimizer_tensors
from prsm.teachers.training.run_folder import STATE_FILE

_NETWORK, _OPTIMIZER = "network/", "optimizer/"
_TENSORS: Final = "tensors"


def save_tensors(folder: Path, network: nn.Module, optimizers: Optimizers, *, rank: int, sharded: bool) -> None:
    """Write weights and optimizers: all processes their shards, or the first one everything."""
    named = _prefixed(_NETWORK, trained_tensors(network))
    named |= _prefixed(_OPTIMIZER, optimizer_tensors(network, optimizers))
    into = folder / _TENSORS
    if sharded:
        save(dict(named), storage_writer=HuggingFaceStorageWriter(str(into), save_distributed=True))
    elif rank == 0:
        into.mkdir()
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}, into / "all.safetensors"
        )


def load_tensors(folder: Path, network: nn.Module, optimizers: Optimizers, *, world: int) -> None:
    """Read weights and optimizers back in place, however many processes wrote them or read them."""
    sizes = _sizes(folder / _TENSORS)
    state = {name.removeprefix(_OPTIMIZER): size for name, size in sizes.items() if name.startswith(_OPTIMIZER)}
    named = _prefixed(_NETWORK, trained_tensors(network))
    named |= _prefixed(_OPTIMIZER, empty_state(network, optimizers, state))
    reader = HuggingFaceStorageReader(str(folder / _TENSORS))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # of one process that is what is meant
        load(dict(named), storage_reader=reader, no_dist=world == 1)


def trained_tensors(network: nn.Module) -> dict[str, Tensor]:
    """Trainable parameters, each once, and buffers: what is frozen comes with the network."""
    kept = network.state_dict().keys()
    buffers = {name: buffer for name, buffer in network.named_buffers() if name in kept}
    return {name: p for name, p in network.named_parameters() if p.requires_grad} | buffers


def save_process(folder: Path, rank: int, source: dict[str, Any]) -> None:
    """Write what this process alone knows: the source's state and the generators."""
    version, internal, gauss = random.getstate()
    known = {"source": source, "python": [version, list(internal), gauss]}
    (folder / f"process-{rank}.json").write_text(json.dumps(known), encoding="utf-8")
    generators = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        generators["cuda"] = torch.cuda.get_rng_state()
    save_file(generators, folder / f"process-{rank}.safetensors")


def load_process(folder: Path, rank: int) -> dict[str, Any]:
    """Put this process's generators back and give the source's state.

    A process that was not there before keeps its generators and goes on with the first one's source.
    """
    path = folder / f"process-{rank}.json"
    if not path.exists():
        return json.loads((folder / "process-0.json").read_text(encoding="utf-8"))["source"]
    known = json.loads(path.read_text(encoding="utf-8"))
    version, internal, gauss = known["python"]
    random.setstate((version, tuple(internal), gauss))
    generators = load_file(path.with_suffix(".safetensors"))
    torch.set_rng_state(generators["cpu"])
    if "cuda" in generators and torch.cuda.is_available():
        torch.cuda.set_rng_state(generators["cuda"])
    return known["source"]


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write where the run stands; it is written last."""
    (folder / STATE_FILE).write_text(json.dumps(state), encoding="utf-8")


def load_state(folder: Path) -> dict[str, Any]:
    """Where the run stood."""
    return json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _sizes(folder: Path) -> dict[str, tuple[int, ...]]:
    """The whole size of each tensor, from the headers of all files: shards are parts along the first dimension."""
    sizes: dict[str, tuple[int, ...]] = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 - it is no dict
                size = tuple(file.get_slice(name).get_shape())
                known = sizes.get(name)
                sizes[name] = (known[0] + size[0], *known[1:]) if known else size
    return sizes
