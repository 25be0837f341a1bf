"""The work of each stage of a job, made of the recipe, the teachers, the back end and what others examine and publish.

Everything lies in the job's folder: ``lessons.json`` (what the teachers wrote), ``run`` (the training), ``student``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import VOCABULARY
from prsm.teachers.distillation.analysis import Analysis, analyse, draw_problems
from prsm.teachers.distillation.design import Design, design
from prsm.teachers.distillation.job import Stage, Standing
from prsm.teachers.distillation.recipe import Distillation, Hard, Logits, OnPolicy
from prsm.teachers.distillation.running import Halted, Interrupted, Watch, Work
from prsm.teachers.distillation.seams import Backend, LessonSource, Student, Teacher
from prsm.teachers.distillation.teaching import (
    Kept,
    Lesson,
    OnPolicyLessons,
    Panel,
    keep_lessons,
    kept_lessons,
    verified,
)
from prsm.teachers.seams import Task

_MOST_AT_ONCE = 1024
"""Problems that are answered between two looks at the budget."""


class Verdict(Struct, frozen=True, kw_only=True):
    """What an examination found; ``reason`` is a sentence where it was not passed."""

    passed: bool
    facts: dict[str, Any]
    reason: str = ""


class Examine(Protocol):
    """Examines a student's folder: its evaluation, or its safety. May be asked again after a kill."""

    def __call__(self, student: Path, watch: Watch) -> Verdict:
        """The verdict; ``watch.check`` in between lets the job be stopped."""
        ...


Publish = Callable[[Path, str], Mapping[str, Any]]
"""Publishes a student's folder for the job of this id, once however often it is asked; its facts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Distiller:
    """One job's parts. ``tasks`` are the families that the student is to know."""

    recipe: Distillation
    teachers: Mapping[str, Teacher]
    tasks: Sequence[Task]
    backend: Backend
    evaluate: Examine
    safety: Examine
    publish: Publish
    vocabulary: int = field(default=len(VOCABULARY))

    def works(self) -> dict[Stage, Work]:
        """What each stage does, as ``running.run`` takes it."""
        return {
            Stage.ANALYSE: self._analyse,
            Stage.DESIGN: self._design,
            Stage.TRAIN: self._train,
            Stage.EVALUATE: lambda watch: _passed(self.evaluate(watch.folder / "student", watch)),
            Stage.SAFETY: lambda watch: _passed(self.safety(watch.folder / "student", watch)),
            Stage.PUBLISH: lambda watch: self.publish(watch.folder / "student", watch.job.id),
        }

    def _analyse(self, watch: Watch) -> dict[str, Any]:
        asked = self.recipe.amounts
        return msgspec.to_builtins(
            analyse(
                self.teachers,
                self.tasks,
                prompts=asked.measured_prompts,
                max_tokens=asked.max_tokens,
                seed=self.recipe.plan.seed,
                check=watch.check,
            )
        )

    def _design(self, watch: Watch) -> dict[str, Any]:
        analysis = msgspec.convert(watch.job.results[Stage.ANALYSE], Analysis)
        return msgspec.to_builtins(design(self.recipe, analysis, self.backend, self.vocabulary, watch.job.left_cpu_ms))

    def _train(self, watch: Watch) -> dict[str, Any]:
        designed = msgspec.convert(watch.job.results[Stage.DESIGN], Design)
        panel = Panel(self.teachers, designed.routing)
        lessons = self._lessons(designed, panel, watch)
        student = self.backend.build(designed.shape, designed.plan.seed)
        source = self._source(lessons, panel, student)
        learnt = student.learn(source, self.recipe.method, designed.plan, watch.folder / "run", watch.stop)
        student.export(watch.folder / "student")
        if learnt.stopped:
            so_far = f"After {learnt.steps} of {designed.plan.steps} steps; the student as it is lies in student/."
            try:
                watch.check()
            except Halted as halted:
                raise Halted(halted.standing, f"{halted.reason} {so_far}") from halted
            raise Interrupted
        return {"steps": learnt.steps, "loss": learnt.loss, "lessons": len(lessons)}

    def _lessons(self, designed: Design, panel: Panel, watch: Watch) -> list[Lesson]:
        """What the teachers wrote and the tasks found right; made once."""
        path = watch.folder / "lessons.json"
        lessons = kept_lessons(path)
        if lessons is not None:
            return lessons
        plan = designed.plan
        problems = [
            problem
            for task in self.tasks
            for problem in draw_problems(task, designed.lessons_per_family, plan.seed, held_out=False)
        ]
        lessons = list[Lesson]()
        for at in range(0, len(problems), _MOST_AT_ONCE):
            here = problems[at : at + _MOST_AT_ONCE]
            written = panel.write(here, max_tokens=self.recipe.amounts.max_tokens, seed=plan.seed + at)
            lessons += verified(written, here, {task.name: task for task in self.tasks})
            watch.check()
        if not lessons:
            raise ConfigError("The teachers wrote nothing that their tasks find right.", param="teachers")
        keep_lessons(path, lessons)
        return lessons

    def _source(self, lessons: Sequence[Lesson], panel: Panel, student: Student) -> LessonSource:
        batch, seed = self.recipe.amounts.batch, self.recipe.plan.seed
        match self.recipe.method:
            case Hard():
                return Kept(lessons, batch, seed)
            case Logits() as method:
                return Kept(lessons, batch, seed, panel, method)
            case OnPolicy() as method:
                kept = Kept(lessons, batch, seed)
                most = self.recipe.amounts.max_tokens
                return OnPolicyLessons(kept, panel, student, method, max_tokens=most, seed=seed)


def _passed(verdict: Verdict) -> dict[str, Any]:
    if not verdict.passed:
        raise Halted(Standing.REFUSED, verdict.reason, verdict.facts)
    return verdict.facts
