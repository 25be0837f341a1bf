"""Learning from verified answers: the loss beside a plain computation and TRL's, and what is drawn and dropped."""

import copy
import json
import math
import random
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from prsm.core.errors import ConfigError  # noqa: E402 - after the skip
from prsm.teachers.alphabet import answer_ids, prompt_ids, spelt  # noqa: E402 - after the skip
from prsm.teachers.curriculum import CurriculumPlan, Practice, Standing  # noqa: E402 - after the skip
from prsm.teachers.networks.decoder import Decoder  # noqa: E402 - needs torch
from prsm.teachers.rlvr_engine import (  # noqa: E402 - needs torch
    Answered,
    Rollout,
    Rollouts,
    advantages,
    batch,
    improve,
    objective,
    rewards,
)
from prsm.teachers.rlvr_plan import RlvrPlan, read_rlvr_recipe  # noqa: E402 - after the skip
from prsm.teachers.seams import Problem  # noqa: E402 - after the skip
from prsm.teachers.tasks.held_out import is_held_out  # noqa: E402 - after the skip
from prsm.teachers.tasks.registry import task  # noqa: E402 - after the skip
from prsm.teachers.training.language import next_token  # noqa: E402 - needs torch
from prsm.teachers.training.recipe import Tasks, read_recipe  # noqa: E402 - after the skip
from prsm.teachers.training.small_teacher import fresh_teacher  # noqa: E402 - needs torch
from prsm.teachers.training.sources import Pair, padded  # noqa: E402 - needs torch

SIZES = {"layers": 1, "width": 32, "heads": 2, "kv_heads": 2, "hidden": 32, "context_tokens": 32}
CPU = torch.device("cpu")


class Letter:
    """Any answer that begins with a letter or a digit is right."""

    name, levels = "letter", 2

    def generate(self, level: int, seed: int) -> Problem:
        return Problem(self.name, level, f"{level}{seed % 997}", "a")

    def verify(self, problem: Problem, answer: str) -> bool:
        return answer[:1] in set("abcdefghijklmnopqrstuvwxyz0123456789")


def _half_right(drawn: random.Random) -> Pair:
    said = answer_ids("." * drawn.randrange(3), drawn.choice("abc123!?+-/*"))
    return Pair(prompt_ids(f"{drawn.randrange(2)}{drawn.randrange(997)}"), said)


@pytest.fixture(scope="module")
def taught() -> Decoder:
    """One that writes whole answers, about half of them right."""
    made, drawn = fresh_teacher(5, **SIZES), random.Random(5)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for _ in range(120):
        loss = next_token(made, padded([_half_right(drawn) for _ in range(32)]))
        optimizer.zero_grad()
        (loss.total / loss.count).backward()
        optimizer.step()
    return made


@pytest.fixture
def network(taught: Decoder) -> Decoder:
    """One of its own for each test."""
    taught.zero_grad()
    return copy.deepcopy(taught)


def _rollout(drawn: random.Random, rows: int = 6) -> Rollout:
    def tokens(least: int) -> list[int]:
        return [drawn.randrange(4, 100) for _ in range(drawn.randint(least, 7))]

    answers = []
    for row in range(rows):
        ids = tokens(1)
        likely = [drawn.uniform(-6, -3) for _ in ids]
        answers.append(Answered(tokens(2), ids, likely, drawn.uniform(-2, 2), learnt=row != 1))
    return Rollout(answers, 2, 0.5, 0.25)


def _plainly(network: Decoder, rollout: Rollout, plan: RlvrPlan, reference: Decoder | None) -> tuple[float, int]:
    """The loss as the papers write it, one answer and one token at a time."""
    total, count = 0.0, 0
    for answer in rollout.answers:
        if not answer.learnt:
            continue
        for place, token in enumerate(answer.ids):
            read = torch.tensor([answer.prompt + answer.ids[:place]])
            now = float((network(read)[0, -1] / plan.temperature).log_softmax(-1)[token])
            ratio = math.exp(now - answer.log_probabilities[place])
            clipped = min(max(ratio, 1 - plan.clip_low), 1 + plan.clip_high)
            total -= min(ratio * answer.advantage, clipped * answer.advantage)
            if reference is not None:
                known = float((reference(read)[0, -1] / plan.temperature).log_softmax(-1)[token])
                total += plan.kl * (math.exp(known - now) - (known - now) - 1)
            count += 1
    return total, count


