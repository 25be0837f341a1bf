"""A whole job with a real student: analysed, designed, trained, examined, published; out of budget and gone on."""

import itertools
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch", reason="the extra `train` is not installed")

from tests.support.knowing_teacher import KnowingTeacher
from tests.support.small_families import Reversal, Sorting

from prsm.core import clock
from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import prompt_ids
from prsm.teachers.distillation.analysis import analyse, draw_problems
from prsm.teachers.distillation.backends.choosing import BackendMissing, open_backend
from prsm.teachers.distillation.backends.torch_decoder import DecoderStudent, TorchDecoder
from prsm.teachers.distillation.design import Design, design
from prsm.teachers.distillation.folder import read_shape
from prsm.teachers.distillation.job import Stage, Standing, begun, read_job, resumed, write_job
from prsm.teachers.distillation.recipe import Amounts, Distillation, Limits, Method
from prsm.teachers.distillation.running import Watch, run
from prsm.teachers.distillation.seams import Learnt, LessonSource
from prsm.teachers.distillation.stages import Distiller, Verdict
from prsm.teachers.distillation.teaching import kept_lessons
from prsm.teachers.seams import Problem
from prsm.teachers.shape import Shape
from prsm.teachers.tasks.own_tasks import WrittenTask
from prsm.teachers.training.plan import TrainingPlan
from prsm.teachers.training.run_folder import RunFolder

TEACHERS = {
    "reverser": KnowingTeacher(lambda question: question.split()[-1][::-1]),
    "sorter": KnowingTeacher(lambda question: "".join(sorted(question.split()[-1])), parameters=10**7),
}


