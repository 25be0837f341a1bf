"""A trained teacher becomes a registered version that this node serves: card, storage, statement, instance.

Each step can be done again without doing it twice, and nothing is offered before the last: a version begins as a draft,
which nobody is answered by, and only a gate, or an admin with a reason, makes it live. What is served changes only
after its statement is registered.
"""

import asyncio
import filecmp
import hashlib
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec

from prsm.core.errors import InvalidRequest, Kind, PrsmError
from prsm.data_layer.codec.cid import Cid
from prsm.federation.model_registry import Model, Provider
from prsm.federation.registry.lifecycle import State
from prsm.federation.registry.versions import Parent, Registered, Score, Version
from prsm.node.catalogue import PUBLISHED
from prsm.node.model_import import store_files
from prsm.node.parts import Node
from prsm.node.teachers import published_folder
from prsm.teachers.evaluation.card import CardFacts, RunFacts, card, exam_scores
from prsm.teachers.evaluation.outcomes import Evaluation, by_task
from prsm.teachers.runs.run_book import Run
from prsm.teachers.runtime.folder import ModelFolder
from prsm.teachers.shape import Shape
from prsm.teachers.teacher_model import ABOUT, About, open_teacher

_PPM: Final = 1_000_000
_MOST_TOKENS: Final = 512
"""The longest answer of a published teacher, where its context has room for it."""
_FILES: Final = (
    "README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
    "tokenizer_config.json", ABOUT,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Publication:
    """What is to be published as ``model``; ``parents`` are versions it was made from, with their shares."""

    model: str
    title: str
    purpose: str
    domain: str
    licence: str
    questions: tuple[str, ...]
    parents: tuple[Parent, ...]
    input_price_micro: int
    output_price_micro: int
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Published:
    """What came of it: the version, a draft until a gate passes it, and the instance that serves it."""

    registered: Registered
    instance: str


async def publish(
    node: Node, run: Run, evaluation: Evaluation, wanted: Publication, *, owner: str, by: str
) -> Published:
    """Publish what a run made. ``owner`` keeps it in storage, ``by`` earns by it. Raises PrsmError."""
    made = node.training.supervisor.folder_of(run.id) / "model"
    version = await asyncio.to_thread(_version_of, made)
    if evaluation.learner != version:
        raise InvalidRequest(
            f"The evaluation is of version {evaluation.learner}; the run made {version}.", param="evaluation_run"
        )
    await node.training.evidence.check_evaluation(wanted.model, version, evaluation)
    place = published_folder(node.settings) / f"{wanted.model}-{version}"
    await asyncio.to_thread(place.parent.mkdir, parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{place.name}.", dir=place.parent) as found:
        partial = Path(found) / place.name
        await asyncio.to_thread(_build, made, partial, run, evaluation, wanted, version)
        registered = await _registered(node, partial, run, evaluation, wanted, owner=owner, by=by)
        await asyncio.to_thread(_install, partial, place)
    await node.registry.put_provider(Provider(PUBLISHED, "embedded"))
    instance = _instance(wanted, place.name, by, registered)
    await node.registry.put_model(instance)
    await node.training.evidence.keep_evaluation(wanted.model, version, evaluation, run_id=run.id, by=by)
    return Published(registered, instance.name)


def _version_of(folder: Path) -> str:
    weights = folder / "model.safetensors"
    if not weights.exists():
        raise PrsmError(
            "The run has made no model.", kind=Kind.CONFLICT, code="no_model", remedy="Let it run to its end."
        )
    with weights.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _build(made: Path, partial: Path, run: Run, evaluation: Evaluation, wanted: Publication, version: str) -> None:
    """The teacher's folder, checked as it will be loaded; nobody serves it yet."""
    partial.mkdir()
    for path in made.iterdir():
        if path.name in _FILES:
            shutil.copyfile(path, partial / path.name)
    about = _about(run, evaluation, wanted, ModelFolder.open(partial).shape)
    (partial / ABOUT).write_bytes(msgspec.json.format(msgspec.json.encode(about)))
    text = card(_card_facts(partial, wanted, version), _run_facts(run), evaluation)
    (partial / "README.md").write_text(text, encoding="utf-8")
    open_teacher(partial)


async def _registered(
    node: Node, partial: Path, run: Run, evaluation: Evaluation, wanted: Publication, *, owner: str, by: str
) -> Registered:
    """The version, whose weights are stored; what is refused is not kept in storage."""
    cid, newly_kept = await _stored(node, partial, owner)
    try:
        return await node.versions.register(
            _statement(wanted, evaluation.learner, cid, run, evaluation, partial), by=by, owner_account=by,
            state=State.DRAFT, reason=f"trained by run {run.id}",
        )  # fmt: skip
    except BaseException:
        if newly_kept:
            with suppress(PrsmError):
                await node.storage.unpin(cid, owner)
        raise


def _install(partial: Path, place: Path) -> None:
    """The registered folder where the node serves it from; one that is there as it should be is not touched.

    A damaged one makes way. Killed between the two steps there is none, and publishing the same again puts it there.
    """
    if place.exists():
        if _is_same(partial, place):
            return
        place.rename(partial.with_name("replaced"))
    partial.rename(place)


def _is_same(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.iterdir())
    return names == sorted(path.name for path in other.iterdir()) and not any(
        filecmp.cmpfiles(one, other, names, shallow=False)[1:]
    )


def _about(run: Run, evaluation: Evaluation, wanted: Publication, shape: Shape) -> About:
    scores = exam_scores(evaluation)
    return About(
        title=wanted.title,
        domain=wanted.domain,
        tasks=tuple(score.evaluation for score in scores),
        licence=wanted.licence,
        max_tokens=min(_MOST_TOKENS, shape.context_tokens - 1),
        questions=wanted.questions,
        scores=scores,
        training_run=str(run.id),
        input_price_micro=wanted.input_price_micro,
        output_price_micro=wanted.output_price_micro,
    )


def _card_facts(folder: Path, wanted: Publication, version: str) -> CardFacts:
    shape = msgspec.json.decode((folder / "config.json").read_bytes())
    with (folder / "model.safetensors").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return CardFacts(
        name=wanted.title,
        version=version,
        purpose=wanted.purpose,
        licence=wanted.licence,
        tags=(str(shape.get("model_type", "")),),
        sha256=digest,
        limits=wanted.limits,
    )


def _run_facts(run: Run) -> RunFacts:
    facts: dict[str, Any] = dict(run.facts)
    plan: dict[str, Any] = facts.get("plan", {})
    cpu_s = run.report.get("cpu_s")
    return RunFacts(
        recipe=run.name,
        command="prsm train run RECIPE.toml",
        seeds=(int(plan.get("seed", 0)),),
        code_revision=str(facts.get("code", "not recorded")),
        settings=plan,
        cpu_minutes=round(cpu_s / 60, 2) if cpu_s is not None else None,
        date=f"{run.created_at:%Y-%m-%d}",
    )


async def _stored(node: Node, place: Path, owner: str) -> tuple[Cid, bool]:
    files = await asyncio.to_thread(lambda: sorted(place.iterdir()))
    added = await store_files(node.storage, files, owner)
    return added.cid, added.newly_kept


def _statement(wanted: Publication, version: str, cid: Cid, run: Run, evaluation: Evaluation, place: Path) -> Version:
    model, _ = open_teacher(place)
    return Version(
        model=wanted.model,
        version=version,
        publisher="",
        capabilities=("chat",),
        context_tokens=model.shape.context_tokens,
        weights_cid=str(cid),
        parents=wanted.parents,
        training_run=str(run.id),
        licence=wanted.licence,
        scores=tuple(
            Score(f"{evaluation.id}/{score.task}"[:200], "exact_match", score.right * _PPM // score.count, score.count)
            for score in by_task(evaluation.scores).values()
        ),
        description=wanted.purpose,
    )


def _instance(wanted: Publication, upstream_name: str, by: str, registered: Registered) -> Model:
    return Model(
        name=f"{PUBLISHED}/{upstream_name}",
        provider=PUBLISHED,
        upstream_name=upstream_name,
        capabilities=frozenset({"chat"}),
        domain=upstream_name,
        context_tokens=registered.version.context_tokens,
        max_output_tokens=registered.version.context_tokens - 1,
        input_price_micro=wanted.input_price_micro,
        output_price_micro=wanted.output_price_micro,
        description=wanted.purpose,
        version=registered.version.version,
        cid=registered.version.weights_cid,
        owner_account=by,
        model=wanted.model,
        licence=wanted.licence,
    )
