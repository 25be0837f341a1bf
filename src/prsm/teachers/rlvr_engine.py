"""Learning from verified answers: groups of samples, rewarded where exactly right, each compared with its own group.

GRPO (Shao et al. 2024, arXiv:2402.03300) with what DAPO found to matter (Yu et al. 2025, arXiv:2503.14476): an upper
clip that is wider than the lower, a mean over tokens, and no groups of which all are right or all are wrong. The
reward is 1 for an answer that is exactly right and properly ended, else 0. ``Rollouts`` is the source and
``objective`` the objective of the shared loop (``training/objective.py``).
"""

# torch is in the extra ``train`` and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import itertools
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import torch
from msgspec import Struct
from torch import Tensor, nn

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import END_ID, PAD_ID, is_readable, prompt_ids, read
from prsm.teachers.curriculum import Curriculum, CurriculumPlan, Standing, begun, chosen, observed
from prsm.teachers.networks.decoder import Decoder
from prsm.teachers.networks.sampling import Said, sample
from prsm.teachers.rlvr_plan import RlvrPlan, RlvrRecipe
from prsm.teachers.seams import Problem, Task
from prsm.teachers.tasks.held_out import is_held_out
from prsm.teachers.tasks.verifying import verified
from prsm.teachers.training.loop import train
from prsm.teachers.training.objective import Batch, Loss, Objective
from prsm.teachers.training.parallel import ALONE, Group
from prsm.teachers.training.run_folder import Ended

_TRIES: Final = 1_000
"""How many seeds are tried for a prompt that is not held out: of 20 prompts 19 are not."""


class Answered(Struct, frozen=True):
    """One answer: what was read and written, how likely each token was, and how much better it was than its group."""

    prompt: list[int]
    ids: list[int]
    log_probabilities: list[float]
    advantage: float
    learnt: bool = True


class Rollout(Struct, frozen=True):
    """The answers of one or more updates. ``missing`` is how many were to be had and did not differ; means over all."""

    answers: list[Answered]
    missing: int
    reward: float
    differing: float


class _State(Struct, frozen=True):
    drawn: int
    curriculum: Curriculum
    pending: list[Rollout]


def rewards(task: Task, problems: Sequence[Problem], said: Sequence[list[int]]) -> list[float]:
    """1 for each of the answers to a task's problems that is whole and exactly right, else 0."""
    written = [read(ids) for ids in said]
    whole = [index for index, each in enumerate(written) if each.is_whole]
    right = verified(task, [problems[index] for index in whole], [written[index].answer for index in whole])
    found = dict(zip(whole, right, strict=True))
    return [float(found.get(index, False)) for index in range(len(written))]


def advantages(rewards: Sequence[float], *, by_deviation: bool) -> list[float]:
    """Rewards of one group about their mean, in units of their deviation if asked; all 0 where none differs."""
    mean = sum(rewards) / len(rewards)
    apart = [each - mean for each in rewards]
    deviation = (sum(each * each for each in apart) / len(apart)) ** 0.5
    return [each / deviation for each in apart] if by_deviation and deviation else apart


def check_practised(task: Task, level: int, drawn: Sequence[Problem]) -> None:
    """Raises ConfigError where no problem of a level could be drawn, or one that a small teacher cannot read."""
    if not drawn:
        raise ConfigError(f"All prompts of level {level} of {task.name} are held out.", param="tasks")
    if not all(is_readable(problem.prompt) for problem in drawn):
        raise ConfigError(f"A prompt of {task.name} has characters that a small teacher cannot read.", param="tasks")


def improve(
    network: Decoder,
    tasks: Mapping[str, Task],
    recipe: RlvrRecipe,
    folder: Path,
    *,
    found: Mapping[str, Mapping[int, Standing]],
    reference: nn.Module | None = None,
    group: Group = ALONE,
    show: bool = False,
) -> Ended:
    """Let ``network`` learn ``tasks`` (by the recipe's names) in a run's ``folder``, from the gaps that were ``found``.

    Where nothing lacks, nothing is learnt. Raises what ``train`` raises, and KeyError for a task that is not there.
    """
    chosen_tasks = {name: tasks[name] for name in recipe.tasks}
    curriculum = begun(recipe.curriculum, recipe.tasks, found)
    if not curriculum:
        return Ended(state="done", reason="Every level is mastered: nothing lacks.", step=0)
    source = Rollouts(
        network, chosen_tasks, curriculum, recipe.curriculum, recipe.rlvr, seed=recipe.plan.seed, rank=group.rank
    )
    record = {"recipe": msgspec.to_builtins(recipe)}
    learnt = objective(recipe.rlvr, reference)
    return train(network, source, learnt, recipe.plan, folder, record=record, group=group, show=show)


