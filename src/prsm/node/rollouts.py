"""Trials of candidates as this node runs them: the registry deals the shares, the trials count, one ends the other."""

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from prsm.agents.call import ChatCall, Completion, Target
from prsm.agents.learning.feedback import FeedbackBook, Part
from prsm.agents.plan import Ask, output_limit
from prsm.agents.rollouts.assignment import CANDIDATE, STABLE
from prsm.agents.rollouts.evidence import Mean
from prsm.agents.rollouts.judge import Judge
from prsm.agents.rollouts.shadow import Shadow
from prsm.agents.rollouts.trial import Limits
from prsm.agents.rollouts.trials import Trial, Trials
from prsm.agents.routers.roster import Roster, served_model
from prsm.agents.seams import Executor
from prsm.core.config import Settings
from prsm.core.database import Pool
from prsm.core.errors import Kind, PrsmError
from prsm.core.rate_limit import Rate, RateLimiter
from prsm.federation.registry.lifecycle import State
from prsm.federation.registry.version_store import VersionStore


class Rollouts:
    """Begins, watches and ends trials; ``models`` is the answer path's roster as of now."""

    def __init__(
        self,
        settings: Settings,
        pool: Pool,
        versions: VersionStore,
        executors: Mapping[str, Executor],
        models: Callable[[], Roster],
        feedback: FeedbackBook,
        account: str,
    ) -> None:
        self.trials = Trials(pool, self._withdraw, self._ratings)
        self._feedback = feedback
        self.judge = settings.judge_model
        """Who compares the answers of copies with those given; empty: nobody does."""
        self._shadow = Shadow(
            executors,
            self.trials,
            _judge(settings, executors, models) if settings.judge_model else None,
            at_once=settings.shadow_at_once,
            timeout_s=settings.request_timeout_s,
            answer_bytes=settings.answer_limit_bytes,
        )
        self._default_output_tokens = settings.default_max_output_tokens
        self._versions = versions
        self._models = models
        self._account = account
        self._changed = False

    async def close(self) -> None:
        """End the copies that are under way."""
        await self._shadow.close()

    async def begin(
        self, model: str, candidate: str, share_bps: int, shadow_bps: int, limits: Limits, *, by: str
    ) -> None:
        """Make ``candidate`` the model's candidate, with these shares. Raises PrsmError.

        The trial is open before the first session is dealt to it, so that nothing it answers goes uncounted.
        """
        standing = await self._versions.standing(model)
        stable = standing.release.stable
        if not stable:
            raise PrsmError(
                f"{model[:200]} has no stable version to compare with.",
                kind=Kind.CONFLICT,
                code="no_stable_version",
                remedy="Promote one first: prsm models promote MODEL@VERSION.",
            )
        if standing.release.candidate != candidate:
            await self._versions.move((model, candidate), State.CANDIDATE, by=by, reason="on trial")
        await self.trials.start(model, stable, candidate, limits)
        await self._versions.set_shares(model, share_bps, shadow_bps, by=by, reason="on trial")

    async def stop(self, model: str, *, by: str) -> None:
        """End the model's trial. Raises PrsmError where none runs."""
        if model not in self.trials.open:
            raise PrsmError(f"No trial of {model[:200]} runs.", kind=Kind.NOT_FOUND, code="no_trial")
        await self._versions.set_shares(model, 0, 0, by=by, reason="the trial was ended")
        await self.trials.end(model, f"Ended by {by}.")

    async def settle(self) -> bool:
        """Add up and judge the trials, and end those whose release has changed; whether a candidate was withdrawn."""
        await self.trials.settle()
        for trial in tuple(self.trials.open.values()):
            release = (await self._versions.standing(trial.model)).release
            if (release.stable, release.candidate) != (trial.stable, trial.candidate):
                now = f"stable is {release.stable or 'none'}, candidate {release.candidate or 'none'}"
                await self.trials.end(trial.model, f"The release has changed: {now}.")
        changed, self._changed = self._changed, False
        return changed

    def tell(self, target: Target, waited_s: float | None) -> None:
        """A call was answered, with the seconds to its first piece; or it failed (None)."""
        if self.trials.open:
            waited_ms = None if waited_s is None else waited_s * 1000
            model = served_model(target)
            self.trials.seen(model, self._version(target), ok=waited_s is not None, first_token_ms=waited_ms)

    def answered(self, ask: Ask, target: Target, answer: Completion) -> None:
        """Copy a request that was answered whole to the candidate, where that gets copies.

        Only what carries no policy: its caller has not said who may read it.
        """
        if not self.trials.open:
            return
        models, model = self._models(), served_model(target)
        release = models.releases.get(model)
        if release is None or not release.shadow_bps or self._version(target) != release.stable:
            return
        if not isinstance(ask.call, ChatCall) or ask.policy is not None:
            return
        rows = models.of_model.get(model, ())
        heirs = [each for row in rows if (each := models.targets[int(row)]).version == release.candidate]
        if heirs:
            limit = output_limit(ask.call, heirs[0], self._default_output_tokens)
            call = replace(ask.call, max_output_tokens=limit)
            self._shadow.copy(heirs[0], call, answer, release.shadow_bps)

    def _version(self, target: Target) -> str:
        """An instance that names none serves what is stable."""
        release = self._models().releases.get(served_model(target))
        return target.version or (release.stable if release else "")

    async def _ratings(self, trial: Trial) -> dict[str, Mean]:
        models = self._models()
        arms = {trial.stable: STABLE, trial.candidate: CANDIDATE}
        serving = [models.targets[int(row)] for row in models.of_model.get(trial.model, ())]
        versions = [(each.name, self._version(each)) for each in serving]
        parts = [Part(name, version, arms[version]) for name, version in versions if version in arms]
        return await self._feedback.rated(parts, trial.started_at, trial.ended_at)

    async def _withdraw(self, model: str, candidate: str, reason: str) -> None:
        try:
            await self._versions.withdraw(model, candidate, by=self._account, reason=reason)
        except PrsmError as error:
            if error.code != "release_moved":  # somebody else was first
                raise
        self._changed = True


def _judge(settings: Settings, executors: Mapping[str, Executor], models: Callable[[], Roster]) -> Judge:
    """The instance that the settings name; all workers together keep to the budget, each to its share."""
    limiter = RateLimiter()
    rate = Rate.per_minute(settings.judge_per_minute, 1).share(settings.workers)
    return Judge(
        executors,
        lambda: models().by_name.get(settings.judge_model),
        lambda: limiter.check("judge", rate).allowed,
        timeout_s=settings.request_timeout_s,
    )
