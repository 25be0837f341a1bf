"""Students in Keras on TensorFlow: the decoder of ``shape.py`` again, trained by a loop of its own to the same plan.

The weights go out and in under the names and in the order that transformers gives them, so that one runtime serves the
students of every back end. Runs are folders like those of torch, and resume from checkpoints of safetensors and JSON.
"""

# TensorFlow is an extra of its own and may be absent where types are checked; Keras' own types say str or None of much.
# pyright: basic, reportMissingImports=false, reportOptionalSubscript=false, reportArgumentType=false, reportIndexIssue=false, reportGeneralTypeIssues=false

import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"  # read once, when keras is imported

import keras
import msgspec
import numpy as np
import tensorflow as tf
from keras import layers, ops
from safetensors.numpy import load_file, save_file

from prsm.core.errors import ConfigError
from prsm.teachers.alphabet import END_ID, PAD_ID
from prsm.teachers.distillation.backends.keras_losses import total
from prsm.teachers.distillation.folder import read_shape, write_texts
from prsm.teachers.distillation.recipe import Method
from prsm.teachers.distillation.seams import NOTHING, Floats, Ints, Learnt, Lessons, LessonSource
from prsm.teachers.shape import Shape
from prsm.teachers.training.plan import TrainingPlan
from prsm.teachers.training.run_folder import STATE_FILE, Ended, RunFolder, write_durably
from prsm.teachers.training.schedule import progress, rate_share

_LENGTHS = 16
"""Batches are padded to a multiple of so many tokens: a graph is traced once a length."""


class KerasBackend:
    """The back end ``tensorflow``."""

    name = "tensorflow"

    def build(self, shape: Shape, seed: int) -> "KerasStudent":
        """A fresh decoder."""
        keras.utils.set_random_seed(seed)
        return KerasStudent(KerasDecoder(shape))

    def load(self, folder: Path) -> "KerasStudent":
        """The decoder in a teacher's folder."""
        network = KerasDecoder(read_shape(folder))
        network.load(load_file(folder / "model.safetensors"))
        return KerasStudent(network)


