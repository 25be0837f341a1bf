"""What a score on a known exam says of a model's ability: how much harder each exam is than the reference exam.

An exam that is not in the table says nothing: its hardness is unknown, and a guess would order models wrongly.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from types import MappingProxyType
from typing import Final

from prsm.agents.routers.quality import Score

REFERENCE: Final = (0.767, 1.540)
"""Log-odds of the two models that the shipped difficulty estimate was learnt from, over both of its tables."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A registered score: the exam's id, the share answered right (0 to 1), and of how many items (0: not said)."""

    exam: str
    accuracy: float
    items: int = 0


@dataclass(frozen=True, slots=True)
class Exam:
    """``hardness`` in log-odds above the reference exam, the exam's own number of items, and where both come from."""

    hardness: float
    items: int
    source: str


def scores(evaluations: Sequence[Evaluation]) -> list[Score]:
    """Those that the table knows, as the law of quality takes them; each exam once, its best-attested score."""
    best: dict[str, Score] = {}
    for each in evaluations:
        name = _known_name(each.exam)
        if name is None or not 0 <= each.accuracy <= 1:
            continue
        exam = EXAMS[name]
        items = min(each.items, exam.items) if each.items > 0 else exam.items
        if name not in best or items > best[name].items:
            best[name] = Score(each.accuracy, items, exam.hardness)
    return list(best.values())


def _known_name(exam: str) -> str | None:
    """``mmlu``, ``cais/MMLU``, ``mmlu@5-shot`` and ``arc_challenge:25`` alike."""
    name = re.split(r"[@:]", exam.lower().rpartition("/")[2], maxsplit=1)[0]
    name = re.sub(r"[^a-z0-9]+", "_", name).strip("_")
    name = _OTHER_NAMES.get(name, name)
    return name if name in EXAMS else None


def _log_odds(percent: float) -> float:
    return log(percent / (100 - percent))


def _equated(exam: Sequence[float], mmlu: Sequence[float]) -> float:
    """Mean equating (Kolen and Brennan 2014) by models that sat both exams: how much lower their log-odds are here."""
    apart = [_log_odds(there) - _log_odds(here) for here, there in zip(exam, mmlu, strict=True)]
    return _MMLU_HARDNESS + sum(apart) / len(apart)


_MMLU_HARDNESS = sum(ours - _log_odds(theirs) for ours, theirs in zip(REFERENCE, (67.95, 80.49), strict=True)) / 2
_GSM8K_HARDNESS = sum(ours - _log_odds(theirs) for ours, theirs in zip(REFERENCE, (63.21, 85.08), strict=True)) / 2
_TABLES = "the two models of the difficulty estimate on RouteLLM's tables (lm-sys/RouteLLM, Apache-2.0)"
_GPT_4 = "GPT-4 and GPT-3.5 in arXiv:2303.08774, Table 2, equated through MMLU"
_GPT_4_MMLU = (86.4, 70.0)
EXAMS: Final[Mapping[str, Exam]] = MappingProxyType(
    {
        "mmlu": Exam(_MMLU_HARDNESS, 14_042, _TABLES),
        "gsm8k": Exam(_GSM8K_HARDNESS, 1_319, _TABLES),
        "hellaswag": Exam(_equated((95.3, 85.5), _GPT_4_MMLU), 10_042, _GPT_4),
        "arc_challenge": Exam(_equated((96.3, 85.2), _GPT_4_MMLU), 1_172, _GPT_4),
        "winogrande": Exam(_equated((87.5, 81.6), _GPT_4_MMLU), 1_267, _GPT_4),
        "humaneval": Exam(_equated((67.0, 48.1), _GPT_4_MMLU), 164, _GPT_4),
        "mmlu_pro": Exam(_equated((72.6,), (88.7,)), 12_032, "GPT-4o in arXiv:2406.01574, equated through MMLU"),
    }
)
_OTHER_NAMES: Final = MappingProxyType(
    {"arc": "arc_challenge", "arc_c": "arc_challenge", "ai2_arc": "arc_challenge", "openai_humaneval": "humaneval",
     "human_eval": "humaneval", "gsm_8k": "gsm8k", "gsm8k_cot": "gsm8k"}
)  # fmt: skip
