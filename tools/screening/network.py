"""The branch that grows out of the encoder: its own copies of some layers, and what it says of a whole text.

Trained with torch on the states that the eight-bit lower layers give, exported as nodes to be put to the encoder's graph.
"""

from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto, TensorProto, helper
from safetensors.numpy import load_file
from tools.build_encoder import HEADS, WIDTH, Graph, layer
from torch import nn
from torch.nn import functional

FORK = 3
"""Lower layers shared with the encoder."""
OWN = 3
"""Layers of the branch's own, begun as copies of the encoder's next ones."""
FORK_VALUE = f"encoder.layer.{FORK - 1}.output.LayerNorm"


class WholeNumbers(Graph):
    """Matrices multiplied in eight bits, activations quantised as they come: six times as fast where a CPU has VNNI."""

    def linear(self, x: str, layer: str, part: str, weight: np.ndarray, bias: np.ndarray) -> str:
        name = f"{layer}.{part}"
        scale = np.maximum(np.abs(weight).max(0), 1e-9).astype(np.float32) / 127
        q = self.put(f"{name}.q", np.round(weight / scale).astype(np.int8))
        parts = [f"{name}.{part}" for part in ("x", "x_scale", "x_zero")]
        self.nodes.append(helper.make_node("DynamicQuantizeLinear", [x], parts, name=f"{name}.quantise"))
        product = self.op("MatMulInteger", parts[0], q, parts[2])
        scales = self.op("Mul", parts[1], self.put(f"{name}.scale", scale))
        scaled = self.op("Mul", self.op("Cast", product, to=TensorProto.FLOAT), scales)
        return self.op("Add", scaled, self.put(f"{name}.bias", bias))


class Block(nn.Module):
    """One transformer block of BERT (post-norm)."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.mix_norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.inner = nn.Linear(WIDTH, 4 * WIDTH)
        self.outer = nn.Linear(4 * WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        b, t, _ = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
        x = self.mix_norm(x + self.drop(self.mix(seen.transpose(1, 2).reshape(b, t, WIDTH))))
        return self.norm(x + self.drop(self.outer(functional.gelu(self.inner(x)))))

    def copy_from(self, weights: dict[str, np.ndarray], name: str) -> None:
        """Begins as the encoder's block ``name``."""
        for part, module in self._named().items():
            for kind, value in zip(("weight", "bias"), (module.weight, module.bias), strict=True):
                if part == "qkv":
                    rows = [weights[f"{name}.attention.self.{p}.{kind}"] for p in ("query", "key", "value")]
                    value.data.copy_(torch.from_numpy(np.concatenate(rows)))
                else:
                    value.data.copy_(torch.from_numpy(weights[f"{name}.{part}.{kind}"]))

    def weights(self, name: str) -> dict[str, np.ndarray]:
        """In the names of the encoder's own file."""
        found: dict[str, np.ndarray] = {}
        for part, module in self._named().items():
            for kind, value in (("weight", module.weight), ("bias", module.bias)):
                array = value.detach().numpy()
                if part == "qkv":
                    for p, third in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                        found[f"{name}.attention.self.{p}.{kind}"] = third
                else:
                    found[f"{name}.{part}.{kind}"] = array
        return found

    def _named(self) -> dict[str, nn.Linear | nn.LayerNorm]:
        return {
            "qkv": self.qkv, "attention.output.dense": self.mix, "attention.output.LayerNorm": self.mix_norm,
            "intermediate.dense": self.inner, "output.dense": self.outer, "output.LayerNorm": self.norm,
        }  # fmt: skip


class Network(nn.Module):
    """Blocks, then per output an attention over tokens: what is said in one sentence of many is not averaged away."""

    def __init__(self, outputs: int, encoder: Path) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(OWN))
        weights = load_file(encoder / "model.safetensors")
        for index, block in enumerate(self.blocks):
            block.copy_from(weights, f"encoder.layer.{FORK + index}")  # type: ignore[operator]
        self.regard = nn.Linear(WIDTH, outputs)
        self.value = nn.Linear(WIDTH, outputs)
        nn.init.zeros_(self.regard.weight)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Logits [batch, outputs] of states [batch, tokens, width] and a mask [batch, tokens] of booleans."""
        for block in self.blocks:
            x = block(x, mask)
        x = self.drop(x)
        regard = self.regard(x).masked_fill(~mask[:, :, None], -1e9).softmax(1)
        return (regard * self.value(x)).sum(1)


def export(network: Network, prefix: str = "screen") -> bytes:
    """The branch in eight bits, as nodes and weights to be put to the encoder's graph; its output is ``{prefix}.logits``."""
    g = WholeNumbers()
    mask = g.op("Cast", "attention_mask", to=TensorProto.FLOAT)
    hidden = g.op("Unsqueeze", g.op("Mul", g.op("Sub", g.scalar(1.0), mask), g.scalar(-1e9)), g.ints(1, 2))
    x = FORK_VALUE
    for index, block in enumerate(network.blocks):
        name = f"layer.{index}"
        x = layer(g, x, hidden, name, block.weights(name))  # type: ignore[operator]
    heads = [
        g.op("Add", g.op("MatMul", x, g.put(f"{n}.weight", m.weight.detach().numpy().T)), g.put(f"{n}.bias", m.bias.detach().numpy()))
        for n, m in (("regard", network.regard), ("value", network.value))
    ]  # fmt: skip
    away = g.op("Mul", g.op("Sub", g.scalar(1.0), g.op("Unsqueeze", mask, g.ints(2))), g.scalar(-1e9))
    regard = g.op("Softmax", g.op("Add", heads[0], away), axis=1)
    g.op("ReduceSum", g.op("Mul", regard, heads[1]), g.ints(1), keepdims=0, name="logits")
    grown = ModelProto()
    for node in g.nodes:
        renamed = [i if i in {FORK_VALUE, "attention_mask"} else f"{prefix}.{i}" for i in node.input]
        made = helper.make_node(
            node.op_type,
            renamed,
            [f"{prefix}.{o}" for o in node.output],
            name=f"{prefix}.{node.name or node.output[0]}",
        )
        made.attribute.extend(node.attribute)
        grown.graph.node.append(made)
    for name, tensor in g.initializers.items():
        tensor.name = f"{prefix}.{name}"
        grown.graph.initializer.append(tensor)
    return grown.SerializeToString(deterministic=True)