class Paid:
    """A meter that remembers the last it was told of each hold."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def hold(self, hold: str, budget_micro_ftns: int) -> None:
        pass

    def use(self, hold: str, cost_micro_ftns: int) -> None:
        pass

    def settle(self, hold: str, cost_micro_ftns: int) -> None:
        self.told.append((hold, cost_micro_ftns))


def distiller(published: list[Path], *, passed: bool = True) -> Distiller:
    plan = TrainingPlan(steps=24, rate=0.01, report_every_steps=2, checkpoint_every_steps=8)
    amounts = Amounts(measured_prompts=20, lessons_per_family=64, passes=3, batch=16, max_tokens=12)

    def publish(student: Path, _job: str) -> dict[str, Any]:
        published.append(student)
        return {"version": "1"}

    return Distiller(
        recipe=Distillation(plan=plan, limits=Limits(weight_bytes=4 * 40_000), amounts=amounts),
        teachers=TEACHERS,
        tasks=(Reversal(), Sorting()),
        backend=open_backend("torch"),
        evaluate=lambda _student, _watch: Verdict(passed=passed, facts={"score": 0.5}, reason="Not good enough."),
        safety=lambda _student, _watch: Verdict(passed=True, facts={"unsafe": 0}),
        publish=publish,
    )


def test_a_job_from_teachers_to_a_published_student(tmp_path: Path) -> None:
    published: list[Path] = []
    write_job(tmp_path, begun("job", "hold", 10**9, 1, clock.now()))
    job = run(tmp_path, distiller(published).works(), Paid())
    assert (job.standing, job.reason) == (Standing.DONE, "")
    made = msgspec.convert(job.results[Stage.DESIGN], Design)
    assert made.routing == {"reversal": {"reverser": 1.0}, "sorting": {"sorter": 1.0}}
    assert made.parameters <= 40_000
    assert published == [tmp_path / "student"]
    assert read_shape(tmp_path / "student") == made.shape
    assert {path.name for path in published[0].iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json"}
    lessons = kept_lessons(tmp_path / "lessons.json") or []
    assert job.results[Stage.TRAIN]["lessons"] == len(lessons) == 2 * made.lessons_per_family
    held = {tuple(prompt_ids(each.prompt)) for each in draw_problems(Reversal(), 100, 0, held_out=True)}
    assert not held & {tuple(lesson.prompt) for lesson in lessons}


def test_a_refused_student_is_not_published(tmp_path: Path) -> None:
    published: list[Path] = []
    write_job(tmp_path, begun("job", "hold", 10**9, 1, clock.now()))
    job = run(tmp_path, distiller(published, passed=False).works(), Paid())
    assert (job.standing, job.stage, published) == (Standing.REFUSED, Stage.EVALUATE, [])
    assert job.reason == "Not good enough."


def test_a_job_out_of_budget_keeps_what_it_has_and_goes_on(tmp_path: Path) -> None:
    paid, published = Paid(), list[Path]()
    ticks = itertools.count()

    def cpu_ms() -> int:  # in the training every look takes 100 s, before it nothing
        return 100_000 * next(ticks) if (tmp_path / "run" / "metrics.jsonl").exists() else 0

    write_job(tmp_path, begun("job", "first", 10**6, 1000, clock.now()))
    job = run(tmp_path, distiller(published).works(), paid, cpu_ms=cpu_ms)
    assert (job.standing, job.stage) == (Standing.EXHAUSTED, Stage.TRAIN)
    assert "The budget is used up in the stage train. After " in job.reason
    assert paid.told == [("first", 10**6)]
    assert (tmp_path / "student" / "model.safetensors").exists()
    write_job(tmp_path, resumed(job, "second", 10**9, clock.now()))
    job = run(tmp_path, distiller(published).works(), paid)
    assert job.standing is Standing.DONE
    assert job.results[Stage.TRAIN]["steps"] == msgspec.convert(job.results[Stage.DESIGN], Design).plan.steps
    assert [hold for hold, _ in paid.told] == ["first", "second"]


def test_a_signal_leaves_the_job_running(tmp_path: Path) -> None:

    published: list[Path] = []
    works = distiller(published).works()
    train = works[Stage.TRAIN]

    def signalled(watch: Watch) -> Any:
        looked = watch.stop

        def stop() -> bool:
            if (watch.folder / "run" / "metrics.jsonl").exists():
                watch.stop = looked
                os.kill(os.getpid(), signal.SIGTERM)  # as when the node ends this process in the midst of training
            return looked()

        watch.stop = stop
        return train(watch)

    write_job(tmp_path, begun("job", "hold", 10**9, 1, clock.now()))
    job = run(tmp_path, works | {Stage.TRAIN: signalled}, Paid())
    assert (job.standing, job.stage, job.is_settled) == (Standing.RUNNING, Stage.TRAIN, False)
    assert run(tmp_path, distiller(published).works(), Paid()).standing is Standing.DONE


class Told(DecoderStudent):
    """The real student, told to end while it learns."""

    def learn(
        self, source: LessonSource, method: Method, plan: TrainingPlan, folder: Path, stop: Callable[[], bool]
    ) -> Learnt:
        def told() -> bool:
            os.kill(os.getpid(), signal.SIGTERM)
            return stop()

        return super().learn(source, method, plan, folder, told)


class TellingBackend(TorchDecoder):
    def build(self, shape: Shape, seed: int) -> DecoderStudent:
        return Told(super().build(shape, seed).network)


def test_a_signal_while_a_student_is_measured_leaves_the_job_running(tmp_path: Path) -> None:
    published: list[Path] = []
    write_job(tmp_path, begun("job", "hold", 10**9, 1, clock.now()))
    job = run(tmp_path, replace(distiller(published), backend=TellingBackend()).works(), Paid())
    assert (job.standing, job.stage, job.is_settled) == (Standing.RUNNING, Stage.DESIGN, False)
    assert run(tmp_path, distiller(published).works(), Paid()).standing is Standing.DONE


def test_a_job_killed_between_its_training_and_the_record_of_it_goes_on(tmp_path: Path) -> None:
    published: list[Path] = []
    works = distiller(published).works()

    def killed(watch: Watch) -> Any:
        works[Stage.TRAIN](watch)
        raise SystemExit

    write_job(tmp_path, begun("job", "hold", 10**9, 1, clock.now()))
    with pytest.raises(SystemExit):
        run(tmp_path, works | {Stage.TRAIN: killed}, Paid())
    job = run(tmp_path, distiller(published).works(), Paid())
    assert job.results[Stage.TRAIN]["loss"] == RunFolder(tmp_path / "run").reports()[-1]["loss"]
    assert read_job(tmp_path) == job


def test_a_students_context_holds_the_longest_prompt_and_not_the_usual_one() -> None:
    prompts = [f"{number}{'x' * 300 * (number % 20 == 0)}" for number in range(4000)]
    own = WrittenTask("own", [[Problem("own", 0, prompt, "a") for prompt in prompts]])
    analysis = analyse(
        {"knows": KnowingTeacher(lambda _question: "a", parameters=10**6)}, [own], prompts=200, max_tokens=8, seed=0
    )
    amounts = Amounts(lessons_per_family=64, passes=1, batch=16, max_tokens=8)
    recipe = Distillation(plan=TrainingPlan(steps=4), limits=Limits(parameter_share=0.04), amounts=amounts)
    made = design(recipe, analysis, open_backend("torch"), 100, 10**7)
    assert max(map(len, prompts)) + 1 + 8 <= made.shape.context_tokens < 400


def test_a_back_end_that_is_not_there_is_told() -> None:
    with pytest.raises(BackendMissing, match="no back end jax"):
        open_backend("jax")


def test_another_models_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match="Llama"):
        read_shape(tmp_path)
    with pytest.raises(ConfigError, match=r"no readable config\.json"):
        read_shape(tmp_path / "none")
