"""Tokens per CPU-second of the torch-free runtime beside transformers and a plain torch loop, in one interleaved run.

``python -m bench.teacher_inference [--rounds 5] [--train-seconds 120] [--prompts 200] [--seed 0] [--sizes small,...]``:
one thread, greedy, batch 1, KV cache; then whether the tokens are the same, batches for evaluations, and what eight
bits cost a teacher that was trained here. Needs the extra ``train``.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}  # before numpy and torch are loaded

import argparse
import random
import shutil
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import transformers

from bench.sums_teacher import question, train
from prsm.teachers.alphabet import END_ID, VOCABULARY, prompt_ids
from prsm.teachers.export import agreement, compared, export_int8, in_eight_bits
from prsm.teachers.networks.decoder import Cache, Decoder
from prsm.teachers.networks.sampling import sample
from prsm.teachers.runtime.engine import Engine
from prsm.teachers.runtime.folder import ModelFolder
from prsm.teachers.runtime.int8 import Matrix
from prsm.teachers.runtime.learner import EngineLearner
from prsm.teachers.shape import Shape

OUT = Path(__file__).parent / "out" / "sums_teacher"
SIZES = {
    "small": {"layers": 3, "width": 96, "heads": 3, "kv_heads": 3, "hidden": 256},
    "scholar": {"layers": 6, "width": 384, "heads": 6, "kv_heads": 6, "hidden": 1024},
    "medium": {"layers": 4, "width": 256, "heads": 8, "kv_heads": 4, "hidden": 640},
    "large": {"layers": 8, "width": 512, "heads": 8, "kv_heads": 4, "hidden": 1408},
}
TOKENS = {"small": 400, "scholar": 100, "medium": 200, "large": 60}
TIE = 1e-3
"""Where the peer's two best scores are so near, either token counts as the same, and the rest is not compared."""
Write = Callable[[list[int], int], list[int]]


def shape_of(size: str) -> Shape:
    """One of the sizes."""
    return Shape(**SIZES[size], vocabulary=len(VOCABULARY), context_tokens=512)


def peer_of(network: Decoder) -> Any:
    """transformers' model with the same weights."""
    peer = transformers.LlamaForCausalLM(transformers.LlamaConfig(**network.shape.config())).eval()
    peer.load_state_dict(network.weights() | {"lm_head.weight": network.lm_head.weight})
    peer.generation_config.eos_token_id = None
    return peer


def generated(peer: Any, prompt: list[int], tokens: int, **options: Any) -> Any:
    """``generate``, greedy over its cache."""
    ids = torch.tensor([prompt])
    return peer.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, use_cache=True, **options
    )


@torch.no_grad()
def looped(network: Decoder, prompt: list[int], tokens: int) -> list[int]:
    """The plain loop over the project's own network."""
    cache: Cache = []
    ids, written = torch.tensor([prompt]), list[int]()
    for _ in range(tokens):
        written.append(int(network(ids, cache=cache)[0, -1].argmax()))
        ids = torch.tensor([written[-1:]])
    return written


def speeds(ways: dict[str, Callable[[], int]], rounds: int) -> dict[str, list[float]]:
    """Tokens per CPU-second of each way, round by round, each once before."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, way in ways.items():
            begun = time.process_time()
            tokens = way()
            if number:
                found[name].append(tokens / (time.process_time() - begun))
    return found


def show(title: str, found: dict[str, list[float]], against: str) -> None:
    """A line a way: its median, and the median of its ratios to one of them within a round."""
    print(title)
    for name, rates in found.items():
        ratio = median(rate / other for rate, other in zip(rates, found[against], strict=True))
        print(f"  {name:24s} {median(rates):9,.0f} tokens/CPU-s  {ratio:6.2f} x {against}")


def same_tokens(engine: Engine, peer: Any, prompts: Sequence[list[int]], tokens: int) -> str:
    """How many prompts are answered by the same tokens as the peer's."""
    same = ties = 0
    for prompt in prompts:
        ours = list(engine.write(prompt, max_tokens=tokens, ends=()))
        output = generated(peer, prompt, tokens, output_logits=True, return_dict_in_generate=True)
        theirs = output.sequences[0, len(prompt) :].tolist()
        if ours == theirs:
            same += 1
            continue
        at = next(place for place in range(tokens) if ours[place] != theirs[place])
        scores = output.logits[at][0]
        ties += bool(scores[theirs[at]] - scores[ours[at]] < TIE)
    return f"  {same} of {len(prompts)} prompts x {tokens} tokens the same as generate, {ties} differ at a tie"


