"""Searches with Ray Tune: random draws, of which ASHA (Li et al. 2020, arXiv:1810.05934) stops the hopeless early.

Workers are processes of a Ray of this machine, which ends with the search; nothing is reported outside and no dashboard
is opened. What a search found is kept nowhere.
"""

# ray is an extra of its own and may be absent where types are checked.
# pyright: basic, reportMissingImports=false

import logging
import os
import tempfile
from typing import Any

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # read when ray is imported
os.environ["RAY_TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"

import ray
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from prsm.core.errors import ConfigError
from prsm.teachers.tuning.seams import WORST, Found, Objective, Study, Trial, comparable, found
from prsm.teachers.tuning.space import Choice, FloatRange, IntRange, Range, Space


class RaySearch:
    """Searches in a Ray that is started for each of them."""

    def run(self, study: Study, space: Space, objective: Objective) -> Found:
        """Search. Raises ConfigError for what of a study only Optuna does."""
        if study.sampler != "random" or study.steps is not None:
            raise ConfigError("Ray Tune draws at random here and counts trials only.", param="sampler")
        ray.init(num_cpus=study.workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        try:
            with tempfile.TemporaryDirectory() as folder:
                return found(
                    [_trial(number, each) for number, each in enumerate(_fitted(study, space, objective, folder))]
                )
        finally:
            ray.shutdown()


def _fitted(study: Study, space: Space, objective: Objective, folder: str) -> Any:
    def asked(values: dict[str, Any]) -> None:
        def report(step: int, value: float) -> None:
            tune.report({"value": comparable(value), "steps": step, "whole": False})

        value = comparable(objective(values, report))
        tune.report({"value": value, "steps": study.max_steps, "whole": True})

    tuner = tune.Tuner(
        asked,
        param_space={name: _drawn(of) for name, of in space.items()},
        tune_config=tune.TuneConfig(
            metric="value",
            mode="min",
            num_samples=study.trials,
            max_concurrent_trials=study.workers,
            search_alg=BasicVariantGenerator(random_state=study.seed),
            scheduler=_scheduler(study),
        ),
        run_config=tune.RunConfig(name=study.name, storage_path=folder, verbose=0),
    )
    return tuner.fit()


def _scheduler(study: Study) -> Any:
    if not study.prunes:
        return FIFOScheduler()
    most = study.max_steps + 1  # the last report, which says that a trial is whole, is never too late
    return ASHAScheduler("steps", max_t=most, grace_period=study.min_steps, reduction_factor=study.reduction)


def _drawn(of: Range) -> Any:
    match of:
        case FloatRange():
            return tune.loguniform(of.low, of.high) if of.log else tune.uniform(of.low, of.high)
        case IntRange():
            if of.log:
                return tune.lograndint(of.low, of.high + 1)
            return tune.choice(list(range(of.low, of.high + 1, of.step)))
        case Choice():
            return tune.choice(list(of.of))


def _trial(number: int, result: Any) -> Trial:
    if result.error:
        raise result.error
    metrics = result.metrics
    return Trial(
        number=number,
        values=dict(result.config),
        value=metrics["value"] if metrics["whole"] and metrics["value"] != WORST else None,
        steps=metrics["steps"],
    )
