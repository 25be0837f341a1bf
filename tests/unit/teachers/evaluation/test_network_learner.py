"""A network here as a learner and as lm-eval's model: its answers, its scratchpads, its likelihoods."""

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")

from safetensors.torch import save_file  # noqa: E402 - after the skip

from prsm.core.errors import ConfigError  # noqa: E402
from prsm.teachers.alphabet import ANSWER_ID, END_ID, VOCABULARY, prompt_ids, read, spelt  # noqa: E402
from prsm.teachers.evaluation.network_learner import NetworkLearner, load_network  # noqa: E402
from prsm.teachers.evaluation.outcomes import read_evaluation  # noqa: E402
from prsm.teachers.networks.decoder import Decoder  # noqa: E402
from prsm.teachers.networks.sampling import sample  # noqa: E402
from prsm.teachers.runtime.engine import Engine  # noqa: E402
from prsm.teachers.runtime.learner import EngineLearner  # noqa: E402
from prsm.teachers.shape import Shape  # noqa: E402

SHAPE = Shape(layers=2, width=32, heads=4, kv_heads=2, hidden=48, vocabulary=len(VOCABULARY), context_tokens=64)
PROMPTS = ["rev abc", "a", "sum 1 2", "max 34 5 6 7 8", "zz"] * 3


@pytest.fixture
def network() -> Decoder:
    """One that says <answer> and <end> now and then."""
    torch.manual_seed(3)
    network = Decoder(SHAPE).eval()
    with torch.no_grad():
        network.model.embed_tokens.weight[[ANSWER_ID, END_ID]] *= 6
    return network


@pytest.mark.parametrize("batch", [1, 4, 100])
def test_answers_are_those_of_each_prompt_in_its_place(network: Decoder, batch: int) -> None:
    found = NetworkLearner(network, max_tokens=20, batch=batch).replies(PROMPTS)
    for prompt, reply in zip(PROMPTS, found, strict=True):
        written = read(sample(network, [prompt_ids(prompt)], max_tokens=20)[0].ids)
        assert reply.answer == (written.answer if written.is_whole else "")
        assert reply.said == f"{written.scratchpad}\n{written.answer}"
        assert reply.seconds > 0


def test_the_engine_without_torch_replies_as_the_network_does(network: Decoder) -> None:
    weights = {name: value.numpy() for name, value in network.weights().items()}
    engine = EngineLearner(Engine(SHAPE, weights, threads=1), max_tokens=20)
    mine, theirs = engine.replies(PROMPTS), NetworkLearner(network, max_tokens=20).replies(PROMPTS)
    assert [(one.answer, one.said) for one in mine] == [(one.answer, one.said) for one in theirs]
    assert len({one.said for one in mine}) > 1
    assert engine.answers(["naïve", *PROMPTS]) == ["", *(one.answer for one in mine)]


def test_a_seed_gives_the_same_again_and_another_other_answers(network: Decoder) -> None:
    learner = NetworkLearner(network, max_tokens=20, temperature=1.5)
    said = [[reply.said for reply in learner.replies(PROMPTS, seed=seed)] for seed in (1, 1, 2)]
    assert said[0] == said[1] != said[2]


def test_what_it_cannot_read_is_answered_with_nothing(network: Decoder) -> None:
    learner = NetworkLearner(network, max_tokens=20)
    assert learner.answers(["naïve", "x" * 60]) == ["", ""]


def test_a_folder_gives_the_network_that_was_saved(network: Decoder, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SHAPE.config()))
    save_file(network.weights(), tmp_path / "model.safetensors")
    loaded = load_network(tmp_path)
    ids = torch.tensor([prompt_ids("rev abc")])
    assert torch.equal(loaded(ids), network(ids))
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE.config(), "num_hidden_layers": 3}))
    with pytest.raises(ConfigError, match="not a teacher's folder"):
        load_network(tmp_path)


def test_another_vocabulary_is_refused() -> None:
    shape = Shape(layers=1, width=8, heads=2, kv_heads=2, hidden=8, vocabulary=50, context_tokens=64)
    with pytest.raises(ConfigError, match="not the teachers' alphabet"):
        NetworkLearner(Decoder(shape), max_tokens=4)


@pytest.fixture(scope="module")
def standard():
    pytest.importorskip("lm_eval", reason="the extra `train` is not installed")
    from prsm.teachers.evaluation import standard

    return standard


