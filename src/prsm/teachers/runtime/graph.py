"""A teacher's decoder as an ONNX graph of onnxruntime's fused operators, made here from nothing but shape and weights.

No graph is ever read from a file: what a folder brings is numbers, and what is computed with them stands here.
Attention is one operator that turns queries and keys, extends the cache in place and looks back.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prsm.teachers.runtime.int8 import LARGEST, RUN, Array, Int8Matrix, Matrix, restored, stacked
from prsm.teachers.runtime.onnx_writer import FUSED, Graph
from prsm.teachers.shape import Shape

HEAD_MULTIPLE = 16
"""The attention operator takes heads of such a width; others are padded with zeros, which changes no product."""
_INT8_ARITHMETIC = 4
"""``accuracy_level``: activations become eight bits too, run by run, and are multiplied as whole numbers."""


def padded_head_width(shape: Shape) -> int:
    """A head's width in the graph and in its cache."""
    return -(-shape.head_width // HEAD_MULTIPLE) * HEAD_MULTIPLE


def decoder_model(shape: Shape, weights: Mapping[str, Matrix]) -> bytes:
    """The ONNX model of a decoder.

    Inputs: ``ids`` (rows, tokens), a prompt filled up on its right or one token behind the cache; ``last`` (rows, 1):
    where in ``ids`` each row's last token stands; ``positions`` (rows): its position in the whole row; ``total``: the
    tokens of the longest row; and each layer's cache ``keys.N``, ``values.N`` (rows, kv heads, room, head width), to
    be bound to the outputs ``new_keys.N``, ``new_values.N`` as well. Output: ``scores`` (rows, vocabulary) after each
    row's last token.
    """
    return _Decoder(shape, weights).model()


@dataclass(frozen=True, slots=True)
class _Decoder:
    shape: Shape
    weights: Mapping[str, Matrix]

    def model(self) -> bytes:
        graph, shape = Graph(), self.shape
        self._declare(graph)
        embedding = self.weights["model.embed_tokens.weight"]
        graph.constant("embedding", restored(embedding))
        _rotations(graph, shape)
        x = graph.node("Gather", ["embedding", "ids"], ["x"])
        gain = graph.constant("gain", self._gain("model.layers.0.input_layernorm"))
        normal = graph.node("SimplifiedLayerNormalization", [x, gain], ["normal"], axis=-1, epsilon=shape.norm_epsilon)
        for layer in range(shape.layers):
            x, normal = self._layer(graph, layer, x, normal)
        last = graph.node("GatherND", [normal, "last"], ["normal.last"], batch_dims=1)
        _product(graph, "scores", embedding if shape.tied else self.weights["lm_head.weight"], last)
        return graph.model()

    def _declare(self, graph: Graph) -> None:
        cache = ("rows", self.shape.kv_heads, "room", padded_head_width(self.shape))
        graph.input("ids", "int64", ("rows", "tokens"))
        graph.input("last", "int64", ("rows", 1))
        graph.input("positions", "int32", ("rows",))
        graph.input("total", "int32", ())
        graph.output("scores", "float32", ("rows", self.shape.vocabulary))
        for layer in range(self.shape.layers):
            for name in (f"keys.{layer}", f"values.{layer}"):
                graph.input(name, "float32", cache)
                graph.output(f"new_{name}", "float32", cache)

    def _layer(self, graph: Graph, layer: int, x: str, normal: str) -> tuple[str, str]:
        """The stream after one layer, and the same normalised for the next."""
        mixed = self._attention(graph, layer, normal)
        x, normal = self._added(graph, f"{layer}.attention", x, mixed, f"model.layers.{layer}.post_attention_layernorm")
        gate, up, down = (self._matrix(layer, f"mlp.{name}_proj") for name in ("gate", "up", "down"))
        opened = _product(graph, f"gate.{layer}", gate, normal)
        opened = graph.node("QuickGelu", [opened], [f"silu.{layer}"], FUSED, alpha=1.0)  # of alpha 1 it is SiLU
        hidden = graph.node("Mul", [opened, _product(graph, f"up.{layer}", up, normal)], [f"hidden.{layer}"])
        final = layer + 1 == self.shape.layers
        following = "model.norm" if final else f"model.layers.{layer + 1}.input_layernorm"
        return self._added(graph, f"{layer}.mlp", x, _product(graph, f"down.{layer}", down, hidden), following)

    def _attention(self, graph: Graph, layer: int, normal: str) -> str:
        shape = self.shape
        inward = [_padded_rows(self._matrix(layer, f"self_attn.{name}_proj"), shape) for name in "qkv"]
        packed = _product(graph, f"qkv.{layer}", stacked(inward), normal)
        cache = [f"keys.{layer}", f"values.{layer}"]
        mixed = graph.node(
            "GroupQueryAttention",
            [packed, "", "", *cache, "positions", "total", "cosines", "sines"],
            [f"mixed.{layer}", *(f"new_{name}" for name in cache)],
            FUSED,
            num_heads=shape.heads,
            kv_num_heads=shape.kv_heads,
            do_rotary=1,
            scale=shape.head_width**-0.5,
        )
        return _product(graph, f"out.{layer}", _padded_columns(self._matrix(layer, "self_attn.o_proj"), shape), mixed)

    def _added(self, graph: Graph, name: str, x: str, branch: str, gain: str) -> tuple[str, str]:
        given = [x, branch, graph.constant(f"gain.{name}", self._gain(gain))]
        outputs = [f"normal.{name}", "", "", f"x.{name}"]
        epsilon = self.shape.norm_epsilon
        normal = graph.node("SkipSimplifiedLayerNormalization", given, outputs, FUSED, epsilon=epsilon)
        return outputs[3], normal

    def _matrix(self, layer: int, name: str) -> Matrix:
        return self.weights[f"model.layers.{layer}.{name}.weight"]

    def _gain(self, name: str) -> Array:
        return restored(self.weights[f"{name}.weight"])


def _product(graph: Graph, name: str, matrix: Matrix, x: str) -> str:
    """``x`` times the transpose of ``matrix`` (outputs, inputs)."""
    if not isinstance(matrix, Int8Matrix):
        return graph.node("MatMul", [x, graph.constant(f"{name}.weight", matrix.T)], [name])
    outputs, inputs = matrix.values.shape
    runs = matrix.scales.shape[1]
    stored = np.full((outputs, runs * RUN), LARGEST + 1, np.uint8)  # the operator's zero
    stored[:, :inputs] = matrix.values.astype(np.int16) + (LARGEST + 1)
    given = [
        x,
        graph.constant(f"{name}.weight", stored.reshape(outputs, runs, RUN)),
        graph.constant(f"{name}.scale", matrix.scales),
    ]
    sizes = {"K": inputs, "N": outputs, "bits": 8, "block_size": RUN, "accuracy_level": _INT8_ARITHMETIC}
    return graph.node("MatMulNBits", given, [name], FUSED, **sizes)


def _rotations(graph: Graph, shape: Shape) -> None:
    half = np.arange(0, shape.head_width, 2, dtype=np.float32) / np.float32(shape.head_width)
    angles = np.arange(shape.context_tokens, dtype=np.float32)[:, None] * np.float32(shape.rope_theta) ** -half
    spare = (padded_head_width(shape) - shape.head_width) // 2
    for name, table in (("cosines", np.cos(angles)), ("sines", np.sin(angles))):
        graph.constant(name, np.pad(table, ((0, 0), (0, spare))))


def _padded_rows(matrix: Matrix, shape: Shape) -> Matrix:
    """Each head's rows filled up: both halves, since the turning pairs one with the other."""
    if padded_head_width(shape) == shape.head_width:
        return matrix
    if isinstance(matrix, Int8Matrix):
        return Int8Matrix(_filled(matrix.values, shape), _filled(matrix.scales, shape))
    return _filled(matrix, shape)


def _padded_columns(matrix: Matrix, shape: Shape) -> Matrix:
    """The same for what reads the heads; runs of eight-bit weights would be torn apart, so that it becomes float32."""
    if padded_head_width(shape) == shape.head_width:
        return matrix
    return _filled(restored(matrix).T, shape).T


def _filled(matrix: np.ndarray, shape: Shape) -> np.ndarray:
    halves = matrix.reshape(-1, 2, shape.head_width // 2, matrix.shape[1])
    spare = (padded_head_width(shape) - shape.head_width) // 2
    return np.pad(halves, ((0, 0), (0, 0), (0, spare), (0, 0))).reshape(-1, matrix.shape[1])