@pytest.mark.parametrize("kl", [0.0, 0.3])
def test_the_loss_is_that_of_a_plain_computation(network: Decoder, kl: float) -> None:
    plan = RlvrPlan(max_tokens=8, temperature=1.3, clip_low=0.1, clip_high=0.4, kl=kl)
    reference = fresh_teacher(6, **SIZES) if kl else None
    rollout = _rollout(random.Random(1))
    with torch.no_grad():
        found = objective(plan, reference)(network, batch(rollout, CPU))
        total, count = _plainly(network, rollout, plan, reference)
    assert float(found.total) == pytest.approx(total, rel=1e-4)
    whole = 1 + rollout.missing / len(rollout.answers)
    assert float(found.count) == pytest.approx(count * whole)
    assert float(found.metrics["reward"] / found.count) == pytest.approx(0.5)
    assert float(found.metrics["differing"] / found.count) == pytest.approx(0.25)
    assert 0 < float(found.metrics["clipped"] / found.count) < 1
    assert ("distance" in found.metrics) == bool(kl)


def test_the_loss_is_that_of_trl(network: Decoder) -> None:
    trl = pytest.importorskip("trl.trainer.grpo_trainer", reason="the extra `train` is not installed")
    plan = RlvrPlan(max_tokens=8, clip_low=0.1, clip_high=0.4, kl=0.2)
    reference, rollout = fresh_teacher(6, **SIZES), _rollout(random.Random(2))
    rollout = Rollout([Answered(a.prompt, a.ids, a.log_probabilities, a.advantage) for a in rollout.answers], 0, 0, 0)
    found = objective(plan, reference)(network, batch(rollout, CPU))
    ours = found.total / found.count
    ours.backward()
    gradient = network.lm_head.weight.grad.clone()
    network.zero_grad()
    theirs = trl.GRPOTrainer._compute_loss(_trl(trl, plan, network), network, _trl_inputs(rollout, reference))
    theirs.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(gradient, network.lm_head.weight.grad, rtol=1e-3, atol=1e-6)


def _likely(network: Decoder, ids: Any, mask: Any, keep: int) -> Any:
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    scores = network(ids, mask.bool(), positions=positions)[:, -keep - 1 : -1].log_softmax(-1)
    return scores.gather(2, ids[:, -keep:, None])[..., 0], -(scores.exp() * scores).sum(-1)


def _trl(trl: Any, plan: RlvrPlan, network: Decoder) -> Any:
    """What the loss of TRL's trainer reads of the trainer, without one: its model passes are ours, left-padded."""
    accelerate = pytest.importorskip("accelerate", reason="the extra `train` is not installed")
    arguments = SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1)
    return SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda model, ids, mask, keep, **_: (*_likely(model, ids, mask, keep), None),
        accelerator=accelerate.Accelerator(cpu=True), args=arguments, aux_loss_enabled=False, beta=plan.kl,
        current_gradient_accumulation_steps=1, epsilon_low=plan.clip_low, epsilon_high=plan.clip_high,
        importance_sampling_level="token", loss_type="dapo", off_policy_mask_threshold=None, top_entropy_quantile=1.0,
        model=network, use_vllm=False, _entropy_bonus_enabled=False, _metrics={"train": trl.defaultdict(list)},
    )  # fmt: skip


