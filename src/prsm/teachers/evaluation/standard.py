"""Standard tasks by lm-eval (extra ``train``), on data that lie here: its prompts, its filters, its metrics.

The library is called through its own API; nothing is downloaded. Each sample becomes an outcome like any other, so that
standard tasks are compared prompt by prompt too.
"""

# torch and lm-eval are in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import glob
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import lm_eval.tasks
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import END_ID
from prsm.teachers.alphabet import spelt as spelt_by_teachers
from prsm.teachers.evaluation.outcomes import ANSWER_CHARACTERS, Outcome
from prsm.teachers.evaluation.plan import StandardPart
from prsm.teachers.seams import Learner


class LearnerLM(LM):
    """A learner as lm-eval's model: it writes, and knows no likelihoods."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self._learner = learner

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """Greedy answers, each cut at the first of its task's stopping texts."""
        asked = _arguments(requests)
        answers = self._learner.answers([prompt for prompt, _ in asked])
        return [_cut(answer, rules.get("until", [])) for answer, (_, rules) in zip(answers, asked, strict=True)]

    def loglikelihood(self, requests: list[Instance]) -> NoReturn:
        """Refused: ConfigError."""
        raise ConfigError("This task needs likelihoods, which only a network here can give.")

    loglikelihood_rolling = loglikelihood


class NetworkLM(LearnerLM):
    """A network as lm-eval's model, with likelihoods; ``network(ids)`` gives logits (batch, tokens, vocabulary).

    ``spelt`` gives a text's tokens; ``first`` stands before a text that nothing precedes. A character without a token
    is a ConfigError.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        learner: Learner,
        *,
        spelt: Callable[[str], list[int]] = spelt_by_teachers,
        first: int = END_ID,
        batch: int = 64,
    ) -> None:
        super().__init__(learner)
        self._network = network
        self._spelt = spelt
        self._first = first
        self._batch = batch

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """The log-probability of each continuation after its context, and whether greedy decoding writes it."""
        pairs = [([self._first, *self._tokens(one)], self._tokens(other)) for one, other in _arguments(requests)]
        found: list[tuple[float, bool]] = []
        for begin in range(0, len(pairs), self._batch):
            found += self._likelihoods(pairs[begin : begin + self._batch])
        return found

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """The log-probability of each whole text."""
        pairs = [([self._first], self._tokens(text)) for (text,) in _arguments(requests)]
        return [self._likelihoods([pair])[0][0] for pair in pairs]

    def _tokens(self, text: str) -> list[int]:
        try:
            return self._spelt(text)
        except KeyError as error:
            raise ConfigError(f"The network has no token for {error.args[0]!r}.") from error

    @torch.no_grad()
    def _likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[tuple[float, bool]]:
        device = next(self._network.parameters()).device
        longest = max(len(context) + len(said) for context, said in pairs)
        ids = torch.zeros(len(pairs), longest, dtype=torch.long)  # causal: what is padded behind changes nothing before
        for row, (context, said) in enumerate(pairs):
            ids[row, : len(context) + len(said)] = torch.tensor(context + said)
        likely = self._network(ids.to(device)).float().log_softmax(-1).cpu()
        found: list[tuple[float, bool]] = []
        for row, (context, said) in enumerate(pairs):
            here = likely[row, len(context) - 1 : len(context) + len(said) - 1]
            wanted = torch.tensor(said, dtype=torch.long)
            greedy = bool((here.argmax(-1) == wanted).all())
            found.append((float(here.gather(1, wanted[:, None]).sum()), greedy))
        return found


def standard_outcomes(model: LM, parts: Sequence[StandardPart], data: Path) -> list[Outcome]:
    """Every sample of the parts' tasks as an outcome of level 0; right where its metric is 1.

    Raises ConfigError where a task's data are not below ``data`` or it has no such metric.
    """
    return [outcome for part in parts for outcome in _of_part(model, part, data)]


def _of_part(model: LM, part: StandardPart, data: Path) -> list[Outcome]:
    files = {split: str((data / path).resolve()) for split, path in part.files.items()}
    missing = [path for path in files.values() if not Path(path).is_file()]
    if missing:
        raise ConfigError(f"The data of {part.name} are not here: {missing[0]}.", param=part.name)
    # JSON is YAML: the library's own task, its data exchanged for ours, and no index of thousands of others.
    config = {"include": str(_library_file(part.name)), "task": part.name, "dataset_path": "json", "dataset_name": None}
    with TemporaryDirectory() as folder:
        named = Path(folder) / f"{part.name}.yaml"
        named.write_text(json.dumps({**config, "dataset_kwargs": {"data_files": files}}), encoding="utf-8")
        tasks = TaskManager(include_path=folder, include_defaults=False)
        run: Any = simple_evaluate  # a decorator hides its parameters
        result = run(
            model=model,
            tasks=[part.name],
            num_fewshot=part.shots,
            limit=part.limit,
            task_manager=tasks,
            bootstrap_iters=0,
            log_samples=True,
        )
    samples = [sample for sample in result["samples"][part.name] if sample["filter"] == part.filter]
    if not samples or part.metric not in samples[0]:
        raise ConfigError(f"{part.name} has no metric {part.metric!r} of filter {part.filter!r}.", param=part.name)
    return [
        Outcome(
            task=part.name,
            level=0,
            prompt=sample["doc_hash"],
            right=float(sample[part.metric]) == 1.0,
            seconds=0.0,
            answer=str(sample["filtered_resps"][0])[:ANSWER_CHARACTERS],
        )
        for sample in samples
    ]


def _library_file(name: str) -> Path:
    found = sorted(Path(lm_eval.tasks.__file__).parent.rglob(f"{glob.escape(name)}.yaml"))
    if not found:
        raise ConfigError(f"lm-eval has no file {name}.yaml.", param=name)
    return found[0]


def _arguments(requests: Sequence[Instance]) -> list[Any]:
    return [request.args for request in requests]


def _cut(answer: str, until: Sequence[str]) -> str:
    for stop in until:
        answer = answer.partition(stop)[0]
    return answer
