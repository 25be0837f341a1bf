"""The small teachers that come with the node, and how one is made of a run: ``python -m prsm.teachers.family``.

    python -m prsm.teachers.training.main src/prsm/teachers/recipes/letters.toml --out RUN
    python -m prsm.teachers.family letters RUN

The second puts the run's model into the package: in eight bits, examined as it will be served, with its card. For
``letters-numerals``, which the two others taught, the first is ``prsm.teachers.distillation.main``, from the
repository's folder.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from msgspec.structs import replace

from prsm.core.errors import ConfigError, PrsmError
from prsm.teachers.evaluation.card import CardFacts, DataSource, RunFacts, card, exam_scores
from prsm.teachers.evaluation.harness import evaluate
from prsm.teachers.evaluation.outcomes import Evaluation
from prsm.teachers.evaluation.plan import Plan, TaskPart
from prsm.teachers.evaluation.questions import questions
from prsm.teachers.export import export_int8
from prsm.teachers.runtime.folder import MANIFEST, ModelFolder, write_manifest
from prsm.teachers.tasks.registry import task
from prsm.teachers.teacher_model import FAMILY, About, FolderTeacher, write_about
from prsm.teachers.training.run_folder import RunFolder

_CARD: Final = "README.md"
_PROMPTS: Final = 300


@dataclass(frozen=True, slots=True)
class Kin:
    """What is said of a teacher of the family; its figures come from its exam. ``levels`` are those it is asked."""

    title: str
    purpose: str
    domain: str
    questions: tuple[str, ...]
    levels: Mapping[str, tuple[int, ...]]
    limits: tuple[str, ...]
    recipe: str
    trainer: str = "prsm.teachers.training.main"
    input_price_micro: int = 20_000_000
    """Micro-FTNS a million tokens; what it writes costs three times as much."""


_LETTERS: Final = Kin(
    title="Teacher of letters",
    purpose="Spells words backwards, counts a letter, and finds the letter at a place.",
    domain="letters of a word, such as: Spell elephant backwards. How many times is e in elephant? "
    "Which letter of elephant is number 3?",
    questions=(
        "Spell {word:14} backwards.", "How many times is {word:1} in {word:14}?",
        "Which letter of {word:14} is number {positive:2}?",
    ),
    levels=dict.fromkeys(("reversal", "letter-count", "letter-place"), (0, 1, 2, 3)),
    limits=("Words of up to 14 small letters; it knows these wordings only.",),
    recipe="letters.toml",
)  # fmt: skip
_NUMERALS: Final = Kin(
    title="Teacher of numerals",
    purpose="Writes numbers in binary and in Roman numerals, and reads Roman numerals.",
    domain="numerals, such as: Write 37 in binary. Write 1994 in Roman numerals. What number is MCMXCIV?",
    questions=(
        "Write {positive:3} in binary.",
        "Write {positive:3} in Roman numerals.",
        *(f"Write {lead}{{digits:3}} in Roman numerals." for lead in (1, 2, 3)),
        "What number is {roman}?",
    ),
    levels={"binary": (1, 2), "roman": (1, 2, 3), "roman-value": (1, 2, 3)},
    limits=(
        "Binary up to 999, Roman up to 3,999; it knows these wordings only.",
        "It was trained to sort and to divide too, and was right in half of these: it is not offered for them.",
    ),
    recipe="numerals.toml",
)  # fmt: skip
_LETTERS_NUMERALS: Final = Kin(
    title="Teacher of letters and numerals",
    purpose="Answers what the teachers of letters and of numerals do, with a fifth of their weights.",
    domain="letters of a word and numerals, such as: Spell elephant backwards. How many times is e in elephant? "
    "Write 37 in binary. What number is MCMXCIV?",
    questions=_LETTERS.questions + _NUMERALS.questions,
    levels={**_LETTERS.levels, **_NUMERALS.levels},
    limits=(
        "Words of up to 14 small letters, binary up to 999, Roman up to 3,999; it knows these wordings only.",
        "It learnt from its teachers' answers, of which only those that are right were kept.",
    ),
    recipe="letters_numerals.toml",
    trainer="prsm.teachers.distillation.main",
    input_price_micro=5_000_000,
)  # fmt: skip
_SCHOLAR: Final = Kin(
    title="Larger teacher of figures and letters",
    purpose="Divides with a remainder, sorts, adds, multiplies by a digit, and does what the rest of the family does.",
    domain="division, order, sums, numerals and letters, such as: What is 1234 / 7? Sort 31, 4, 15. 12345+678 37*4 "
    "Write 3700 in binary. What number is MCMXCIV? Spell elephant backwards.",
    questions=(
        *(f"What is {{positive:6}} / {divisor}?" for divisor in range(2, 13)),
        "Sort {positive:2}, {positive:2}.", "Sort {positive:2}, {positive:2}, {positive:2}.",
        "{positive:6}+{positive:6}", "{positive:6}+0", "0+{positive:6}", "0+0",
        "{positive:4}*{digits:1}", "0*{digits:1}",
        "Write {positive:4} in binary.",
        *_NUMERALS.questions[1:],
        *_LETTERS.questions,
    ),
    levels={
        "division": (0, 1, 2, 3), "number-order": (0, 1), "addition": (1, 2, 3, 4, 5),
        "multiplication": (1, 2, 3), "binary": (1, 2, 3), "roman": (1, 2, 3), "roman-value": (1, 2, 3),
        **_LETTERS.levels,
    },
    limits=(
        "Divisors from 2 to 12, three numbers of two digits to sort, terms of up to 6 digits, products of 4 digits "
        "by one.",
        "It was trained on differences, longer products and terms, and on up to five numbers to sort, too. It is not "
        "offered for these: of five numbers it sorted 208 of 300 right, of sums of 8 digits it had 280 of 300.",
        "It knows these wordings only.",
    ),
    recipe="scholar.toml",
    input_price_micro=40_000_000,
)  # fmt: skip
KIN: Final = {
    "letters": _LETTERS,
    "numerals": _NUMERALS,
    "letters-numerals": _LETTERS_NUMERALS,
    "scholar": _SCHOLAR,
}


def ship(name: str, run: Path, family: Path = FAMILY) -> Evaluation:
    """Make ``family/name`` of a run's folder, in place of what is there; answers its exam. Raises PrsmError."""
    kin = KIN[name]
    family.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=family, prefix=".making.") as made:
        folder = Path(made) / name
        model = export_int8(run / "model", folder)
        about = _about(kin, model)
        (folder / MANIFEST).unlink()  # it names what export wrote, and is written anew at the end
        write_about(folder, about)
        found = _examined(FolderTeacher.load(folder), kin, Path(made) / "outcomes.jsonl")
        write_about(folder, replace(about, scores=exam_scores(found)))
        (folder / _CARD).write_text(card(_card_facts(kin, model), _run_facts(kin, run), found), encoding="utf-8")
        write_manifest(folder)
        shutil.rmtree(family / name, ignore_errors=True)
        folder.rename(family / name)
    return found


