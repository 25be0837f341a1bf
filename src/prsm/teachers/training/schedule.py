"""The learning rate over a run, as a share of the plan's. No torch, no clock: progress is passed in."""

import math

from prsm.teachers.training.plan import TrainingPlan


def progress(plan: TrainingPlan, step: int, cpu_s: float) -> float:
    """How much of the run is behind, 0 to 1, by whichever bound is nearer."""
    by_time = cpu_s / (60 * plan.cpu_minutes) if plan.cpu_minutes else 0.0
    return min(1.0, max(step / plan.steps, by_time))


def rate_share(plan: TrainingPlan, step: int, done: float) -> float:
    """The rate of the update after ``step`` ones, ``done`` of the run behind, as a share of ``plan.rate``."""
    rise = min(1.0, (step + 1) / plan.warmup_steps) if plan.warmup_steps else 1.0
    if plan.decay == "none" or done <= plan.decay_from:
        return rise
    fallen = (done - plan.decay_from) / (1 - plan.decay_from)
    left = 1 - fallen if plan.decay == "linear" else (1 + math.cos(math.pi * fallen)) / 2
    return rise * (plan.final_rate_share + (1 - plan.final_rate_share) * left)
