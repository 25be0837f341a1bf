"""What answers with no provider configured, and what this node states of it: versions that it signs itself."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from importlib import resources
from importlib.resources.abc import Traversable

from prsm.core.config import Settings
from prsm.core.encoder import TextEncoder
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import DEFAULT_PROFILE, PROFILES, FileDagBuilder
from prsm.federation.model_registry import Model, Provider
from prsm.federation.registry.versions import Ref, Score, Version
from prsm.node.teachers import ARITHMETIC, Teachers
from prsm.teachers.arithmetic.card import exams
from prsm.teachers.arithmetic.teacher import ASSETS
from prsm.teachers.runtime.folder import WEIGHTS
from prsm.teachers.teacher_model import FolderTeacher

PROVIDER = "local"
_TEACHER_CONTEXT_TOKENS = 1_000_000
"""It reads the last message only, so that a conversation before it may have any length."""
_PPM = 1_000_000


def built_in(
    settings: Settings, encoder: TextEncoder, teachers: Teachers, account: str
) -> tuple[Sequence[Provider], Sequence[Model]]:
    """Providers and instances, priced so that the whole money path runs on a fresh machine."""
    models = [
        Model(
            name=f"{PROVIDER}/minilm-l6",
            provider=PROVIDER,
            upstream_name="minilm-l6",
            capabilities=frozenset({"embeddings"}),
            context_tokens=256,
            max_output_tokens=1,
            input_price_micro=2_000_000,
            description="Sentence embeddings for search, routing and clustering; 384 dimensions; English.",
            version=f"{encoder.model}-int8-{encoder.sha256[:12]}",
            owner_account=account,
            model="minilm-l6",
            licence="Apache-2.0",
        )
    ]
    if settings.teacher_enabled:
        models.append(
            Model(
                name=f"{PROVIDER}/{ARITHMETIC}",
                provider=PROVIDER,
                upstream_name=ARITHMETIC,
                capabilities=frozenset({"chat"}),
                domain=ARITHMETIC,
                context_tokens=_TEACHER_CONTEXT_TOKENS,
                max_output_tokens=teachers.shipped.max_tokens,
                input_price_micro=20_000_000,
                output_price_micro=60_000_000,
                description="A small teacher that runs inside the node and answers arithmetic: sums, differences, "
                "products, greatest common divisors, counting legs of animals.",
                version=teachers.shipped.version,
                owner_account=account,
                model=ARITHMETIC,
                licence="MIT",
            )
        )
    family = teachers.family if settings.teacher_enabled else {}
    models += [_of_folder(name, each, settings, account) for name, each in (family | teachers.of_folders).items()]
    return [Provider(PROVIDER, "embedded")], models


def served_by(models: Iterable[Model]) -> frozenset[Ref]:
    """The versions that these instances answer for."""
    return frozenset((model.serves, model.version) for model in models)


def _of_folder(name: str, teacher: FolderTeacher, settings: Settings, account: str) -> Model:
    about = teacher.about
    prices = about.input_price_micro, about.output_price_micro
    return Model(
        name=f"{PROVIDER}/{name}",
        provider=PROVIDER,
        upstream_name=name,
        capabilities=frozenset({"chat"}),
        domain=name,
        context_tokens=_TEACHER_CONTEXT_TOKENS,
        max_output_tokens=teacher.max_tokens,
        input_price_micro=settings.teachers_input_price_micro if prices[0] is None else prices[0],
        output_price_micro=settings.teachers_output_price_micro if prices[1] is None else prices[1],
        description=f"{about.title}: a small teacher inside the node that answers {about.domain}.",
        version=teacher.version,
        owner_account=account,
        model=name,
        licence=about.licence,
    )


def statement_of(model: Model, teachers: Teachers) -> Version:
    """What this node states of a built-in model; blocking, as it hashes the weights."""
    version = Version(
        model=model.serves,
        version=model.version,
        publisher="",
        capabilities=tuple(sorted(model.capabilities)),
        context_tokens=model.context_tokens,
        licence=model.licence,
        description=model.description,
    )
    if "embeddings" in model.capabilities:
        weights = resources.files("prsm.core").joinpath("assets/encoder/model.onnx")
        return replace(version, weights_cid=_file_cid(weights), output_modalities=("embeddings",))
    if teacher := teachers.of_folder(model.upstream_name):
        return replace(
            version,
            weights_cid=_file_cid(teacher.model.path / WEIGHTS),
            data=teacher.about.data,
            training_run=teacher.about.training_run,
            scores=tuple(
                Score(score.evaluation, "exact_match", score.right * _PPM // score.items, score.items)
                for score in teacher.about.scores
            ),
        )
    return replace(
        version,
        weights_cid=_file_cid(ASSETS / WEIGHTS),
        data=("prsm.teachers.arithmetic.data", "reasoning-gym"),
        training_run="prsm.teachers.arithmetic.recipe",
        scores=tuple(
            Score(exam.evaluation, "exact_match", exam.right * _PPM // exam.items, exam.items)
            for exam in exams(ASSETS / "CARD.md", model.version)
        ),
    )


def _file_cid(file: Traversable) -> str:
    """The CID that storage gives a file, without storing it."""
    profile = PROFILES[DEFAULT_PROFILE]
    builder = FileDagBuilder(profile, lambda _cid, _block: None)
    with file.open("rb") as opened:
        while chunk := opened.read(profile.chunk_bytes):
            builder.leaf(Cid.of(Codec.RAW, chunk), len(chunk))
    return str(builder.finish())