class KerasDecoder(keras.Model):
    """A Llama decoder; its calls answer logits (batch, tokens, vocabulary)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embed_tokens = layers.Embedding(shape.vocabulary, shape.width, embeddings_initializer=_normal(0.02))
        self.blocks = [Block(shape) for _ in range(shape.layers)]
        self.norm = layers.RMSNormalization(epsilon=shape.norm_epsilon)
        self.lm_head = None if shape.tied else _linear(shape.width, shape.vocabulary)
        self(np.zeros((1, 2), np.int64))  # makes the weights

    def call(self, ids: Any) -> Any:
        """Logits after each of ``ids`` (batch, tokens)."""
        turns = _turns(ops.shape(ids)[1], self.shape)
        x = self.embed_tokens(ids)
        for block in self.blocks:
            x = block(x, turns)
        x = self.norm(x)
        return ops.matmul(x, ops.transpose(self.embed_tokens.embeddings)) if self.lm_head is None else self.lm_head(x)

    def tensors(self) -> dict[str, Any]:
        """Its variables by the names of the weights file; matrices of layers lie transposed in Keras."""
        named = {"model.embed_tokens.weight": self.embed_tokens.embeddings, "model.norm.weight": self.norm.scale}
        for index, block in enumerate(self.blocks):
            named |= {f"model.layers.{index}.{name}.weight": variable for name, variable in block.tensors().items()}
        if self.lm_head is not None:
            named["lm_head.weight"] = self.lm_head.kernel
        return named

    def weights_file(self) -> dict[str, Floats]:
        """The tensors of ``model.safetensors``."""
        own = self.tensors()
        return {name: _as_stored(name, own[name].numpy()) for name in self.shape.tensors()}

    def load(self, weights: dict[str, Floats]) -> None:
        """Take over the tensors of a weights file; raises KeyError or ValueError where they are of another shape."""
        for name, variable in self.tensors().items():
            variable.assign(_as_stored(name, weights[name]))


class Block(layers.Layer):
    """One layer: attention and a gated feed-forward."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        keys, deep = shape.kv_heads * shape.head_width, 2 * shape.layers
        self.before_attention = layers.RMSNormalization(epsilon=shape.norm_epsilon)
        self.q, self.k, self.v = (_linear(shape.width, size) for size in (shape.width, keys, keys))
        self.o = _linear(shape.width, shape.width, deep)
        self.before_mlp = layers.RMSNormalization(epsilon=shape.norm_epsilon)
        self.gate, self.up = _linear(shape.width, shape.hidden), _linear(shape.width, shape.hidden)
        self.down = _linear(shape.hidden, shape.width, deep)

    def call(self, x: Any, turns: tuple[Any, Any]) -> Any:
        x = x + self._attended(self.before_attention(x), turns)
        inner = self.before_mlp(x)
        return x + self.down(ops.silu(self.gate(inner)) * self.up(inner))

    def tensors(self) -> dict[str, Any]:
        named = {"input_layernorm": self.before_attention.scale, "post_attention_layernorm": self.before_mlp.scale}
        named |= {f"self_attn.{name}_proj": getattr(self, name).kernel for name in "qkvo"}
        return named | {f"mlp.{name}_proj": getattr(self, name).kernel for name in ("gate", "up", "down")}

    def _attended(self, x: Any, turns: tuple[Any, Any]) -> Any:
        shape, tokens = self.shape, ops.shape(x)[1]
        q, k, v = (
            ops.transpose(ops.reshape(part(x), (-1, tokens, heads, shape.head_width)), (0, 2, 1, 3))
            for part, heads in ((self.q, shape.heads), (self.k, shape.kv_heads), (self.v, shape.kv_heads))
        )
        q, k = _turned(q, turns), _turned(k, turns)
        k, v = (ops.repeat(part, shape.heads // shape.kv_heads, axis=1) for part in (k, v))
        scores = ops.matmul(q, ops.transpose(k, (0, 1, 3, 2))) * shape.head_width**-0.5
        seen = ops.tril(ops.ones((tokens, tokens), "bool"))
        shares = ops.softmax(ops.where(seen, scores, -1e30))
        mixed = ops.transpose(ops.matmul(shares, v), (0, 2, 1, 3))
        return self.o(ops.reshape(mixed, (-1, tokens, shape.width)))


class KerasStudent:
    """A decoder in Keras that writes, is scored and learns."""

    def __init__(self, network: KerasDecoder) -> None:
        self.network = network
        self._logits = tf.function(network, input_signature=[tf.TensorSpec((None, None), tf.int64)])

    @property
    def parameters(self) -> int:
        """How many weights it has."""
        return self.network.count_params()

    def write(
        self, prompts: Sequence[Sequence[int]], *, max_tokens: int, temperature: float = 0.0, seed: int = 0
    ) -> list[list[int]]:
        """What it writes after each prompt; each token reads the whole text again, without a cache."""
        chance = np.random.default_rng(seed)
        rows, here = np.arange(len(prompts)), np.array([len(prompt) for prompt in prompts])
        ids = np.full((len(prompts), int(here.max()) + max_tokens), PAD_ID, np.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = prompt
        going = np.ones(len(prompts), np.bool_)
        for _ in range(max_tokens):
            logits = self._logits(ids[going, : int(here[going].max())]).numpy()
            logits = logits[np.arange(len(logits)), here[going] - 1]
            ids[rows[going], here[going]] = chosen = _chosen(logits, temperature, chance)
            here[going] += 1
            going[rows[going]] = chosen != END_ID
            if not going.any():
                break
        return [ids[row, len(prompt) : here[row]].tolist() for row, prompt in enumerate(prompts)]

    def scores(self, ids: Ints, temperature: float) -> Floats:
        """What it thinks comes next."""
        return tf.nn.log_softmax(self._logits(ids) / temperature).numpy()

    def learn(
        self, source: LessonSource, method: Method, plan: TrainingPlan, folder: Path, stop: Callable[[], bool]
    ) -> Learnt:
        """Train by this back end's loop. Raises ConfigError for what of a plan only torch does."""
        if plan.optimizer != "adamw" or plan.precision != "float32":
            raise ConfigError("The back end tensorflow trains with adamw in float32.", param="plan.optimizer")
        run = RunFolder(folder)
        with run.held():
            return _Loop(self.network, source, method, plan, run).run(stop)

    def export(self, folder: Path) -> None:
        """Write the teacher's folder."""
        write_texts(folder, self.network.shape)
        save_file(self.network.weights_file(), folder / "model.safetensors", metadata={"format": "pt"})


class _Loop:
    """One run of the optimizer; what is random in it is in the source alone."""

    def __init__(
        self, network: KerasDecoder, source: LessonSource, method: Method, plan: TrainingPlan, run: RunFolder
    ) -> None:
        self.network, self.source, self.method, self.plan, self.run_folder = network, source, method, plan, run
        self.optimizer = keras.optimizers.AdamW(
            plan.rate, weight_decay=plan.weight_decay, beta_1=plan.beta1, beta_2=plan.beta2, epsilon=1e-8
        )
        self.optimizer.exclude_from_weight_decay(var_names=["scale", "embeddings"])
        self.optimizer.build(network.trainable_variables)
        self.step, self.cpu_s = 0, 0.0
        self._gradients = tf.function(self._gradients_of, reduce_retracing=True, autograph=False)

    def run(self, stop: Callable[[], bool]) -> Learnt:
        """Do what is left of the plan."""
        self.run_folder.begin({"plan": msgspec.to_builtins(self.plan), "method": msgspec.to_builtins(self.method)})
        self._resume()
        begun, before, loss, stopped = time.process_time(), self.cpu_s, self.run_folder.last_loss(), False
        while not stopped and (done := progress(self.plan, self.step, self.cpu_s)) < 1:
            rate = self.plan.rate * rate_share(self.plan, self.step, done)
            loss = self._update(rate)
            self.step += 1
            self.cpu_s = before + time.process_time() - begun
            if self.step % self.plan.report_every_steps == 0:
                self.run_folder.report({"step": self.step, "steps": self.plan.steps, "loss": loss, "rate": rate})
                stopped = stop()
            if self.step % self.plan.checkpoint_every_steps == 0:
                self._save()
        self._save()
        self.run_folder.end(Ended(state="stopped" if stopped else "done", step=self.step))
        return Learnt(self.step, loss, stopped)

    def _update(self, rate: float) -> float:
        summed, count, gradients = 0.0, 0.0, None
        for _ in range(self.plan.accumulate):
            loss, units, found = self._gradients(*_arrays(self.source.draw()))
            summed, count = summed + float(loss), count + float(units)
            gradients = found if gradients is None else [a + b for a, b in zip(gradients, found, strict=True)]
        gradients = [gradient / max(count, 1.0) for gradient in gradients or []]
        if self.plan.clip_norm:
            gradients, _ = tf.clip_by_global_norm(gradients, self.plan.clip_norm)
        self.optimizer.learning_rate = rate
        self.optimizer.apply(gradients, self.network.trainable_variables)
        return summed / max(count, 1.0)

    def _gradients_of(self, ids: Any, targets: Any, likely: Any, log_likely: Any) -> tuple[Any, Any, list[Any]]:
        with tf.GradientTape() as tape:
            taught = targets != NOTHING
            logits = tf.boolean_mask(self.network(ids), taught)
            scored = tf.boolean_mask(likely, taught), tf.boolean_mask(log_likely, taught)
            loss = total(self.method, logits, tf.boolean_mask(targets, taught), *scored)
        variables = [variable.value for variable in self.network.trainable_variables]
        gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(loss, variables)]
        return loss, tf.math.count_nonzero(taught), gradients

    def _save(self) -> None:
        state = {"step": self.step, "cpu_s": self.cpu_s, "source": self.source.state()}
        with self.run_folder.checkpoint(self.step) as folder:
            save_file(self._kept(), folder / "tensors.safetensors")
            write_durably(folder / STATE_FILE, state | {"metrics_bytes": self.run_folder.metrics_bytes()})
        self.run_folder.prune(self.plan.keep_checkpoints)

    def _resume(self) -> None:
        folder = self.run_folder.latest()
        if folder is None:
            return
        state = msgspec.json.decode((folder / STATE_FILE).read_bytes())
        kept = load_file(folder / "tensors.safetensors")
        self.network.load({name: kept[name] for name in self.network.shape.tensors()})
        for index, variable in enumerate(self.optimizer.variables):
            variable.assign(kept[f"optimizer.{index}"])
        self.step, self.cpu_s = state["step"], state["cpu_s"]
        self.source.restore(state["source"])
        self.run_folder.cut_metrics(state["metrics_bytes"])

    def _kept(self) -> dict[str, Any]:
        own = {f"optimizer.{index}": np.asarray(each) for index, each in enumerate(self.optimizer.variables)}
        return self.network.weights_file() | own


def _arrays(lessons: Lessons) -> tuple[Any, Any, Any, Any]:
    """A batch, padded to one of few lengths; without the teachers' thoughts, empty ones."""
    batch, tokens = lessons.ids.shape
    more = ((0, 0), (0, -tokens % _LENGTHS))
    likely, log_likely = lessons.likely, lessons.log_likely
    if likely is None or log_likely is None:
        likely, log_likely = np.zeros((batch, tokens, 0), np.int64), np.zeros((batch, tokens, 0), np.float32)
    return (
        tf.constant(np.pad(lessons.ids, more, constant_values=PAD_ID)),
        tf.constant(np.pad(lessons.targets, more, constant_values=NOTHING)),
        tf.constant(np.pad(likely, (*more, (0, 0)))),
        tf.constant(np.pad(log_likely, (*more, (0, 0)))),
    )


def _chosen(logits: Floats, temperature: float, chance: np.random.Generator) -> Ints:
    if not temperature:
        return logits.argmax(-1)
    # The Gumbel trick: the largest of logits with such noise is a draw from their softmax.
    return (logits / temperature + chance.gumbel(size=logits.shape)).argmax(-1)


def _as_stored(name: str, tensor: Floats) -> Floats:
    """A tensor between the order of Keras and that of the file, either way."""
    is_linear = tensor.ndim == 2 and name != "model.embed_tokens.weight"
    return np.ascontiguousarray(tensor.T if is_linear else tensor)


def _linear(width: int, size: int, deep: int = 1) -> layers.Dense:
    return layers.Dense(size, use_bias=False, kernel_initializer=_normal((width * deep) ** -0.5))


def _normal(scale: float) -> keras.initializers.RandomNormal:
    return keras.initializers.RandomNormal(stddev=scale, seed=random.randrange(2**31))  # noqa: S311 - starts weights


def _turns(tokens: Any, shape: Shape) -> tuple[Any, Any]:
    half = np.arange(0, shape.head_width, 2, dtype=np.float32)
    rates = ops.convert_to_tensor(shape.rope_theta ** (-half / shape.head_width), "float32")
    angles = ops.cast(ops.arange(tokens), "float32")[:, None] * rates[None]
    twice = ops.concatenate([angles, angles], -1)
    return ops.cos(twice), ops.sin(twice)


def _turned(x: Any, turns: tuple[Any, Any]) -> Any:
    first, second = ops.split(x, 2, axis=-1)
    return x * turns[0] + ops.concatenate([-second, first], -1) * turns[1]