def measure(size: str, network: Decoder, rounds: int, count: int, seed: int) -> None:
    """Everything about one size."""
    weights: dict[str, Matrix] = {name: each.detach().numpy() for name, each in network.weights().items()}
    engines = {
        "ours float32": Engine(network.shape, weights),
        "ours int8": Engine(network.shape, in_eight_bits(weights)),
    }
    peer, tokens = peer_of(network), TOKENS[size]
    chance = np.random.default_rng(seed)
    prompts = [chance.integers(4, len(VOCABULARY), chance.integers(5, 25)).tolist() for _ in range(count)]
    first = prompts[0]
    ways: dict[str, Callable[[], int]] = {
        name: lambda engine=engine: len(list(islice(engine.write(first, max_tokens=tokens, ends=()), tokens)))
        for name, engine in engines.items()
    }
    ways["torch loop"] = lambda: len(looped(network, first, tokens))
    ways["generate"] = lambda: generated(peer, first, tokens).shape[1] - len(first)
    title = f"{size}: {network.shape.parameters():,} parameters, batch 1, {tokens} tokens"
    show(title, speeds(ways, rounds), "generate")
    print(same_tokens(engines["ours float32"], peer, prompts, 16))
    ways = {
        name: lambda engine=engine: sum(map(len, engine.write_all(prompts[:64], max_tokens=40, ends={END_ID})))
        for name, engine in engines.items()
    }
    ways["networks/sampling.py"] = lambda: sum(len(said.ids) for said in sample(network, prompts[:64], max_tokens=40))
    show(f"{size}: batch 64, up to 40 tokens", speeds(ways, rounds), "networks/sampling.py")


def costs(folder: Path, seed: int) -> None:
    """What eight bits save and cost the teacher in ``folder``."""
    model = ModelFolder.open(folder)
    eight = folder.with_name(folder.name + "-int8")
    shutil.rmtree(eight, ignore_errors=True)
    target = export_int8(folder, eight)
    chance = random.Random(seed)
    asked = [question(chance, held_out=True) for _ in range(1000)]
    print("eight bits:", compared(model, target, [prompt for prompt, _ in asked], 16))
    for name, each in (("float32", model), ("int8", target)):
        answers = EngineLearner(Engine(each.shape, each.weights()), 16).answers([prompt for prompt, _ in asked])
        right = sum(answer == said for answer, (_, said) in zip(answers, asked, strict=True))
        print(f"  {name}: {right} of {len(asked)} held-out sums right")
    weights = model.weights()
    exact = Engine(model.shape, weights)
    for run in (32, 64, 128, 1 << 30):
        rounded = {name: _rounded(np.asarray(matrix), run) for name, matrix in weights.items()}
        same = agreement(exact, Engine(model.shape, rounded), [prompt_ids(prompt) for prompt, _ in asked[:300]], 16)
        print(f"  weights rounded, runs of {run if run < 1 << 30 else 'a row'}: {same[0]:.3%} of the tokens the same")


def _rounded(matrix: np.ndarray, run: int) -> np.ndarray:
    """What is left of a matrix when its weights alone become eight bits, so many to a scale."""
    if matrix.ndim < 2:
        return matrix
    out = matrix.copy()
    for start in range(0, matrix.shape[1], run):
        part = out[:, start : start + run]
        scales = np.abs(part).max(axis=1, keepdims=True) / 127
        part[...] = np.rint(part / np.where(scales > 0, scales, 1)) * scales
    return out


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--train-seconds", type=float, default=120, help="of CPU; 0: no training, random weights")
    parser.add_argument("--prompts", type=int, default=200, help="compared token by token with generate; at least 64")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sizes", default="small,medium,scholar,large")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    trained = None
    if asked.train_seconds:
        trained = train(shape_of("small"), OUT, cpu_seconds=asked.train_seconds, seed=asked.seed)
        costs(OUT, asked.seed)
    for size in asked.sizes.split(","):
        torch.manual_seed(asked.seed)
        network = trained if trained and size == "small" else Decoder(shape_of(size)).eval()
        measure(size, network, asked.rounds, asked.prompts, asked.seed)


if __name__ == "__main__":
    main()
