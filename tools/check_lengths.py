"""Refuses files above 600 lines and functions above 70 in ``src``; names files above 400 without refusing them."""

import ast
import sys
from pathlib import Path

MAX_FILE, ASK_FILE, MAX_FUNCTION = 600, 400, 70
EXEMPT = "migrations"


def main() -> int:
    """Print what is too long; the exit code counts it."""
    refused = 0
    for path in sorted(Path("src").rglob("*.py")):
        if EXEMPT in path.parts:
            continue
        text = path.read_text()
        lines = text.count("\n")
        if lines > ASK_FILE:
            print(f"{path}: {lines} lines{' (refused)' if lines > MAX_FILE else ''}")
            refused += lines > MAX_FILE
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MAX_FUNCTION:
                    print(f"{path}:{node.lineno}: {node.name} has {length} lines (refused)")
                    refused += 1
    return refused


if __name__ == "__main__":
    sys.exit(main())