class Rollouts:
    """Batches of verified answers of ``network`` as it is at the moment, on the problems that the curriculum chooses.

    Only prompts that are not held out are asked. Each process (``rank``) draws its own and keeps its own curriculum.
    """

    def __init__(
        self,
        network: Decoder,
        tasks: Mapping[str, Task],
        curriculum: Curriculum,
        curriculum_plan: CurriculumPlan,
        plan: RlvrPlan,
        *,
        seed: int,
        rank: int = 0,
    ) -> None:
        self._network, self._tasks, self._plan = network, tasks, plan
        self._curriculum_plan = curriculum_plan
        self._seed = f"{seed}/{rank}"
        self.curriculum = curriculum
        self._drawn = 0
        self._pending: list[Rollout] = []

    def draw(self) -> Batch:
        """The next minibatch; answers are drawn anew when all of the last rollout were given out."""
        if not self._pending:
            self._pending = _parts(self._rollout(), self._plan)
        return batch(self._pending.pop(0), next(self._network.parameters()).device)

    def state(self) -> dict[str, Any]:
        """How many draws there were, the curriculum, and the answers that were not given out yet."""
        return msgspec.to_builtins(_State(self._drawn, self.curriculum, self._pending), str_keys=True)

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from ``state``, with the network as it was then."""
        stood = msgspec.convert(state, _State, strict=False)  # keys of JSON are text
        self._drawn, self.curriculum, self._pending = stood.drawn, stood.curriculum, stood.pending

    def _rollout(self) -> Rollout:
        plan, groups, all_rewards, asked = self._plan, [], [], 0
        for _ in range(1 + plan.redraws):
            for group, rewarded in self._groups():
                all_rewards += rewarded
                asked += 1
                if len(set(rewarded)) > 1:
                    groups.append(group)
            if len(groups) >= plan.prompts:
                break
        differing = len(groups) / asked
        answers = [answer for group in groups[: plan.prompts] for answer in group]
        missing = plan.prompts * plan.group - len(answers)
        return Rollout(answers, missing, sum(all_rewards) / len(all_rewards), differing)

    def _groups(self) -> list[tuple[list[Answered], list[float]]]:
        """One draw of ``prompts`` groups, of which the curriculum learns how they went."""
        plan = self._plan
        self._drawn += 1
        draw = random.Random(f"{self._seed}/{self._drawn}")  # noqa: S311 - problems, not secrets
        asked = [self._problem(draw) for _ in range(plan.prompts)]
        read_first = [prompt_ids(problem.prompt) for problem in asked for _ in range(plan.group)]
        generator = torch.Generator(next(self._network.parameters()).device).manual_seed(draw.getrandbits(63))
        said = sample(
            self._network, read_first, max_tokens=plan.max_tokens, temperature=plan.temperature, generator=generator
        )
        asked_again = [problem for problem in asked for _ in range(plan.group)]
        rewarded = self._rewards(asked_again, [each.ids for each in said])
        groups: list[tuple[list[Answered], list[float]]] = []
        for index, problem in enumerate(asked):
            here = slice(index * plan.group, (index + 1) * plan.group)
            these, right = said[here], rewarded[here]
            self.curriculum = observed(
                self._curriculum_plan, self.curriculum, problem.task, problem.level, sum(right) / len(right)
            )
            groups.append((_answered(prompt_ids(problem.prompt), these, right, plan), right))
        return groups

    def _rewards(self, asked: Sequence[Problem], said: Sequence[list[int]]) -> list[float]:
        """Of each answer; a task's own all in one go."""
        found = [0.0] * len(asked)
        for name, task in self._tasks.items():
            own = [index for index, problem in enumerate(asked) if problem.task == name]
            rewarded = rewards(task, [asked[index] for index in own], [said[index] for index in own])
            for index, each in zip(own, rewarded, strict=True):
                found[index] = each
        return found

    def _problem(self, draw: random.Random) -> Problem:
        name, level = chosen(self._curriculum_plan, self.curriculum, draw.random())
        seed = draw.getrandbits(48)
        drawn = (self._tasks[name].generate(level, number) for number in range(seed, seed + _TRIES))
        practised = list(itertools.islice((each for each in drawn if not is_held_out(each.prompt)), 1))
        check_practised(self._tasks[name], level, practised)
        return practised[0]


def _answered(prompt: list[int], said: list[Said], rewards: list[float], plan: RlvrPlan) -> list[Answered]:
    better = advantages(rewards, by_deviation=plan.by_deviation)
    return [
        Answered(prompt, each.ids, each.log_probabilities, advantage, plan.overlong == "wrong" or END_ID in each.ids)
        for each, advantage in zip(said, better, strict=True)
    ]


