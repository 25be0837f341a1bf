"""SentencePiece models: those that the library trains are read as the library reads them."""

import io
from typing import Any

import pytest
import sentencepiece
from tests.fuzz.model_files import UNK, charsmap, piece, protobuf_field, sentencepiece_bytes, sentencepiece_seeds

from prsm.data_layer.formats.model_contents import FileBytes, ModelLimits, UnsafeModelFile
from prsm.data_layer.formats.sentencepiece_file import SentencePieceModel, TokenizerType, parse_sentencepiece

TEXT = [f"the quick brown fox jumps over the lazy dog {number}" for number in range(300)]
TEXT += ["un été à la mer, ﬁn ①"] * 20


def trained(**options: Any) -> bytes:
    """A model that the library makes of a small text."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=out, minloglevel=2, num_threads=1, **options
    )
    return out.getvalue()


def parsed(data: bytes, limits: ModelLimits | None = None) -> SentencePieceModel:
    return parse_sentencepiece(FileBytes(data), limits or ModelLimits())


@pytest.mark.parametrize(
    ("type_", "options"),
    [
        (TokenizerType.UNIGRAM, {"vocab_size": 60}),
        (TokenizerType.UNIGRAM, {"vocab_size": 60, "normalization_rule_name": "nfkc_cf", "self_test_sample_size": 5}),
        (
            TokenizerType.UNIGRAM,
            {"vocab_size": 65, "control_symbols": ["<a>"], "user_defined_symbols": ["é", "▁" * 31]},
        ),
        (TokenizerType.BPE, {"vocab_size": 350, "byte_fallback": True, "normalization_rule_name": "identity"}),
        (TokenizerType.BPE, {"vocab_size": 60, "pad_id": 3, "character_coverage": 0.98, "split_digits": True}),
        (TokenizerType.CHAR, {"vocab_size": 40}),
        (TokenizerType.WORD, {"vocab_size": 40, "hard_vocab_limit": False}),
    ],
)
def test_models_of_the_library_pass(type_: TokenizerType, options: dict[str, Any]) -> None:
    data = trained(model_type=type_.name.lower(), **options)
    pieces = sentencepiece.SentencePieceProcessor(model_proto=data).get_piece_size()
    assert parsed(data) == SentencePieceModel(type_, pieces, bool(options.get("byte_fallback")), len(data))


def test_every_prefix_of_a_model_is_refused_or_a_model_to_the_library() -> None:
    data = sentencepiece_seeds()[1]
    accepted = 0
    for length in range(len(data)):
        try:
            parsed(data[:length])
        except UnsafeModelFile:
            continue
        sentencepiece.SentencePieceProcessor(model_proto=data[:length])
        accepted += 1
    assert accepted == 1  # an empty normalizer is as good as none


def test_fields_of_a_piece_may_come_in_another_order_or_be_left_out() -> None:
    text, kind = protobuf_field(1, b"a"), protobuf_field(3, 1)
    data = UNK + protobuf_field(1, kind + text) + protobuf_field(1, protobuf_field(1, b"b")) + piece("c" * 1024)
    assert parsed(data).pieces == sentencepiece.SentencePieceProcessor(model_proto=data).get_piece_size() == 4


def test_a_word_may_be_a_control_piece_and_a_plain_one_as_in_the_library() -> None:
    data = UNK + piece("<s>", 0, 3) + piece("<s>", -1)
    assert parsed(data).pieces == sentencepiece.SentencePieceProcessor(model_proto=data).get_piece_size() == 3


def test_paths_of_a_character_map_are_as_long_as_readers_have_room_for() -> None:
    """32 places with a value each on one path pass, 33 do not."""

    def chain(length: int) -> bytes:
        units = {0: 256 << 10}
        for place in range(1, length + 1):
            at = place * 256 ^ 0x61
            units |= {at: 0x61 | 1 << 8 | (at ^ (place + 1) * 256) << 10, (place + 1) * 256: 1 << 31}
        map_ = protobuf_field(2, charsmap(units, count=256 * (length + 2)))
        return sentencepiece_bytes(UNK + piece("b"), b"", map_)

    assert parsed(chain(32)).pieces == 2
    processor = sentencepiece.SentencePieceProcessor(model_proto=chain(32))
    assert processor.normalize("a" * 64) == processor.normalize("bb")
    with pytest.raises(UnsafeModelFile, match="more than 32 bytes"):
        parsed(chain(33))


def test_limits_are_settings() -> None:
    data = sentencepiece_seeds()[0]
    for limits, reason in (
        (ModelLimits(max_pieces=5), "more than 5 pieces"),
        (ModelLimits(max_tokenizer_bytes=100), "100 are allowed"),
    ):
        with pytest.raises(UnsafeModelFile, match=reason):
            parsed(data, limits)
