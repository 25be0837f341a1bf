"""Makes a teacher of eight bits and says what that costs: ``python -m prsm.teachers.export FOLDER --int8``.

The new folder appears whole or not at all, with a manifest of its files' hashes. Compared is what both write: the share
of tokens chosen alike behind the same beginnings, and of answers alike throughout.
"""

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from prsm.core.errors import ConfigError, PrsmError
from prsm.teachers.alphabet import CHARACTERS, END_ID, prompt_ids
from prsm.teachers.questions import example
from prsm.teachers.runtime.engine import Engine
from prsm.teachers.runtime.folder import CONFIG, TOKENIZER, WEIGHTS, ModelFolder, read_json, write_manifest
from prsm.teachers.runtime.graph import decoder_model
from prsm.teachers.runtime.int8 import Int8Matrix, Matrix, quantised
from prsm.teachers.runtime.weights import INT8_CONFIG, written
from prsm.teachers.teacher_model import ABOUT, About, write_about

_COPIED: Final = (TOKENIZER, "tokenizer_config.json", "README.md")


class Exported(Struct, frozen=True):
    """Bytes of the weights before and after, and what of ``prompts`` greedy answers stayed: shares from 0 to 1."""

    bytes_before: int
    bytes_after: int
    prompts: int
    same_tokens: float
    same_answers: float


def export_int8(source: Path, target: Path) -> ModelFolder:
    """The teacher of ``source`` with its matrices in eight bits, as the folder ``target``, which must not be there.

    Raises ConfigError where ``source`` is no teacher in floats or ``target`` is there.
    """
    model = ModelFolder.open(source)
    if model.int8:
        raise ConfigError(f"{source} has eight bits already.", remedy="Export the folder that it came from.")
    if target.exists():
        raise ConfigError(f"{target} is there already.", remedy="Name another folder with --to, or remove it.")
    config = read_json(source / CONFIG, dict[str, Any]) | {"quantization_config": INT8_CONFIG}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as made:
        folder = Path(made) / "folder"
        folder.mkdir()
        (folder / WEIGHTS).write_bytes(written(in_eight_bits(model.weights())))
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        for name in _COPIED:
            if (source / name).is_file():
                shutil.copyfile(source / name, folder / name)
        if (source / ABOUT).is_file():  # other weights: what the exams said of those does not hold for these
            about = replace(read_json(source / ABOUT, About), scores=())
            write_about(folder, about)
        write_manifest(folder)
        folder.rename(target)
    return ModelFolder.open(target)


def in_eight_bits(weights: dict[str, Matrix]) -> dict[str, Matrix]:
    """Every matrix in eight bits; the norms' gains stay as they are."""
    return {
        name: matrix if isinstance(matrix, Int8Matrix) or matrix.ndim < 2 else quantised(matrix)
        for name, matrix in weights.items()
    }


def agreement(one: Engine, other: Engine, prompts: Sequence[Sequence[int]], max_tokens: int) -> tuple[float, float]:
    """Of what ``one`` writes: the share of tokens that ``other`` would choose there too, and of whole answers."""
    answers = one.write_all(prompts, max_tokens=max_tokens, ends={END_ID})
    begun = [[*prompt, *ids[:at]] for prompt, ids in zip(prompts, answers, strict=True) for at in range(len(ids))]
    followed = iter(other.write_all(begun, max_tokens=1, ends=()))
    alike = [[next(followed) == [token] for token in ids] for ids in answers]
    tokens = sum(map(len, alike))
    return sum(map(sum, alike)) / max(tokens, 1), sum(map(all, alike)) / max(len(alike), 1)


def compared(source: ModelFolder, target: ModelFolder, prompts: Sequence[str], max_tokens: int) -> Exported:
    """What the eight bits of ``target`` save and cost."""
    engines = [Engine(model.shape, model.weights()) for model in (source, target)]
    same = agreement(engines[0], engines[1], [prompt_ids(prompt) for prompt in prompts], max_tokens)
    return Exported(source.weights_bytes, target.weights_bytes, len(prompts), *same)


def example_prompts(folder: Path, count: int, seed: int) -> list[str]:
    """Questions of the forms in a folder's ``teacher.json``; without forms, characters at random."""
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    forms = read_json(folder / ABOUT, About).questions if (folder / ABOUT).exists() else ()
    if forms:
        return [example(chance.choice(forms), chance) for _ in range(count)]
    return ["".join(chance.choices(CHARACTERS, k=chance.randint(3, 12))) for _ in range(count)]


def _arguments(given: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m prsm.teachers.export", description=__doc__)
    parser.add_argument("folder", type=Path, help="a teacher's folder, in floats")
    parser.add_argument("--int8", action="store_true", help="write a folder of eight bits beside it and compare both")
    parser.add_argument("--to", type=Path, help="where that folder is written (FOLDER-int8)")
    parser.add_argument("--onnx", type=Path, help="write the graph that the runtime makes, for other programs")
    parser.add_argument("--prompts", type=int, default=200, help="how many questions the comparison asks")
    parser.add_argument("--seed", type=int, default=0, help="of these questions")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Exit code 0 when done, 1 when refused, 2 when nothing was asked for."""
    asked = _arguments(given)
    folder: Path = asked.folder
    if not (asked.int8 or asked.onnx):
        print("Nothing to do: give --int8 or --onnx FILE.", file=sys.stderr)
        return 2
    try:
        model = ModelFolder.open(folder)
        if asked.int8:
            target = export_int8(folder, asked.to or folder.with_name(folder.name + "-int8"))
            about = read_json(folder / ABOUT, About) if (folder / ABOUT).exists() else None
            prompts = example_prompts(folder, asked.prompts, asked.seed)
            result = compared(model, target, prompts, about.max_tokens if about else model.shape.context_tokens)
            print(f"{target.path}: version {target.version}")
            print(f"{result.bytes_before:,} -> {result.bytes_after:,} bytes; {result.prompts} prompts:")
            print(f"{result.same_tokens:.2%} of the tokens and {result.same_answers:.2%} of the answers are the same")
            model = target
        if asked.onnx:
            asked.onnx.write_bytes(decoder_model(model.shape, model.weights()))
    except (PrsmError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
