"""The graph that is written without ``onnx`` is one that ``onnx`` reads and finds right."""

import numpy as np
import pytest
from tests.support.small_teachers import random_weights, small_shape

from prsm.teachers.runtime.graph import decoder_model
from prsm.teachers.runtime.int8 import quantised
from prsm.teachers.runtime.onnx_writer import Graph

onnx = pytest.importorskip("onnx", reason="the extra `train` is not installed")


def test_every_field_is_read_back() -> None:
    graph = Graph()
    table = np.arange(300, dtype=np.float32).reshape(3, 100)
    graph.constant("table", table)
    graph.input("x", "int64", ("rows", 3))
    graph.node("Concat", ["x", "x"], ["y"], axis=-1)
    graph.node("QuickGelu", ["table"], ["z"], "com.microsoft", alpha=0.5)
    graph.output("y", "int64", ("rows", 6))
    model = onnx.load_from_string(graph.model())
    (constant,) = model.graph.initializer
    assert np.array_equal(onnx.numpy_helper.to_array(constant), table)
    concat, gelu = model.graph.node
    assert (concat.op_type, list(concat.input), list(concat.output), concat.attribute[0].i) == (
        "Concat",
        ["x", "x"],
        ["y"],
        -1,
    )
    assert (gelu.domain, gelu.attribute[0].f) == ("com.microsoft", 0.5)
    dimensions = model.graph.input[0].type.tensor_type.shape.dim
    assert (dimensions[0].dim_param, dimensions[1].dim_value) == ("rows", 3)
    assert {opset.domain for opset in model.opset_import} == {"", "com.microsoft"}


@pytest.mark.parametrize("int8", [False, True])
def test_a_decoder_is_a_valid_model(int8: bool) -> None:
    weights = random_weights(small_shape())
    if int8:
        weights = {n: quantised(m) if isinstance(m, np.ndarray) and m.ndim > 1 else m for n, m in weights.items()}
    model = onnx.load_from_string(decoder_model(small_shape(), weights))
    known = {*(entry.name for entry in model.graph.input), *(entry.name for entry in model.graph.initializer), ""}
    for node in model.graph.node:
        assert known >= set(node.input)
        known |= set(node.output)
    assert known >= {entry.name for entry in model.graph.output}
    assert {node.op_type for node in model.graph.node} >= {"GroupQueryAttention", "MatMulNBits" if int8 else "MatMul"}
