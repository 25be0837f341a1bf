"""Where the standalone receipt verifier lies. It is handed out and run as a file, never imported by the node."""

from pathlib import Path


def verifier_file() -> Path:
    """The file ``receipt_verifier.py`` of this installation."""
    return Path(__file__).parents[1] / "receipt_verifier.py"
