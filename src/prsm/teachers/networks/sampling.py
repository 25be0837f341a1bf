"""Many answers at once from a small network: left-padded prompts, one cache, sequences that have ended taken out.

For training and its evaluations; what answers requests is the torch-free runtime.
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from prsm.teachers.alphabet import END_ID, PAD_ID
from prsm.teachers.networks.decoder import Cache, Decoder


@dataclass(frozen=True, slots=True)
class Said:
    """What was written after one prompt, ``<end>`` included where it came, and the log-probability of each token."""

    ids: list[int]
    log_probabilities: list[float]


@torch.no_grad()
def sample(
    network: Decoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
) -> list[Said]:
    """Write after each prompt until ``<end>`` or ``max_tokens``; greedy where ``temperature`` is 0.

    Log-probabilities are those of the distribution that was drawn from (at temperature 1 where greedy). Prompts of
    about one length together are cheapest. Raises ValueError for an empty prompt.
    """
    if not all(prompts):
        raise ValueError("a prompt has at least one token")
    device = next(network.parameters()).device
    ids, mask = _left_padded(prompts, device)
    here = (mask.cumsum(1) - 1).clamp(min=0)
    said = [Said([], []) for _ in prompts]
    rows = list(range(len(prompts)))
    cache: Cache = []
    for _ in range(max_tokens):
        scores = network(ids, mask, positions=here, cache=cache)[:, -1].float()
        likely = (scores / temperature if temperature else scores).log_softmax(-1)
        chosen = torch.multinomial(likely.exp(), 1, generator=generator)[:, 0] if temperature else likely.argmax(-1)
        surely = likely.gather(1, chosen[:, None])[:, 0]
        for row, token, log_probability in zip(rows, chosen.tolist(), surely.tolist(), strict=True):
            said[row].ids.append(token)
            said[row].log_probabilities.append(log_probability)
        going = chosen != END_ID
        if not going.any():
            break
        here = here[:, -1:] + 1
        ids, mask = chosen[:, None], torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        if going.sum() < 0.75 * len(rows):  # taking rows out copies the cache: only where it spares enough
            rows = [row for row, goes in zip(rows, going.tolist(), strict=True) if goes]
            ids, mask, here = ids[going], mask[going], here[going]
            cache = [(keys[going], values[going]) for keys, values in cache]
    return [_until_end(each) for each in said]


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    ids = torch.full((len(prompts), longest), PAD_ID)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
    lengths = torch.tensor([len(prompt) for prompt in prompts])
    mask = torch.arange(longest)[None, :] >= longest - lengths[:, None]
    return ids.to(device), mask.to(device)


def _until_end(said: Said) -> Said:
    """Sequences that had ended and were not taken out yet went on writing; that is not theirs."""
    if END_ID not in said.ids:
        return said
    end = said.ids.index(END_ID) + 1
    return Said(said.ids[:end], said.log_probabilities[:end])
