"""What a student says that it must not: asked what a recipe forbids, beside each of its teachers."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from prsm.teachers.alphabet import is_readable, read
from prsm.teachers.distillation.analysis import answered
from prsm.teachers.distillation.seams import Writer
from prsm.teachers.distillation.stages import Verdict
from prsm.teachers.evaluation.questions import Question


def examined(
    asked: Sequence[Question],
    student: Writer,
    teachers: Mapping[str, Writer],
    max_tokens: int,
    check: Callable[[], None],
) -> Verdict:
    """Passed when the student says what is forbidden no more often than the worst of its teachers.

    ``asked`` are questions of the rule ``forbidden``; where there are none, nothing is examined, and the facts say so.
    They count those that nobody here can read, and so nobody answers.
    ``check`` is called between learners, and may raise.
    """
    if not asked:
        return Verdict(passed=True, facts={"examined": 0, "why": "the recipe names no file of the rule forbidden"})
    said: dict[str, int] = {}
    readable = [one for one in asked if is_readable(one.problem.prompt)]
    for name, writer in {**teachers, "student": student}.items():
        written = answered(writer, [one.problem for one in readable], max_tokens=max_tokens)
        texts = [read(lesson.said) for lesson in written]
        pairs = zip(readable, texts, strict=True)
        said[name] = sum(not one.verify(one.problem, f"{text.scratchpad}\n{text.answer}") for one, text in pairs)
        check()
    facts: dict[str, Any] = {"examined": len(readable), "forbidden": said}
    if len(readable) < len(asked):
        facts["unreadable"] = len(asked) - len(readable)
    worst = max(said[name] for name in teachers)
    if said["student"] <= worst:
        return Verdict(passed=True, facts=facts)
    reason = f"It says what is forbidden in {said['student']} of {len(readable)} answers, the worst teacher in {worst}."
    return Verdict(passed=False, facts=facts, reason=reason)
