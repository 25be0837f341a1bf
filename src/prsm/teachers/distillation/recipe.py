"""What a distillation job is asked to do, as read from TOML: method, routing, limits, amounts, the student's plan."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from prsm.core.errors import ConfigError
from prsm.teachers.training.plan import Positive, Share, TrainingPlan

Temperature = Annotated[float, Meta(gt=0, le=100)]


class Hard(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="hard"):
    """Next-token loss on what the teachers wrote (Kim and Rush 2016, arXiv:1606.07947)."""


class Logits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="logits"):
    """Forward KL from the teachers' softened distributions (Hinton et al. 2015, arXiv:1503.02531).

    Times temperature squared, so that gradients keep their size. ``top_k`` keeps so many tokens and puts the rest in
    one bucket; 0 keeps all. ``hard_share`` of the loss is on what was written.
    """

    temperature: Temperature = 1.0
    top_k: Annotated[int, Meta(ge=0)] = 0
    hard_share: Share = 0.0


class OnPolicy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind", tag="on-policy"):
    """Generalised knowledge distillation (Agarwal et al. 2023, arXiv:2306.13649).

    ``student_share`` of the batches are written by the student at ``temperature``, and the teachers say what they would
    have written there; the rest are the teachers' own. The generalised Jensen-Shannon divergence goes from forward KL
    (``beta`` 0) to reverse KL (1).
    """

    beta: Share = 0.5
    student_share: Share = 0.5
    temperature: Temperature = 1.0
    top_k: Annotated[int, Meta(ge=0)] = 0


Method = Hard | Logits | OnPolicy


class Limits(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the student may be: a share of the teachers' parameters together, bytes on disk, time for a token."""

    parameter_share: Annotated[float, Meta(gt=0)] = 0.25
    weight_bytes: Positive | None = None
    cpu_us_per_token: Positive | None = None


class Amounts(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much is asked: prompts a family to measure the teachers, at most so many lessons, each learnt so often.

    ``training_share`` of the budget is for lessons and training, what is left for the other stages.
    """

    measured_prompts: Positive = 200
    lessons_per_family: Positive = 20_000
    passes: Positive = 4
    batch: Positive = 64
    max_tokens: Positive = 64
    training_share: Annotated[float, Meta(gt=0, lt=1)] = 0.8


class Distillation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job's recipe. The plan's ``steps`` are an upper bound: the design lowers them to what the budget allows.

    ``speakers`` names the teacher of a family; families that it leaves out go to whom ``routing`` finds by measure.
    """

    plan: TrainingPlan
    method: Method = Logits()
    backend: Literal["torch", "transformers", "tensorflow"] = "torch"
    routing: Literal["best", "mixture"] = "best"
    speakers: dict[str, str] = {}
    limits: Limits = Limits()
    amounts: Amounts = Amounts()


def read_recipe(toml: str) -> Distillation:
    """The recipe in a TOML text. Raises ConfigError, which names the field."""
    try:
        return msgspec.toml.decode(toml, type=Distillation)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise ConfigError(f"The recipe of the distillation is wrong: {error}.") from error
