"""The texts of a student's folder, so that any back end's weights make the same folder (docs/decisions/0021)."""

import json
from pathlib import Path

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import VOCABULARY, alphabet, tokenizer_config
from prsm.teachers.shape import Shape, read_config


def write_texts(folder: Path, shape: Shape) -> None:
    """Write ``config.json``, and the alphabet where it is the student's."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(shape.config(), indent=2))
    if shape.vocabulary == len(VOCABULARY):
        write_alphabet(folder)


def write_alphabet(folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
    alphabet().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer_config(), indent=2))


def read_shape(folder: Path) -> Shape:
    """The shape of the student in ``folder``. Raises ConfigError where there is none, or of another kind."""
    try:
        return read_config(json.loads((folder / "config.json").read_text()))
    except (OSError, ValueError) as error:
        raise ConfigError(f"There is no readable config.json in {folder}: {error}.") from error