def _parts(rollout: Rollout, plan: RlvrPlan) -> list[Rollout]:
    """A rollout in ``minibatches`` parts of whole groups that differ by at most one; none that has no answer."""
    groups = len(rollout.answers) // plan.group
    parts = min(plan.minibatches, max(groups, 1))
    cuts = [groups * part // parts * plan.group for part in range(parts + 1)]
    return [
        Rollout(rollout.answers[start:end], rollout.missing // parts, rollout.reward, rollout.differing)
        for start, end in itertools.pairwise(cuts)
    ]


def batch(rollout: Rollout, device: torch.device) -> Batch:
    """Its answers as rows padded on the right: ``ids`` (rows, tokens), and of each token but the first whether it is
    learnt (``said``) and its log-probability when it was drawn (``then``); ``advantage`` a row, the rest one figure.
    """
    rows = rollout.answers or [Answered([PAD_ID], [PAD_ID], [0.0], 0.0, learnt=False)]
    longest = max(len(row.prompt) + len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), PAD_ID)
    said = torch.zeros(len(rows), longest - 1)
    then = torch.zeros(len(rows), longest - 1)
    for index, row in enumerate(rows):
        start, end = len(row.prompt), len(row.prompt) + len(row.ids)
        ids[index, :end] = torch.tensor(row.prompt + row.ids)
        said[index, start - 1 : end - 1] = float(row.learnt)
        then[index, start - 1 : end - 1] = torch.tensor(row.log_probabilities)
    whole = 1 + rollout.missing / len(rows)
    absent = float(not rollout.answers)  # a row that stands for none counts, and weighs nothing
    figures = {"whole": whole, "absent": absent, "reward": rollout.reward, "differing": rollout.differing}
    made = {"ids": ids, "said": said, "then": then, "advantage": torch.tensor([row.advantage for row in rows])}
    return {
        name: tensor.to(device) for name, tensor in (made | {n: torch.tensor(v) for n, v in figures.items()}).items()
    }


def objective(plan: RlvrPlan, reference: nn.Module | None = None) -> Objective:
    """The clipped loss over the tokens of a batch of ``Rollouts``, with its distance to ``reference`` if ``kl`` is set.

    ``count`` is the number of tokens, those of missing answers guessed from the others. Reported are the mean reward
    and share of differing groups of the whole draw, entropy, share of clipped tokens, and the distance. Raises
    ValueError where ``kl`` is set without a reference.
    """
    if plan.kl and reference is None:
        raise ValueError("a distance to the reference needs a reference")

    def loss(network: nn.Module, drawn: Batch) -> Loss:
        ids, said = drawn["ids"], drawn["said"]
        scores = _log_softmax(network, ids, plan.temperature)
        now = _of_tokens(scores, ids)
        per_token, clipped = surrogate(now, drawn["then"], drawn["advantage"][:, None], plan)
        sums = {"entropy": -(scores.detach().exp() * scores.detach()).sum(-1), "clipped": clipped}
        if reference is not None and plan.kl:
            with torch.no_grad():
                known = _of_tokens(_log_softmax(reference, ids, plan.temperature), ids)
            apart = (known - now).exp() - (known - now) - 1  # the k3 estimator: unbiased, and never below 0
            per_token = per_token + plan.kl * apart
            sums["distance"] = apart.detach()
        count = (said.sum() + drawn["absent"]) * drawn["whole"]
        metrics = {name: (each * said).sum() * drawn["whole"] for name, each in sums.items()}
        metrics |= {name: drawn[name] * count for name in ("reward", "differing")}
        return Loss((per_token * said).sum(), count, metrics)

    return loss


def surrogate(now: Tensor, then: Tensor, advantage: Tensor, plan: RlvrPlan) -> tuple[Tensor, Tensor]:
    """Each token's loss, minus the smaller of the gains with clipped and free ratio, and 1 where the clip holds."""
    ratio = (now - then).exp()
    free = ratio * advantage
    held = ratio.clamp(1 - plan.clip_low, 1 + plan.clip_high) * advantage
    return -torch.minimum(free, held), (held < free).float().detach()


def _log_softmax(network: nn.Module, ids: Tensor, temperature: float) -> Tensor:
    """After each token but the last; padding stands on the right, where a causal network never looks."""
    return (network(ids, None)[:, :-1].float() / temperature).log_softmax(-1)


def _of_tokens(scores: Tensor, ids: Tensor) -> Tensor:
    return scores.gather(2, ids[:, 1:, None])[..., 0]
