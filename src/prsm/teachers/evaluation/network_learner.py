"""A small network in torch as a learner: for evaluations while it trains. What answers requests is the runtime."""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from safetensors.torch import load_file

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import VOCABULARY, is_readable, prompt_ids, read
from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.networks.sampling import sample
from prsm.teachers.replies import Reply
from prsm.teachers.shape import read_config


class NetworkLearner:
    """Answers with a decoder over the teachers' alphabet; '' where it cannot read the prompt or did not end."""

    def __init__(self, network: Decoder, *, max_tokens: int, batch: int = 256, temperature: float = 1.0) -> None:
        """``batch`` prompts of about one length are answered together; ``temperature`` is of sampled answers."""
        if network.shape.vocabulary != len(VOCABULARY):
            raise ConfigError("The network's vocabulary is not the teachers' alphabet.", param="vocabulary")
        self._network = network
        self._max_tokens = max_tokens
        self._batch = batch
        self._temperature = temperature

    def answers(self, prompts: Sequence[str], *, seed: int | None = None) -> list[str]:
        """One answer a prompt: greedy without a seed."""
        return [reply.answer for reply in self.replies(prompts, seed=seed)]

    def replies(self, prompts: Sequence[str], *, seed: int | None = None) -> list[Reply]:
        """The same with the scratchpads, and each answer's share of its batch's seconds."""
        found = [Reply("", "", 0.0)] * len(prompts)
        room = self._network.shape.context_tokens - self._max_tokens - 1
        order = [row for row, prompt in enumerate(prompts) if is_readable(prompt) and len(prompt) <= room]
        order.sort(key=lambda row: len(prompts[row]))
        generator = None
        if seed is not None:
            generator = torch.Generator(next(self._network.parameters()).device).manual_seed(seed)
        for begin in range(0, len(order), self._batch):
            rows = order[begin : begin + self._batch]
            for row, reply in zip(rows, self._together([prompts[row] for row in rows], generator), strict=True):
                found[row] = reply
        return found

    def _together(self, prompts: list[str], generator: torch.Generator | None) -> list[Reply]:
        began_s = time.perf_counter()
        said = sample(
            self._network,
            [prompt_ids(prompt) for prompt in prompts],
            max_tokens=self._max_tokens,
            temperature=self._temperature if generator is not None else 0.0,
            generator=generator,
        )
        each_s = (time.perf_counter() - began_s) / len(prompts)
        written = [read(each.ids) for each in said]
        return [
            Reply(each.answer if each.is_whole else "", f"{each.scratchpad}\n{each.answer}", each_s) for each in written
        ]


def load_network(folder: Path) -> Decoder:
    """The decoder of a teacher's folder. Raises ConfigError where config and weights are not one."""
    try:
        config = msgspec.json.decode((folder / "config.json").read_bytes(), type=dict)
        network = Decoder(read_config(config))
        network.load(load_file(folder / "model.safetensors"))
    except (OSError, msgspec.MsgspecError, KeyError, RuntimeError) as error:
        raise ConfigError(f"{folder} is not a teacher's folder: {error}.") from error
    return network.eval()
