"""One examination of a back end of distillation: ``python -m tests.support.distillation_backends NAME FOLDER``.

A program of its own, too, so that TensorFlow need not share a process with torch's threads.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace
from tests.support.knowing_teacher import KnowingTeacher
from tests.support.plain_losses import METHODS, VOCABULARY, batch, plain_total

from prsm.teachers.alphabet import answer_ids, prompt_ids
from prsm.teachers.distillation.backends.choosing import open_backend
from prsm.teachers.distillation.recipe import Hard, Logits, Method, OnPolicy
from prsm.teachers.distillation.seams import NOTHING, Backend, Floats, Ints, LessonSource
from prsm.teachers.distillation.teaching import Kept, Lesson, OnPolicyLessons, Panel
from prsm.teachers.shape import Shape
from prsm.teachers.training.plan import TrainingPlan
from prsm.teachers.training.run_folder import RunFolder

SHAPE = Shape(layers=1, width=32, heads=2, kv_heads=1, hidden=48, vocabulary=100, context_tokens=32)
ANSWERS = {"2+2": "4", "hello": "world", "7": "seven", "": "?"}
LESSONS = [Lesson("echo", prompt_ids(prompt), answer_ids("", answer)) for prompt, answer in ANSWERS.items()]
PROMPTS = [lesson.prompt for lesson in LESSONS]
STEPS = 60
PLAN = TrainingPlan(steps=STEPS, rate=0.02, warmup_steps=5, checkpoint_every_steps=20, report_every_steps=5, seed=1)


def check_backend(name: str, folder: Path) -> dict[str, Any]:
    """What the back end did: losses before and after, what it wrote, how resumed and exported students differ."""
    backend = open_backend(name)
    found: dict[str, Any] = {"steps": STEPS, "losses": {}}
    for method in (Hard(), Logits(temperature=2.0, top_k=4, hard_share=0.5), OnPolicy(top_k=4)):
        found["losses"][type(method).__name__] = _trained(backend, method, folder / type(method).__name__)
    student = backend.build(SHAPE, 1)
    student.learn(Kept(LESSONS, 4, 0), Hard(), PLAN, folder / "whole", lambda: False)
    student.export(folder / "student")
    found["written"] = student.write(PROMPTS, max_tokens=12)
    done_again = backend.build(SHAPE, 1).learn(Kept(LESSONS, 4, 0), Hard(), PLAN, folder / "whole", lambda: False)
    found["same_loss_again"] = done_again.loss == RunFolder(folder / "whole").reports()[-1]["loss"]
    found["score"] = sum(said == lesson.said for said, lesson in zip(found["written"], LESSONS, strict=True)) / 4
    drawn = [student.write(PROMPTS * 8, max_tokens=6, temperature=2.0, seed=seed) for seed in (1, 1, 2)]
    found["same_again"] = drawn[0] == drawn[1] != drawn[2]
    found |= _resumed(backend, student.scores(_ids(), 1.0), folder / "broken-off")
    found |= _served(student.scores(_ids(), 1.0), backend, folder / "student")
    found["loss_difference"] = _loss_difference(backend, METHODS[5], folder)
    if name == "tensorflow":
        found["loss_difference"] = max(found["loss_difference"], *map(_eager_difference, METHODS))
    return found


def _source(method: Method, student: Any) -> LessonSource:
    panel = Panel({"knows": KnowingTeacher(ANSWERS.__getitem__)}, {"echo": {"knows": 1.0}})
    match method:
        case Hard():
            return Kept(LESSONS, 4, 0)
        case Logits():
            return Kept(LESSONS, 4, 0, panel, method)
        case OnPolicy():
            return OnPolicyLessons(Kept(LESSONS, 4, 0), panel, student, method, max_tokens=8, seed=0)


def _trained(backend: Backend, method: Method, folder: Path) -> tuple[float, float | None]:
    student = backend.build(SHAPE, 0)
    learnt = student.learn(_source(method, student), method, PLAN, folder, lambda: False)
    return RunFolder(folder).reports()[0]["loss"], learnt.loss


def _resumed(backend: Backend, whole: Floats, folder: Path) -> dict[str, Any]:
    """Stop at the first report after the second checkpoint and go on with another student: it must become the same."""
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == 9

    broken = backend.build(SHAPE, 1).learn(Kept(LESSONS, 4, 0), Hard(), PLAN, folder, stop)
    assert broken.stopped
    student = backend.build(SHAPE, 5)
    student.learn(Kept(LESSONS, 4, 0), Hard(), PLAN, folder, lambda: False)
    difference = np.abs(student.scores(_ids(), 1.0) - whole).max()
    return {"stopped_at": broken.steps, "resumed_difference": float(difference)}


def _served(own: Floats, backend: Backend, folder: Path) -> dict[str, Any]:
    """What the reference network in torch makes of the exported folder; and that the back end reads it back."""
    served = open_backend("torch").load(folder)
    back = backend.load(folder)
    scores = (served.scores(_ids(), 1.0), back.scores(_ids(), 1.0))
    difference = max(float(np.abs(each - own).max()) for each in scores)
    return {"served": served.write(PROMPTS, max_tokens=12), "largest_difference": difference}


def _loss_difference(backend: Backend, method: Method, folder: Path) -> float:
    """The reported loss of a first step beside plain sums over the same student's own scores."""
    lessons, _ = batch(method)

    class Once:
        draw = staticmethod(lambda: lessons)
        state = staticmethod(dict)
        restore = staticmethod(lambda _state: None)

    student = backend.build(replace(SHAPE, vocabulary=VOCABULARY), 0)
    logits = student.scores(lessons.ids, 1.0)
    plan = replace(PLAN, steps=1, report_every_steps=1)
    learnt = student.learn(Once(), method, plan, folder / f"once-{METHODS.index(method)}", lambda: False)
    taught = int((lessons.targets != NOTHING).sum())
    assert learnt.loss is not None
    return abs(learnt.loss - plain_total(method, logits, lessons) / taught)


def _eager_difference(method: Method) -> float:
    """TensorFlow's sum beside the plain one, relative to it; torch's stands in the unit tests."""
    from prsm.teachers.distillation.backends.keras_losses import total  # imports TensorFlow

    lessons, logits = batch(method)
    taught = lessons.targets != NOTHING
    thoughts = [each[taught] for each in (lessons.likely, lessons.log_likely) if each is not None] or [None, None]
    plain = plain_total(method, logits, lessons)
    return abs(float(total(method, logits[taught], lessons.targets[taught], *thoughts)) - plain) / plain


def _ids() -> Ints:
    return np.random.default_rng(0).integers(0, 100, (3, 9))


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    print(json.dumps(check_backend(sys.argv[1], Path(sys.argv[2]))))
