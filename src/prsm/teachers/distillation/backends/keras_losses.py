"""The sums of ``losses.py`` with TensorFlow."""

# TensorFlow is an extra of its own and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import math
from typing import Any

import tensorflow as tf

from prsm.teachers.distillation.recipe import Hard, Logits, Method, OnPolicy


def total(method: Method, logits: Any, targets: Any, likely: Any, log_likely: Any) -> Any:
    """The method's loss, in nats, summed over tokens: ``logits`` (tokens, vocabulary), the rest as in ``Lessons``."""
    match method:
        case Hard():
            return _cross_entropy(logits, targets)
        case Logits(temperature=temperature, hard_share=hard_share):
            soft = tf.nn.log_softmax(logits / temperature)
            loss = _forward_kl(coarse(soft, likely, log_likely), log_likely) * temperature**2
            return (1 - hard_share) * loss + hard_share * _cross_entropy(logits, targets) if hard_share else loss
        case OnPolicy(beta=beta):
            return _jensen_shannon(coarse(tf.nn.log_softmax(logits), likely, log_likely), log_likely, beta)


def coarse(log_probabilities: Any, likely: Any, log_likely: Any) -> Any:
    """Log-probabilities of ``likely`` and, where ``log_likely`` has a column more, of all other tokens together."""
    top = tf.gather(log_probabilities, likely, batch_dims=1)
    if log_likely.shape[-1] == likely.shape[-1]:
        return top
    vocabulary = tf.shape(log_probabilities)[-1]
    others = tf.reduce_sum(tf.one_hot(likely, vocabulary), 1) == 0
    rest = tf.reduce_logsumexp(tf.where(others, log_probabilities, -math.inf), -1, keepdims=True)
    return tf.concat([top, rest], -1)


def _cross_entropy(logits: Any, targets: Any) -> Any:
    return tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits))


def _forward_kl(student: Any, teacher: Any) -> Any:
    return tf.reduce_sum(tf.exp(teacher) * (teacher - student))


def _jensen_shannon(student: Any, teacher: Any, beta: float) -> Any:
    if beta in (0.0, 1.0):
        return _forward_kl(student, teacher) if beta == 0.0 else _forward_kl(teacher, student)
    middle = tf.reduce_logsumexp(tf.stack([teacher + math.log(beta), student + math.log1p(-beta)]), 0)
    return beta * _forward_kl(middle, teacher) + (1 - beta) * _forward_kl(middle, student)
