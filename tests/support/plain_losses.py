"""The losses of distillation as plain sums in numpy: what both torch and TensorFlow are held to."""

import numpy as np

from prsm.teachers.distillation.recipe import Hard, Logits, Method, OnPolicy
from prsm.teachers.distillation.seams import NOTHING, Floats, Lessons
from prsm.teachers.distillation.teaching import cut

METHODS: tuple[Method, ...] = (
    Hard(),
    Logits(),
    Logits(temperature=2.0, top_k=3),
    Logits(temperature=2.0, hard_share=0.25),
    OnPolicy(beta=0.0),
    OnPolicy(beta=0.3, top_k=2),
    OnPolicy(beta=1.0),
)
VOCABULARY = 11


def batch(method: Method) -> tuple[Lessons, Floats]:
    """Lessons of 2 x 5 tokens, 7 of them taught, as the method wants them; and a student's logits."""
    chance = np.random.default_rng(0)
    ids = chance.integers(0, VOCABULARY, (2, 5))
    targets = chance.integers(0, VOCABULARY, (2, 5))
    targets[0, :2] = targets[1, 4] = NOTHING
    logits = chance.normal(size=(2, 5, VOCABULARY)).astype(np.float32)
    shares = _softmax(chance.normal(size=(2, 5, VOCABULARY)) * 2)
    if isinstance(method, Hard):
        return Lessons(ids, targets), logits
    return Lessons(ids, targets, *cut(shares.astype(np.float32), method.top_k)), logits


def plain_total(method: Method, logits: Floats, lessons: Lessons) -> float:
    """The loss, token by token."""
    total = 0.0
    for row, token in zip(*np.nonzero(lessons.targets != NOTHING), strict=True):
        own, target = logits[row, token].astype(np.float64), lessons.targets[row, token]
        crossed = -np.log(_softmax(own)[target])
        if isinstance(method, Hard) or lessons.likely is None or lessons.log_likely is None:
            total += crossed
            continue
        teacher = np.exp(lessons.log_likely[row, token].astype(np.float64))
        if isinstance(method, Logits):
            student = _with_rest(_softmax(own / method.temperature), lessons.likely[row, token])
            soft = method.temperature**2 * _kl(teacher, student)
            total += (1 - method.hard_share) * soft + method.hard_share * crossed
        else:
            total += _jensen_shannon(teacher, _with_rest(_softmax(own), lessons.likely[row, token]), method)
    return float(total)


def _jensen_shannon(teacher: Floats, student: Floats, method: OnPolicy) -> float:
    if method.beta in (0, 1):
        return _kl(teacher, student) if method.beta == 0 else _kl(student, teacher)
    middle = method.beta * teacher + (1 - method.beta) * student
    return method.beta * _kl(teacher, middle) + (1 - method.beta) * _kl(student, middle)


def _with_rest(shares: Floats, likely: Floats) -> Floats:
    if len(likely) == len(shares):
        return shares[likely]
    return np.append(shares[likely], np.delete(shares, likely).sum())


def _kl(p: Floats, q: Floats) -> float:
    return float(np.sum(p * (np.log(p) - np.log(q))))


def _softmax(logits: Floats) -> Floats:
    shares = np.exp(logits - logits.max(-1, keepdims=True))
    return shares / shares.sum(-1, keepdims=True)