def _trl_inputs(rollout: Rollout, reference: Decoder) -> dict[str, Any]:
    rows = rollout.answers
    read, said = max(len(row.prompt) for row in rows), max(len(row.ids) for row in rows)

    def padded(values: list[list[Any]], width: int, *, left: bool, kind: Any = torch.long) -> Any:
        made = torch.zeros(len(values), width, dtype=kind)
        for index, value in enumerate(values):
            made[index, slice(width - len(value), width) if left else slice(len(value))] = torch.tensor(
                value, dtype=kind
            )
        return made

    inputs = {
        "prompt_ids": padded([row.prompt for row in rows], read, left=True),
        "prompt_mask": padded([[1] * len(row.prompt) for row in rows], read, left=True),
        "completion_ids": padded([row.ids for row in rows], said, left=False),
        "completion_mask": padded([[1] * len(row.ids) for row in rows], said, left=False),
        "advantages": torch.tensor([row.advantage for row in rows]),
        "old_per_token_logps": padded([row.log_probabilities for row in rows], said, left=False, kind=torch.float),
        "num_items_in_batch": torch.tensor(float(sum(len(row.ids) for row in rows))),
    }
    ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], 1)
    mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], 1)
    with torch.no_grad():
        inputs["ref_per_token_logps"] = _likely(reference, ids, mask, said)[0]
    return inputs


def test_a_distance_needs_a_reference() -> None:
    with pytest.raises(ValueError, match="reference"):
        objective(RlvrPlan(max_tokens=8, kl=0.1))


@pytest.mark.parametrize(
    ("given", "by_deviation", "expected"),
    [
        ([1, 0, 0, 0], False, [0.75, -0.25, -0.25, -0.25]),
        ([1, 1, 0, 0], True, [1, 1, -1, -1]),
        ([1, 1, 1], True, [0, 0, 0]),
        ([0, 0], False, [0, 0]),
    ],
)
def test_advantages_are_about_the_groups_mean(given: list[float], by_deviation: bool, expected: list[float]) -> None:
    assert advantages(given, by_deviation=by_deviation) == pytest.approx(expected)


def test_only_what_is_whole_and_right_is_rewarded() -> None:
    problem = Problem("letter", 0, "q", "a")
    whole = answer_ids("x", "a")
    said = [whole, whole[:-1], spelt("a"), answer_ids("", "!"), [*whole[:-1], *whole], []]
    assert rewards(Letter(), [problem] * len(said), said) == [1, 0, 0, 0, 0, 0]


def _rollouts(network: Decoder, **changes: Any) -> Rollouts:
    plan = RlvrPlan(**{"max_tokens": 6, "prompts": 6, "group": 4, "minibatches": 2, "redraws": 3} | changes)
    curriculum = {"letter": Practice(2, 1)}
    return Rollouts(network, {"letter": Letter()}, curriculum, CurriculumPlan(), plan, seed=3)


def test_groups_of_a_batch_differ_and_none_is_held_out(network: Decoder) -> None:
    source = _rollouts(network)
    source.draw()
    rows = source._pending[0].answers
    assert rows
    groups = [rows[start : start + 4] for start in range(0, len(rows), 4)]
    for group in groups:
        assert len({tuple(row.prompt) for row in group}) == 1
        assert sum(row.advantage for row in group) == pytest.approx(0, abs=1e-9)
        assert len({row.advantage for row in group}) == 2
        assert not is_held_out(_text(group[0].prompt))


def _text(prompt: list[int]) -> str:
    return next(
        text for text in (f"{level}{n}" for level in range(2) for n in range(997)) if prompt_ids(text) == prompt
    )


def test_a_source_goes_on_where_its_state_says(network: Decoder) -> None:
    source = _rollouts(network)
    for _ in range(3):
        source.draw()
    state = json.loads(json.dumps(source.state()))
    again = _rollouts(network)
    again.restore(state)
    for _ in range(3):
        one, two = source.draw(), again.draw()
        assert all(torch.equal(one[name], two[name]) for name in one)
    assert source.state() == again.state()


def test_processes_draw_different_answers(network: Decoder) -> None:
    plan = RlvrPlan(max_tokens=6, prompts=4, group=4)
    first, second = (
        Rollouts(network, {"letter": Letter()}, {"letter": Practice(2)}, CurriculumPlan(), plan, seed=3, rank=rank)
        for rank in (0, 1)
    )
    assert not torch.equal(first.draw()["ids"][:4, :3], second.draw()["ids"][:4, :3])


