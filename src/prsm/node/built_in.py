"""What answers with no provider configured, and what this node states of it: versions that it signs itself."""

from collections.abc import Sequence
from dataclasses import replace
from importlib import resources
from importlib.resources.abc import Traversable

from prsm.core.encoder import TextEncoder
from prsm.data_layer.codec.cid import Cid, Codec
from prsm.data_layer.codec.unixfs_dag import DEFAULT_PROFILE, PROFILES, FileDagBuilder
from prsm.federation.model_registry import Model, Provider
from prsm.federation.registry.versions import Score, Version
from prsm.teachers.arithmetic.card import exams
from prsm.teachers.arithmetic.teacher import ASSETS, MAX_OUTPUT_TOKENS, ArithmeticTeacher

PROVIDER = "local"
_TEACHER_CONTEXT_TOKENS = 1_000_000
"""It reads the last message only, so that a conversation before it may have any length."""
_PPM = 1_000_000


def built_in(
    encoder: TextEncoder, teacher: ArithmeticTeacher | None, account: str
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
            version=f"{encoder.model}-u8-{encoder.sha256[:12]}",
            owner_account=account,
            model="minilm-l6",
            licence="Apache-2.0",
        )
    ]
    if teacher:
        models.append(
            Model(
                name=f"{PROVIDER}/arithmetic",
                provider=PROVIDER,
                upstream_name="arithmetic",
                capabilities=frozenset({"chat"}),
                domain="arithmetic",
                context_tokens=_TEACHER_CONTEXT_TOKENS,
                max_output_tokens=MAX_OUTPUT_TOKENS,
                input_price_micro=20_000_000,
                output_price_micro=60_000_000,
                description="A small teacher that runs inside the node and answers arithmetic: sums, differences, "
                "products, greatest common divisors, counting legs of animals.",
                version=teacher.version,
                owner_account=account,
                model="arithmetic",
                licence="MIT",
            )
        )
    return [Provider(PROVIDER, "embedded")], models


def statement_of(model: Model) -> Version:
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
    return replace(
        version,
        weights_cid=_file_cid(ASSETS / "model.safetensors"),
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
