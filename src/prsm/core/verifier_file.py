"""Where the standalone verifiers lie. They are handed out and run as files, never imported by the node."""

from pathlib import Path

_PACKAGE = Path(__file__).parents[1]


def verifier_file() -> Path:
    """The file ``receipt_verifier.py`` of this installation."""
    return _PACKAGE / "receipt_verifier.py"


def audit_verifier_files() -> dict[str, bytes]:
    """By name, the files that together verify an exported audit log; they import nothing but each other."""
    verifier = (_PACKAGE / "audit_verifier.py").read_text(encoding="utf-8")
    return {
        "verify.py": verifier.replace("from prsm.receipt_verifier import", "from receipt_verifier import").encode(),
        "receipt_verifier.py": verifier_file().read_bytes(),
    }
