"""From a recipe to a folder that transformers loads: small teachers, models of transformers, adapters, rewards."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from msgspec import Struct

from prsm.core.errors import ConfigError
from prsm.teachers.seams import Problem
from prsm.teachers.tasks.held_out import is_held_out
from prsm.teachers.training.data_files import read_pairs
from prsm.teachers.training.recipe import Tasks, read_recipe

torch = pytest.importorskip("torch", reason="the extra `train` is not installed")
transformers = pytest.importorskip("transformers", reason="the extra `train` is not installed")

from prsm.teachers.alphabet import VOCABULARY, alphabet, prompt_ids, read, tokenizer_config  # noqa: E402 - after the skip
from prsm.teachers.networks.sampling import sample  # noqa: E402 - needs torch
from prsm.teachers.teacher_model import FAMILY  # noqa: E402 - after the skip
from prsm.teachers.training.assembly import run  # noqa: E402 - needs torch
from prsm.teachers.training.curves import draw  # noqa: E402 - needs matplotlib
from prsm.teachers.training.hub_model import LanguageModel  # noqa: E402 - needs transformers
from prsm.teachers.training.lessons import of_tasks  # noqa: E402 - needs torch
from prsm.teachers.training.main import main  # noqa: E402 - after the skip
from prsm.teachers.training.parallel import Group  # noqa: E402 - needs torch
from prsm.teachers.training.run_folder import RunFolder  # noqa: E402 - after the skip
from prsm.teachers.training.small_teacher import load_teacher  # noqa: E402 - needs torch
from prsm.teachers.training.sources import Pair, packed, padded  # noqa: E402 - needs torch
from prsm.teachers.training.spelling import AlphabetSpelling  # noqa: E402 - after the skip

RECIPES = Path(__file__).parents[3] / "src" / "prsm" / "teachers" / "recipes"
SCRATCH = """name = "small"
[model]
kind = "scratch"
layers = 2
width = 32
heads = 4
kv_heads = 2
hidden = 48
context_tokens = 64
[plan]
steps = 6
rate = 5e-3
report_every_steps = 2
"""
OURS = ("addition_reversed", "shakespeare_chars")


def _written(folder: Path, rest: str, base: str = SCRATCH) -> Path:
    (folder / "pairs.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{a}+{b}", "answer": str(a + b)}) + "\n" for a in range(9) for b in range(9))
    )
    (folder / "preferences.jsonl").write_text(
        "".join(json.dumps({"prompt": f"{a}+1", "chosen": str(a + 1), "rejected": str(a)}) + "\n" for a in range(9))
    )
    (folder / "recipe.toml").write_text(base + rest.replace("FOLDER", str(folder)))
    return folder / "recipe.toml"


PAIRS = '[data]\nkind = "pairs"\npath = "FOLDER/pairs.jsonl"\nrows = 4\n'
PREFERENCES = '[data]\nkind = "preferences"\npath = "FOLDER/preferences.jsonl"\nrows = 4\n'


@pytest.mark.parametrize("name", OURS)
def test_shipped_recipes_are_whole(name: str) -> None:
    assert read_recipe(RECIPES / f"{name}.toml").plan.steps > 0


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ("plan.steps=0", "plan.steps"),
        ("plan.stepz=1", "plan"),
        ("plan.optimizer=adam", "plan.optimizer"),
        ("model.layers=many", "model.layers"),
        ("data.rows=-1", "data.rows"),
        ("name=Not a name", "name"),
        ("objective.kind=dpo", "recipe"),
        ("steps", "--set"),
    ],
)
def test_a_wrong_recipe_names_the_field(tmp_path: Path, change: str, field: str) -> None:
    with pytest.raises(ConfigError) as found:
        read_recipe(_written(tmp_path, PAIRS), [change])
    assert found.value.param == field


def test_a_small_teacher_is_a_folder_that_transformers_loads(tmp_path: Path) -> None:
    recipe = read_recipe(_written(tmp_path, PAIRS), ["data.row_tokens=24", "plan.steps=300"])
    assert run(recipe, tmp_path / "run").state == "done"
    folder = RunFolder(tmp_path / "run")
    ours, theirs = load_teacher(folder.model), transformers.AutoModelForCausalLM.from_pretrained(folder.model)
    ids = torch.tensor([prompt_ids("3+4")])
    torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-4, atol=1e-4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder.model)
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "3+4"}], return_tensors="pt", return_dict=True)
    said = tokenizer.decode(theirs.generate(**asked)[0][asked["input_ids"].shape[1] :])
    assert said == "<answer>7<end>"
    record, last = folder.record(), folder.reports()[-1]
    assert record["parameters"] == ours.shape.parameters()
    assert len(record["data"][0]["sha256"]) == 64
    assert {"validation_loss", "validation_accuracy"} <= last.keys()
    draw(folder.path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_teacher_in_eight_bits_is_read_as_it_is_served() -> None:
    network = load_teacher(FAMILY / "numerals")
    (said,) = sample(network, [prompt_ids("Write 1994 in Roman numerals.")], max_tokens=90)
    assert read(said.ids).answer == "MCMXCIV"


def test_a_teacher_goes_on_from_a_teacher_by_preferences(tmp_path: Path) -> None:
    assert run(read_recipe(_written(tmp_path, PAIRS)), tmp_path / "first").state == "done"
    model = f'name = "second"\n[model]\nkind = "teacher"\npath = "{tmp_path}/first/model"\n'
    model += '[plan]\nsteps = 30\nrate = 1e-3\nreport_every_steps = 10\n[objective]\nkind = "dpo"\n'
    assert run(read_recipe(_written(tmp_path, PREFERENCES, model)), tmp_path / "second").state == "done"
    folder = RunFolder(tmp_path / "second")
    margins = [line["margin"] for line in folder.reports()]
    assert margins[-1] > margins[0]
    assert len(folder.record()["parents"][0]["sha256"]) == 64


def test_a_reward_model_is_a_sequence_classifier_of_transformers(tmp_path: Path) -> None:
    recipe = read_recipe(_written(tmp_path, PREFERENCES), ["objective.kind=reward", "plan.steps=60"])
    assert run(recipe, tmp_path / "run").state == "done"
    folder = RunFolder(tmp_path / "run")
    assert folder.reports()[-1]["accuracy"] > 0.9
    assert "validation_pairs" not in folder.reports()[-1], "no prompt of these is held out"
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder.model)
    assert model.config.num_labels == 1
    ids = torch.tensor([prompt_ids("3+1")])
    assert model(ids).logits.shape == (1, 1)


@pytest.mark.parametrize(("objective", "beside"), [("reward", True), ("dpo", False)])
def test_what_is_learnt_of_preferences_is_validated_on_the_other_half(
    tmp_path: Path, objective: str, beside: bool
) -> None:
    """Rewards beside the length of the answers, which says nothing where it is even; a DPO by its own margins."""
    drawn = random.Random(3)
    pairs = [
        {"prompt": f"{n}?", "chosen": "b" * drawn.randint(1, 6), "rejected": "a" * drawn.randint(1, 6)}
        for n in range(200)
    ]
    (tmp_path / "preferences.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    data = f'[data]\nkind = "preferences"\npath = "{tmp_path}/preferences.jsonl"\nrows = 16\nhold_out = "half"\n'
    (tmp_path / "recipe.toml").write_text(SCRATCH + data)
    recipe = read_recipe(tmp_path / "recipe.toml", [f"objective.kind={objective}", "plan.steps=40"])
    assert run(recipe, tmp_path / "run").state == "done"
    found = RunFolder(tmp_path / "run").reports()[-1]
    assert found["validation_accuracy"] > 0.9
    assert found["validation_loss"] < 0.69
    assert ("validation_longer" in found) == beside
    if beside:
        assert 80 < found["validation_pairs"] < 120
        assert found["validation_accuracy_low"] <= found["validation_accuracy"] <= found["validation_accuracy_high"]
        assert 0.35 < found["validation_longer"] < 0.65
        assert found["validation_brier_calibrated"] < 0.25
        config = transformers.AutoConfig.from_pretrained(tmp_path / "run" / "model")
        assert config.reward_temperature == pytest.approx(found["validation_temperature"])


def _tiny(folder: Path, kind: str) -> Path:
    """A model of transformers with random weights over the alphabet."""
    torch.manual_seed(0)
    if kind == "gpt2":
        config = transformers.GPT2Config(vocab_size=len(VOCABULARY), n_positions=64, n_embd=32, n_layer=2, n_head=2)
        transformers.GPT2LMHeadModel(config).save_pretrained(folder)
    else:
        config = transformers.BertConfig(
            vocab_size=len(VOCABULARY), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
            intermediate_size=48, initializer_range=0.1, hidden_dropout_prob=0.0,
        )  # fmt: skip
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
    alphabet().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config()))
    return folder


@pytest.mark.parametrize("lora", [False, True])
def test_a_causal_model_of_transformers_trains_whole_or_by_adapters(tmp_path: Path, lora: bool) -> None:
    base = _tiny(tmp_path / "base", "gpt2")
    model = f'name = "hub"\n[model]\nkind = "transformers"\nname = "{base}"\n[plan]\nsteps = 8\nrate = 1e-2\n'
    changes = ["model.lora.rank=4"] if lora else []
    assert run(read_recipe(_written(tmp_path, PAIRS, model), changes), tmp_path / "run").state == "done"
    before = transformers.AutoModelForCausalLM.from_pretrained(base).state_dict()
    after = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists() == lora
    if lora:
        assert all("attn" in name or "mlp" in name for name in changed)
        assert not any(name.endswith("bias") for name in changed)


def test_an_encoder_learns_rewards(tmp_path: Path) -> None:
    base = _tiny(tmp_path / "base", "bert")
    model = f'name = "encoder"\n[model]\nkind = "transformers"\nname = "{base}"\n[plan]\nsteps = 150\nrate = 3e-3\n'
    model += '[objective]\nkind = "reward"\n'
    assert run(read_recipe(_written(tmp_path, PREFERENCES, model)), tmp_path / "run").state == "done"
    assert RunFolder(tmp_path / "run").reports()[-1]["accuracy"] > 0.9


def test_packing_means_the_same_to_a_model_of_transformers(tmp_path: Path) -> None:
    network = LanguageModel(transformers.AutoModelForCausalLM.from_pretrained(_tiny(tmp_path, "gpt2"))).eval()
    pairs = [Pair([5, 6, 7], [8, 9]), Pair([10], [11, 12, 13])]
    apart, together = padded(pairs), packed([pairs], 8)
    found = network(together["ids"], together["mask"], positions=together["positions"])[0]
    expected = network(apart["ids"])
    torch.testing.assert_close(found[:4], expected[0, :4], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found[4:7], expected[1, :3], rtol=1e-4, atol=1e-4)


def test_no_pickle_is_opened(tmp_path: Path) -> None:
    base = _tiny(tmp_path / "base", "gpt2")
    weights = transformers.AutoModelForCausalLM.from_pretrained(base).state_dict()
    (base / "model.safetensors").unlink()
    torch.save(weights, base / "pytorch_model.bin")
    model = f'name = "hub"\n[model]\nkind = "transformers"\nname = "{base}"\n[plan]\nsteps = 1\n'
    with pytest.raises(ConfigError, match="cannot be loaded"):
        run(read_recipe(_written(tmp_path, PAIRS, model)), tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ("plan.steps=0", 2, "plan.steps"),
        ("data.path=nowhere.txt", 2, "nowhere.txt"),
        ("plan.rate=1.0", 0, "done after 6 updates"),
    ],
)
def test_the_command_says_how_it_went(
    tmp_path: Path, change: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(_written(tmp_path, PAIRS)), "--out", str(tmp_path / "run"), "--set", change]
    assert main(arguments) == code
    assert said in capsys.readouterr().err


class Doubles(Struct, frozen=True):
    """A small real task: numbers doubled, of as many digits as the level says."""

    name: str = "doubles"
    levels: int = 3

    def generate(self, level: int, seed: int) -> Problem:
        """Any number of ``level + 1`` digits."""
        number = random.Random(seed).randrange(10 ** (level + 1))
        return Problem("doubles", level, f"2*{number}", str(2 * number))

    def verify(self, problem: Problem, answer: str) -> bool:
        """Exactly right."""
        return answer == problem.answer


def test_lessons_of_a_task_are_its_answers_at_the_levels_asked_without_what_is_held_out() -> None:
    data = Tasks(names=["doubles"], rows=200, levels=[2])
    batch = of_tasks(data, AlphabetSpelling(), 0, Group(), lambda _: Doubles()).source.draw()
    learnt = ["".join(VOCABULARY[token] for token in row) for row in batch["ids"].tolist()]
    prompts = [text.partition("<ask>")[0] for text in learnt]
    assert len(set(prompts)) > 100
    assert not any(is_held_out(prompt) for prompt in prompts)
    assert all(f"<answer>{2 * int(prompt[2:])}" in text for prompt, text in zip(prompts, learnt, strict=True))
    with pytest.raises(ConfigError, match="has 3 levels"):
        of_tasks(Tasks(names=["doubles"], rows=1, levels=[3]), AlphabetSpelling(), 0, Group(), lambda _: Doubles())


@pytest.mark.parametrize(
    ("line", "separator", "complaint"),
    [
        ('{"prompt": "1"}', None, "line 2: Object missing required field `answer`"),
        ("{", None, "line 2"),
        ("1+1", "=", "line 2: there is no '='"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, separator: str | None, complaint: str) -> None:
    good = "1+1=2" if separator else '{"prompt": "1+1", "answer": "2"}'
    (tmp_path / "pairs").write_text(f"{good}\n{line}\n")
    with pytest.raises(ConfigError, match=complaint):
        read_pairs(tmp_path / "pairs", separator)


def test_what_watches_runs_needs_no_torch() -> None:
    modules = ("run_folder", "recipe", "plan", "schedule", "data_files", "launch", "main")
    code = "import sys; sys.modules['torch'] = None\n"
    code += "\n".join(f"import prsm.teachers.training.{name}" for name in modules)
    subprocess.run([sys.executable, "-c", code], check=True)
