"""A seeded catalogue of models as hubs and routers list them: varied, with the facts that each entry was made of.

Entries are composed, not copied: what an entry is for (task, subject, language) is said in one of several wordings, or
left out of the name, and what a source would not state (a price, a context, a licence) is unknown there too. The facts
are the ground truth of the labelled queries in ``data/discovery_queries.json``.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from prsm.federation.discovery.seams import NANO, ListedPrice, Listing

READ_AT = datetime(2026, 11, 1, tzinfo=UTC)
SOURCES = ("hub", "router", "lab", "edge")
_SOURCE_WEIGHTS = (78, 12, 6, 4)


@dataclass(frozen=True, slots=True)
class Task:
    """What a model does: the word in names, wordings with {subject} and {language}, what it takes and gives."""

    words: tuple[str, ...]
    wordings: tuple[str, ...]
    capabilities: tuple[str, ...] = ("chat",)
    takes: tuple[str, ...] = ("text",)
    gives: tuple[str, ...] = ("text",)


TASKS: dict[str, Task] = {
    "conversation": Task(
        ("Chat", "Instruct", "Assistant"),
        (
            "A conversational assistant for {subject}. Speaks {language}.",
            "Instruction-tuned for dialogue about {subject} in {language}.",
            "Chats about {subject} and keeps to the point; {language} only.",
        ),
        ("chat", "tools"),
    ),
    "summarization": Task(
        ("Summary", "TLDR", "Abstract"),
        (
            "Condenses long {language} documents on {subject} into short abstracts.",
            "Writes summaries of texts about {subject}, in {language}.",
            "Boils {subject} reports down to a few sentences ({language}).",
        ),
    ),
    "translation": Task(
        ("MT", "Translate", "En2X"),
        (
            "Machine translation between English and {language}, tuned on {subject}.",
            "Translates {subject} texts from English to {language} and back.",
            "A bilingual English-{language} translator for {subject}.",
        ),
    ),
    "code": Task(
        ("Coder", "Code", "Dev"),
        (
            "Writes and repairs source code for {subject}; comments in {language}.",
            "A programming assistant for {subject} with {language} explanations.",
            "Completes functions and reviews pull requests in {subject} projects; understands {language}.",
        ),
        ("chat", "tools"),
    ),
    "extraction": Task(
        ("NER", "Extract", "IE"),
        (
            "Pulls names, dates and amounts out of {language} documents on {subject} as JSON.",
            "Named entity recognition for {subject}, trained on {language} text.",
            "Information extraction from {subject} records in {language}.",
        ),
    ),
    "classification": Task(
        ("Classifier", "Topics", "Labels"),
        (
            "Sorts {language} messages about {subject} into categories.",
            "Text classification for {subject}: topic and urgency, {language}.",
            "Labels {subject} documents by topic; {language}.",
        ),
    ),
    "sentiment": Task(
        ("Sentiment", "Opinion", "Mood"),
        (
            "Tells positive from negative opinions about {subject} in {language}.",
            "Sentiment analysis of {language} comments on {subject}.",
            "Scores how happy customers sound in {language} reviews of {subject}.",
        ),
    ),
    "moderation": Task(
        ("Guard", "Shield", "Moderation"),
        (
            "Flags hate, self-harm and abuse in {language} conversations about {subject}.",
            "A safety filter for {subject} forums in {language}: toxic or harmful content is marked.",
            "Content moderation for {language} communities around {subject}.",
        ),
    ),
    "embedding": Task(
        ("Embed", "E", "Vec"),
        (
            "Sentence embeddings for semantic search over {subject} in {language}.",
            "Dense vectors of {language} passages on {subject}, for retrieval.",
            "Maps {language} texts about {subject} to vectors for clustering and search.",
        ),
        ("embeddings",),
    ),
    "reranking": Task(
        ("Rerank", "Ranker", "CrossEncoder"),
        (
            "Reorders search results on {subject} by relevance; {language}.",
            "A cross-encoder that scores how well a {language} passage answers a question about {subject}.",
            "Second-stage ranking of {subject} passages in {language}.",
        ),
        ("embeddings",),
    ),
    "transcription": Task(
        ("ASR", "Whisper", "Speech2Text"),
        (
            "Transcribes {language} speech about {subject} with timestamps.",
            "Automatic speech recognition for {language}, adapted to {subject} recordings.",
            "Turns {language} audio from {subject} into written text.",
        ),
        ("chat",),
        ("audio",),
    ),
    "speech": Task(
        ("TTS", "Voice", "Speak"),
        (
            "Text to speech: a natural {language} voice for {subject}.",
            "Reads {subject} texts aloud in {language}.",
            "Synthesises {language} speech; recorded for {subject} narration.",
        ),
        ("chat",),
        ("text",),
        ("audio",),
    ),
    "captioning": Task(
        ("VL", "Vision", "Caption"),
        (
            "Looks at pictures from {subject} and describes them in {language}.",
            "A vision-language model that answers {language} questions about {subject} images.",
            "Captions photographs for {subject}; {language} output.",
        ),
        ("chat", "vision"),
        ("text", "image"),
    ),
    "ocr": Task(
        ("OCR", "DocVL", "Scan"),
        (
            "Reads scanned {language} forms and handwriting from {subject}.",
            "Optical character recognition for {language} paperwork in {subject}.",
            "Extracts tables and print from photographed {subject} documents in {language}.",
        ),
        ("chat", "vision"),
        ("text", "image"),
    ),
    "reasoning": Task(
        ("Reason", "Think", "R"),
        (
            "Thinks step by step before it answers hard questions on {subject}; {language}.",
            "A reasoning model with long chains of thought for {subject} in {language}.",
            "Plans, checks itself and solves multi-step {subject} problems ({language}).",
        ),
        ("chat", "tools"),
    ),
    "question-answering": Task(
        ("QA", "RAG", "Answer"),
        (
            "Answers {language} questions about {subject} from passages you give it, with citations.",
            "Grounded question answering over {subject} documents in {language}.",
            "Finds the answer span in {language} texts on {subject}.",
        ),
    ),
}

SUBJECTS: dict[str, tuple[str, ...]] = {
    "medicine": ("clinical notes", "medicine", "hospital discharge letters", "patient care"),
    "law": ("contract law", "court rulings", "legal agreements", "legislation"),
    "finance": ("annual reports", "banking", "stock markets", "accounting"),
    "insurance": ("insurance claims", "policies and claims", "damage reports"),
    "education": ("school homework", "university courses", "tutoring", "exam preparation"),
    "chemistry": ("chemistry", "molecules and reactions", "laboratory protocols"),
    "biology": ("genomics", "protein biology", "ecology field notes"),
    "mathematics": ("mathematics", "olympiad problems", "algebra and calculus"),
    "physics": ("physics", "astronomy papers", "quantum mechanics"),
    "agriculture": ("farming", "crop diseases", "livestock"),
    "cooking": ("recipes", "restaurants", "food and kitchens"),
    "travel": ("hotels and flights", "tourism", "city guides"),
    "retail": ("online shops", "product catalogues", "e-commerce orders"),
    "support": ("customer support tickets", "help desks", "call centres"),
    "news": ("newspaper articles", "journalism", "press releases"),
    "sports": ("football", "sports commentary", "match statistics"),
    "games": ("video games", "role-playing stories", "game masters and quests"),
    "fiction": ("novels", "poetry", "creative writing"),
    "religion": ("scripture", "theology", "sermons"),
    "history": ("archives", "mediaeval manuscripts", "history"),
    "databases": ("SQL databases", "data warehouses", "spreadsheets"),
    "web": ("web front ends", "JavaScript", "React components"),
    "systems": ("Rust and C++", "embedded firmware", "operating system kernels"),
    "security": ("cyber security", "malware analysis", "security logs"),
    "energy": ("power grids", "oil and gas wells", "solar plants"),
    "automotive": ("cars", "vehicle repair", "driving scenes"),
    "maps": ("satellite images and maps", "geography", "street addresses"),
    "recruiting": ("job applications", "CVs and vacancies", "hiring interviews"),
    "government": ("public administration", "tax forms", "citizens' requests"),
    "psychology": ("mental health", "counselling", "therapy sessions"),
}

LANGUAGES: dict[str, str] = {
    "en": "English",
    "de": "German",
    "fr": "French",
    "es": "Spanish",
    "pt": "Portuguese",
    "it": "Italian",
    "nl": "Dutch",
    "pl": "Polish",
    "cs": "Czech",
    "uk": "Ukrainian",
    "ru": "Russian",
    "tr": "Turkish",
    "ar": "Arabic",
    "he": "Hebrew",
    "fa": "Persian",
    "hi": "Hindi",
    "bn": "Bengali",
    "ta": "Tamil",
    "ur": "Urdu",
    "zh": "Chinese",
    "ja": "Japanese",
    "ko": "Korean",
    "vi": "Vietnamese",
    "th": "Thai",
    "id": "Indonesian",
    "sw": "Swahili",
    "yo": "Yoruba",
    "am": "Amharic",
    "fi": "Finnish",
    "sv": "Swedish",
    "el": "Greek",
    "hu": "Hungarian",
}
_LANGUAGE_WEIGHTS = (20, *([3] * 31))

FAMILIES = (
    *("Llama-3.1", "Llama-3.3", "Qwen2.5", "Qwen3", "Mistral-v0.3", "Mixtral", "Gemma-2", "Gemma-3", "Phi-4"),
    *("Falcon3", "Yi-1.5", "DeepSeek-V3", "Granite-3.1", "OLMo-2", "Command-R", "Aya", "InternLM3", "SmolLM2"),
    *("Nemotron", "GLM-4", "MiniCPM", "Baichuan2", "StableLM-2", "Bloomz", "Pythia", "Ministral"),
)
SIZES_M = (135, 360, 500, 1_500, 3_000, 7_000, 8_000, 14_000, 32_000, 70_000, 123_000, 405_000)
LICENCES = ("apache-2.0", "mit", "llama3.1", "gemma", "cc-by-nc-4.0", "openrail", "bsd-3-clause", None)
_LICENCE_WEIGHTS = (34, 18, 12, 8, 10, 5, 3, 10)
CONTEXTS = (2_048, 4_096, 8_192, 32_768, 131_072, 262_144, 1_000_000, None)
_CONTEXT_WEIGHTS = (4, 10, 22, 24, 22, 4, 2, 12)
TRAITS: dict[str, tuple[str, ...]] = {
    "quantised": ("Four-bit weights.", "Quantised for laptops and phones."),
    "long": ("Remembers very long inputs.", "Made for whole books at once."),
    "fast": ("Answers within milliseconds.", "Tuned for low latency."),
    "distilled": ("Distilled from a larger teacher.", "A small student of a big model."),
    "merged": ("A merge of several checkpoints.", "Merged with task arithmetic."),
    "plain": ("", ""),
}
_TRAIT_WEIGHTS = (12, 8, 10, 10, 10, 50)
_PUBLISHERS = (
    *("aurora", "basecamp", "cedar", "delta", "ember", "fjord", "granit", "harbour", "iris", "juniper", "kestrel"),
    *("lumen", "meridian", "nimbus", "orchid", "pioneer", "quartz", "riverbed", "solstice", "tundra", "umbra"),
)
_KINDS = ("labs", "ai", "research", "nlp", "works", "org")


@dataclass(frozen=True, slots=True)
class Entry:
    """One listing, where it is listed, and the facts it was made of."""

    source: str
    listing: Listing
    facts: dict[str, str]


def entries(count: int, seed: int) -> Iterator[Entry]:
    """``count`` entries with names that are unique; the same for the same seed, whatever ``count`` is."""
    chance = random.Random(seed)
    taken: set[str] = set()
    for _ in range(count):
        yield _entry(chance, taken)


def _entry(chance: random.Random, taken: set[str]) -> Entry:
    task_name = chance.choice(list(TASKS))
    subject_name = chance.choice(list(SUBJECTS))
    language_code = chance.choices(list(LANGUAGES), _LANGUAGE_WEIGHTS)[0]
    trait_name = chance.choices(list(TRAITS), _TRAIT_WEIGHTS)[0]
    source = chance.choices(SOURCES, _SOURCE_WEIGHTS)[0]
    family, size_m = chance.choice(FAMILIES), chance.choice(SIZES_M)
    task = TASKS[task_name]
    subject, language = chance.choice(SUBJECTS[subject_name]), LANGUAGES[language_code]
    said = chance.choice(task.wordings).format(subject=subject, language=language)
    name = _name(chance, taken, family, size_m, chance.choice(task.words), language_code)
    licence = chance.choices(LICENCES, _LICENCE_WEIGHTS)[0]
    context = chance.choices(CONTEXTS, _CONTEXT_WEIGHTS)[0]
    gated = chance.choices((False, True, None), (75, 15, 10))[0]
    listing = Listing(
        name=name,
        description=f"{said} {chance.choice(TRAITS[trait_name])}".strip(),
        capabilities=frozenset(task.capabilities),
        input_modalities=frozenset(task.takes),
        output_modalities=frozenset(task.gives),
        context_tokens=context,
        parameters=size_m * 1_000_000,
        licence=licence,
        gated=gated,
        price=_price(chance, source, size_m),
        revision=f"{chance.getrandbits(64):016x}",
    )
    facts = {"task": task_name, "subject": subject_name, "language": language_code, "trait": trait_name}
    return Entry(source, listing, facts | {"family": family, "size": _size(size_m), "name": name})


def _name(chance: random.Random, taken: set[str], family: str, size_m: int, word: str, language_code: str) -> str:
    publisher = f"{chance.choice(_PUBLISHERS)}-{chance.choice(_KINDS)}"
    parts = [family, _size(size_m), word, *([language_code] if chance.random() < 0.4 else [])]
    name = f"{publisher}/{'-'.join(parts)}"
    number = 2
    while name in taken:
        name = f"{publisher}/{'-'.join(parts)}-v{number}"
        number += 1
    taken.add(name)
    return name


def _size(size_m: int) -> str:
    return f"{size_m}M" if size_m < 1_000 else f"{size_m / 1_000:g}B"


def _price(chance: random.Random, source: str, size_m: int) -> ListedPrice | None:
    """Routers state prices, hubs seldom do; dearer with size, within a factor of four."""
    if chance.random() < {"hub": 0.75, "router": 0.02, "lab": 0.3, "edge": 0.6}[source]:
        return None
    cents = max(1, round(size_m**0.6 / 20 * chance.uniform(0.5, 2)))
    per_million = cents * NANO // 100
    return ListedPrice(source, READ_AT, "USD", per_million, per_million * chance.choice((1, 2, 3, 4)))