def test_where_no_group_differs_the_reference_draws_at_nothing() -> None:
    network, reference = (fresh_teacher(seed, **SIZES) for seed in (0, 1))
    plan = RlvrPlan(max_tokens=4, prompts=4, group=2, kl=0.5)
    found = objective(plan, reference)(network, batch(Rollout([], 8, 0.0, 0.0), CPU))
    found.total.backward()
    assert all(p.grad is None or not p.grad.any() for p in network.parameters())
    assert float(found.count) == 9
    assert float(found.metrics["entropy"]) == float(found.metrics["distance"]) == 0


def test_where_no_group_differs_nothing_is_learnt(network: Decoder) -> None:
    class Never(Letter):
        def verify(self, problem: Problem, answer: str) -> bool:
            return False

    plan = RlvrPlan(max_tokens=6, prompts=4, group=4, redraws=1)
    source = Rollouts(network, {"letter": Never()}, {"letter": Practice(2)}, CurriculumPlan(), plan, seed=3)
    found = objective(plan)(network, source.draw())
    (found.total / found.count).backward()
    assert all(float(p.grad.abs().sum()) == 0 for p in network.parameters() if p.grad is not None)
    assert float(found.metrics["reward"]) == float(found.metrics["differing"]) == 0


def test_answers_without_an_end_are_left_out_where_asked(network: Decoder) -> None:
    wrong, left_out = (_rollouts(network, overlong=how, minibatches=1, max_tokens=3) for how in ("wrong", "left_out"))
    one, two = wrong.draw(), left_out.draw()
    assert torch.equal(one["ids"], two["ids"])
    assert 0 < two["said"].sum() < one["said"].sum()


@pytest.mark.parametrize(("prompt", "named"), [("", "held out"), ("é", "cannot read")])
def test_a_prompt_that_cannot_be_asked_is_named(network: Decoder, prompt: str, named: str) -> None:
    class One(Letter):
        def generate(self, level: int, seed: int) -> Problem:
            return Problem(self.name, level, prompt, "a")

    prompt = prompt or next(text for text in map(str, range(1000)) if is_held_out(text))
    plan = RlvrPlan(max_tokens=6, prompts=4, group=4)
    source = Rollouts(network, {"letter": One()}, {"letter": Practice(2)}, CurriculumPlan(), plan, seed=3)
    with pytest.raises(ConfigError, match=named):
        source.draw()


RECIPE = """
name = "letters"
tasks = { letter = 2 }
rlvr = { max_tokens = 6, prompts = 8, group = 8, redraws = 1 }
plan = { steps = 30, rate = 0.01, seed = 1 }
"""


def test_a_network_learns_what_is_rewarded(network: Decoder, tmp_path: Path) -> None:
    ended = improve(network, {"letter": Letter()}, read_rlvr_recipe(RECIPE), tmp_path / "run", found={})
    told = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert ended.state == "done"
    assert told[0]["reward"] < 0.85 < 0.95 < told[-1]["reward"]


def test_what_lacks_nothing_is_not_trained(network: Decoder, tmp_path: Path) -> None:
    found = {"letter": {0: Standing(100, 100), 1: Standing(100, 100)}}
    ended = improve(network, {"letter": Letter()}, read_rlvr_recipe(RECIPE), tmp_path / "run", found=found)
    assert (ended.state, ended.step) == ("done", 0)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("wrong", "field"),
    [("group = 8", "rlvr.group"), ("steps = 30", "plan.steps"), ('"letters"', "name"), ("letter = 2", "tasks")],
)
def test_a_wrong_recipe_names_the_field(wrong: str, field: str) -> None:
    changed = {"group = 8": "group = 1", "steps = 30": "steps = 0", '"letters"': '"No!"', "letter = 2": ""}[wrong]
    with pytest.raises(ConfigError) as refused:
        read_rlvr_recipe(RECIPE.replace(wrong, changed))
    assert refused.value.param == field


def test_the_recipes_of_the_proof_are_read_and_name_tasks_that_there_are() -> None:
    recipes = files("prsm.teachers") / "recipes"
    flawed = read_recipe(Path(str(recipes / "careless_addition.toml")))
    assert isinstance(flawed.data, Tasks)
    assert [task(name).name for name in flawed.data.names] == ["careless-addition"]
    mending = read_rlvr_recipe((recipes / "rlvr_addition.toml").read_text())
    assert all(task(name).levels >= levels for name, levels in mending.tasks.items())