def test_likelihoods_are_those_of_each_pair_alone(network: Decoder, standard) -> None:
    from lm_eval.api.instance import Instance

    pairs = [("1 + 1 =", " 2"), ("", "abc"), ("a long context here", "x"), ("b", "a longer continuation")]
    requests = [Instance("loglikelihood", {}, pair, 0) for pair in pairs]
    model = standard.NetworkLM(network, NetworkLearner(network, max_tokens=8), batch=3)
    for (context, said), (likely, greedy) in zip(pairs, model.loglikelihood(requests), strict=True):
        ids = [END_ID, *spelt(context), *spelt(said)]
        steps = network(torch.tensor([ids])).detach().log_softmax(-1)[0, -len(said) - 1 : -1]
        alone = steps.gather(1, torch.tensor(spelt(said))[:, None]).sum()
        assert likely == pytest.approx(float(alone), abs=1e-4)
        assert greedy == (steps.argmax(-1).tolist() == spelt(said))
    (rolling,) = model.loglikelihood_rolling([Instance("loglikelihood_rolling", {}, ("abc",), 0)])
    assert rolling == pytest.approx(
        model.loglikelihood([Instance("loglikelihood", {}, ("", "abc"), 0)])[0][0], abs=1e-4
    )
    with pytest.raises(ConfigError, match="no token for 'ï'"):
        model.loglikelihood([Instance("loglikelihood", {}, ("naïve", "x"), 0)])


class Adding:
    """Answers the last question of a prompt of GSM8K's form, wrongly where the sum is odd."""

    def answers(self, prompts, *, seed=None):
        sums = [sum(map(int, prompt.rpartition("Question: ")[2].split("\n")[0].split(" + "))) for prompt in prompts]
        return [f"They are {each + each % 2}.\n#### {each + each % 2}\nQuestion: and" for each in sums]


def test_a_standard_task_of_the_library_runs_on_files_that_lie_here(standard, tmp_path: Path) -> None:
    from prsm.teachers.evaluation.plan import StandardPart

    rows = [{"question": f"{n} + {n // 2}", "answer": f"Add them.\n#### {n + n // 2}"} for n in range(12)]
    (tmp_path / "gsm.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    part = StandardPart(
        name="gsm8k", files={"train": "gsm.jsonl", "test": "gsm.jsonl"}, metric="exact_match", filter="strict-match"
    )
    found = standard.standard_outcomes(standard.LearnerLM(Adding()), [part], tmp_path)
    assert [outcome.right for outcome in found] == [(n + n // 2) % 2 == 0 for n in range(12)]
    assert len({outcome.prompt for outcome in found}) == 12
    with pytest.raises(ConfigError, match="no metric 'acc'"):
        standard.standard_outcomes(
            standard.LearnerLM(Adding()), [StandardPart(name="gsm8k", files=part.files)], tmp_path
        )
    with pytest.raises(ConfigError, match="no file gsm9k"):
        standard.standard_outcomes(
            standard.LearnerLM(Adding()), [StandardPart(name="gsm9k", files=part.files)], tmp_path
        )
    with pytest.raises(ConfigError, match="are not here"):
        standard.standard_outcomes(
            standard.LearnerLM(Adding()), [StandardPart(name="gsm8k", files={"test": "none.jsonl"})], tmp_path
        )


def test_a_learner_without_likelihoods_says_so(standard) -> None:
    with pytest.raises(ConfigError, match="needs likelihoods"):
        standard.LearnerLM(Adding()).loglikelihood([])


def test_the_command_evaluates_a_folder_with_a_standard_task(
    network: Decoder, standard, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from prsm.teachers.evaluation.main import main

    (tmp_path / "config.json").write_text(json.dumps(SHAPE.config()))
    save_file(network.weights(), tmp_path / "model.safetensors")
    rows = [{"context": f"Question: What is {n} plus 1? Answer:", "completion": f" {n + 1}"} for n in range(8)]
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "asked.jsonl").write_text('{"question": "rev abc", "answer": "cba"}\n')
    (tmp_path / "plan.toml").write_text(
        '[[files]]\nname = "asked"\npath = "asked.jsonl"\nrule = "exact"\n'
        '[[standard]]\nname = "arithmetic_1dc"\nfiles = { validation = "sums.jsonl" }\n'
    )
    where = ["--teacher", str(tmp_path), "--plan", str(tmp_path / "plan.toml"), "--data", str(tmp_path)]
    assert main([*where, "--out", str(tmp_path / "found.json"), "--max-tokens", "8"]) == 0
    found = read_evaluation(tmp_path / "found.json")
    assert [(score.task, score.count) for score in found.scores] == [("arithmetic_1dc", 8), ("asked", 1)]
    assert found.size_bytes == (tmp_path / "model.safetensors").stat().st_size
    assert "arithmetic_1dc" in capsys.readouterr().out