def _about(kin: Kin, model: ModelFolder) -> About:
    return About(
        title=kin.title,
        domain=kin.domain,
        tasks=tuple(kin.levels),
        licence="MIT",
        max_tokens=model.shape.context_tokens - 1,
        questions=kin.questions,
        data=("prsm.teachers.tasks",),
        training_run=f"prsm.teachers.recipes.{kin.recipe.removesuffix('.toml')}",
        input_price_micro=kin.input_price_micro,
        output_price_micro=3 * kin.input_price_micro,
    )


def _examined(teacher: FolderTeacher, kin: Kin, kept: Path) -> Evaluation:
    plan = Plan(tasks=tuple(TaskPart(name=name, prompts=_PROMPTS, levels=asked) for name, asked in kin.levels.items()))
    asked = questions(plan, task, kept.parent)
    for question in asked:
        if not teacher.understands(question.problem.prompt):
            raise ConfigError(f"No form of the teacher is as {question.problem.prompt!r}.", param="questions")
    return evaluate(
        teacher, plan, asked, kept, version=teacher.version, size_bytes=teacher.model.weights_bytes, batch=256
    )


def _card_facts(kin: Kin, model: ModelFolder) -> CardFacts:
    return CardFacts(
        name=kin.title,
        version=model.version,
        purpose=kin.purpose,
        licence="MIT",
        parameters=model.shape.parameters(),
        sha256=model.sha256,
        limits=kin.limits,
    )


def _run_facts(kin: Kin, run: Path) -> RunFacts:
    folder = RunFolder(run)
    facts, reports = folder.record(), folder.reports()
    if not reports:
        raise ConfigError(f"{run} is no run that has ended.", remedy="Name the folder that --out named.")
    return RunFacts(
        recipe=f"src/prsm/teachers/recipes/{kin.recipe}",
        command=f"python -m {kin.trainer} src/prsm/teachers/recipes/{kin.recipe} --out RUN",
        seeds=tuple(facts.get("seeds", ())),
        code_revision=str(facts["code"]["sha256"]),
        data=(
            DataSource(
                name="prsm.teachers.tasks",
                licence="MIT",
                about="Problems drawn by this project's own code, with worked scratchpads; no personal data.",
            ),
        ),
        teachers=tuple(_named(Path(path)) for path in facts["recipe"].get("teachers", {}).values()),
        cpu_minutes=round(reports[-1]["cpu_s"] / 60, 1),
        machine="2 shared cores, no accelerator",
        date=str(facts["begun_at"])[:10],
    )


def _named(teacher: Path) -> str:
    return f"{teacher.name}@{FolderTeacher.load(teacher).version}"


def main(given: Sequence[str] | None = None) -> int:
    """Exit code 0 when done, 1 when refused."""
    parser = argparse.ArgumentParser(prog="python -m prsm.teachers.family", description=__doc__)
    parser.add_argument("name", choices=sorted(KIN))
    parser.add_argument("run", type=Path, help="the folder of a run that has ended")
    asked = parser.parse_args(given)
    try:
        found = ship(asked.name, asked.run)
    except PrsmError as error:
        print(error, file=sys.stderr)
        return 1
    for score in found.scores:
        print(f"{score.task:14} level {score.level}: {score.right}/{score.count}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
