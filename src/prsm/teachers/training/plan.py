"""How long, how fast and how carefully to train: the part of a recipe that every objective shares. No torch here."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Positive = Annotated[int, Meta(ge=1)]
Rate = Annotated[float, Meta(gt=0, le=1)]
Share = Annotated[float, Meta(ge=0, le=1)]


class TrainingPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run of the optimizer.

    ``steps`` are updates, each of ``accumulate`` batches; ``cpu_minutes`` of this process's processor time end the run
    earlier. The rate rises over ``warmup_steps``, stays, and falls from ``decay_from`` (a share of the run, by the
    nearer bound) to ``final_rate_share`` of itself. ``clip_norm`` of 0 clips nothing. Without ``validate_every_steps``
    what validates is asked at the end only.
    """

    steps: Positive
    seed: Annotated[int, Meta(ge=0)] = 0
    rate: Rate = 1e-3
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: Share = 0.0
    beta1: Share = 0.9
    beta2: Share = 0.99
    warmup_steps: Annotated[int, Meta(ge=0)] = 0
    decay: Literal["none", "linear", "cosine"] = "linear"
    decay_from: Share = 0.5
    final_rate_share: Share = 0.0
    accumulate: Positive = 1
    clip_norm: Annotated[float, Meta(ge=0)] = 1.0
    precision: Literal["float32", "bfloat16"] = "float32"
    cpu_minutes: Annotated[float, Meta(gt=0)] | None = None
    checkpoint_every_steps: Positive = 200
    keep_checkpoints: Positive = 2
    report_every_steps: Positive = 10
    validate_every_steps: Positive | None = None
    threads: Annotated[int, Meta(ge=1, le=64)] = 1
