"""The modules of an encoder and its head -> an ONNX graph over padded texts.

The graph computes what `encoder`, `pooling` and `heads` compute, but on padded batches, for
programs that have no torch. `Graph` adds one operation at a time, and the functions below add
those of a BERT; `files.onnx` writes the result. skbert writes the graph itself instead of tracing
modules with torch.onnx: that needs no other package than onnx, and milliseconds instead of a
minute. Families that run through the padded forward of transformers have no graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from skbert.engine.model.attention import relative_bias
from skbert.engine.model.families import (
    FAMILIES,
    Block,
    blocks_of,
    embeddings_of,
    family_of,
    longest_text,
    position_bias_of,
)
from skbert.engine.model.heads import DenseHead, Head

if TYPE_CHECKING:
    from onnx import ModelProto
    from transformers import PretrainedConfig, PreTrainedModel

#: Names of the inputs, in their order; the last one only if segments differ.
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

#: Nodes with this prefix compute the output; `files.onnx` does not quantize them.
OUTPUT_SCOPE = "output"

# Version 17 is the first with LayerNormalization; runtimes from 2022 on read both.
_OPSET, _IR_VERSION = 17, 8

_LOWEST = float(np.finfo(np.float32).min)

#: The names that transformers has for the activations that `Graph.activation` knows.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
}


@dataclass(frozen=True)
class Cut:
    """What the graph keeps of a longer text.

    Attributes
    ----------
    max_length : int
        Number of tokens, special tokens included.
    n_first : int
        How many of them are the first tokens of the text; the others are the last ones.
    """

    max_length: int
    n_first: int


@dataclass(frozen=True)
class Classes:
    """Pooled vectors -> one number for each class.

    Attributes
    ----------
    head : torch.nn.Linear or DenseHead
        (d_model) -> (n_classes).
    link : {"softmax", "sigmoid"}
        What turns the logits into the output.
    """

    head: Head
    link: Literal["softmax", "sigmoid"] = "softmax"

    def add_to(self, graph: Graph, pooled: str) -> str:
        """Add the operations to a graph: (n_texts, d_model) -> (n_texts, n_classes)."""
        head = self.head
        if isinstance(head, DenseHead):
            pooled = graph.activation(head.activation, graph.linear(pooled, head.dense))
            head = head.output
        assert isinstance(head, nn.Linear)
        logits = graph.linear(pooled, head)
        return graph.softmax(logits) if self.link == "softmax" else graph.add("Sigmoid", logits)

    @property
    def width(self) -> int:
        """Number of classes."""
        return self.head.out_features


@dataclass(frozen=True)
class Vectors:
    """Pooled vectors -> the vectors of an embedding transformer.

    Attributes
    ----------
    width : int
        d_model.
    normalize : bool
        Whether to divide each vector by its Euclidean norm.
    pooler : mapping of str to Tensor, or None
        "weight", (d_model, d_model), and "bias", (d_model,), of BERT's pooler; None without it.
    """

    width: int
    normalize: bool
    pooler: Mapping[str, Tensor] | None = None

    def add_to(self, graph: Graph, pooled: str) -> str:
        """Add the operations to a graph: (n_texts, d_model) -> the same shape."""
        if self.pooler is not None:
            weight, bias = _array(self.pooler["weight"]), _array(self.pooler["bias"])
            pooled = graph.add("Tanh", graph.affine(pooled, weight.T, bias))
        if not self.normalize:
            return pooled
        norm = graph.add("ReduceL2", pooled, axes=[1], keepdims=1)
        return graph.add("Div", pooled, graph.add("Max", norm, graph.number(1e-12)))


class Graph:
    """A list of operations and weights that grows; values are known by their names.

    Attributes
    ----------
    scope : str
        How the names of the next operations and weights begin.
    """

    def __init__(self) -> None:
        self.scope = ""
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self._names: dict[Any, str] = {}

    def add(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operation of ONNX, and return the name of its result."""
        from onnx import helper

        name = f"{self.scope}/{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [*inputs], [name], name=name, **attributes))
        return name

    def constant(self, array: np.ndarray, name: str = "") -> str:
        """Add an array, and return its name."""
        name = f"{self.scope}/{name or 'constant'}_{len(self.constants)}"
        self.constants[name] = array
        return name

    def number(self, value: float) -> str:
        """Add a float32; equal numbers are added once."""
        return self._once(("float", value), np.array(value, dtype=np.float32))

    def integers(self, *values: int) -> str:
        """Add a vector of int64; equal vectors are added once."""
        return self._once(("int", values), np.array(values, dtype=np.int64))

    def integer(self, value: int) -> str:
        """Add an int64; equal numbers are added once."""
        return self._once(("scalar", value), np.array(value, dtype=np.int64))

    def _once(self, key: Any, array: np.ndarray, name: str = "") -> str:
        if key not in self._names:
            self._names[key] = self.constant(array, name)
        return self._names[key]

    def weights(self, module: nn.Module, name: str, array: np.ndarray) -> str:
        """Add an array of a module, once for all layers that share it."""
        key = (id(module), name)
        return self._once(key, array, name)

    def table(self, module: nn.Embedding, rows: str) -> str:
        """Look up rows of an embedding: (...) int64 -> (..., d)."""
        return self.add("Gather", self.weights(module, "weight", _array(module.weight)), rows)

    def linear(self, x: str, module: nn.Linear, scale: float = 1.0) -> str:
        """Multiply by the weights of a linear layer, and add its bias; both times `scale`."""
        weight = self.weights(module, "weight", _array(module.weight).T * np.float32(scale))
        product = self.add("MatMul", x, weight)
        bias = self.weights(module, "bias", _array(module.bias) * np.float32(scale))
        return self.add("Add", product, bias)

    def affine(self, x: str, weight: np.ndarray, bias: np.ndarray) -> str:
        """Compute x @ weight + bias."""
        product = self.add("MatMul", x, self.constant(weight, "weight"))
        return self.add("Add", product, self.constant(bias, "bias"))

    def norm(self, x: str, module: nn.LayerNorm) -> str:
        """Normalise the last axis."""
        weight = self.weights(module, "weight", _array(module.weight))
        bias = self.weights(module, "bias", _array(module.bias))
        return self.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=module.eps)

    def softmax(self, x: str) -> str:
        """Softmax over the last axis."""
        return self.add("Softmax", x, axis=-1)

    def activation(self, name: str, x: str) -> str:
        """Apply an activation to each element; "gelu_tanh" is the approximation of GPT."""
        if name == "relu":
            return self.add("Relu", x)
        if name == "tanh":
            return self.add("Tanh", x)
        if name == "silu":
            return self.add("Mul", x, self.add("Sigmoid", x))
        if name == "gelu":  # in this order, ONNX Runtime fuses it
            grown = self.add("Erf", self.add("Div", x, self.number(2**0.5)))
        else:
            cube = self.add("Mul", x, self.add("Mul", x, x))
            inner = self.add("Add", x, self.add("Mul", cube, self.number(0.044715)))
            grown = self.add("Tanh", self.add("Mul", inner, self.number((2 / np.pi) ** 0.5)))
        grown = self.add("Mul", x, self.add("Add", grown, self.number(1.0)))
        return self.add("Mul", grown, self.number(0.5))

    def slice(self, x: str, start: str, stop: str, axis: int) -> str:
        """Take a range of one axis."""
        return self.add("Slice", x, start, stop, self.integers(axis))


@torch.no_grad()
def build_onnx(
    encoder: PreTrainedModel,
    pooling: str,
    finish: Classes | Vectors,
    output: str,
    *,
    n_layers: int | None = None,
    cut: Cut | None = None,
    has_segments: bool = False,
) -> ModelProto:
    """Build the graph from padded ids to the output.

    Parameters
    ----------
    encoder : transformers.PreTrainedModel
    pooling : {"cls", "mean", "max"}
    finish : Classes or Vectors
    output : str
        Name of the output, (n_texts, n_classes) or (n_texts, d_model), float32.
    n_layers : int or None
        Number of layers to compute; None computes all.
    cut : Cut or None
        What is kept of a longer text; None if texts never have more than `max_length` tokens.
    has_segments : bool
        Whether "token_type_ids" is an input. Otherwise all tokens have segment 0.

    Returns
    -------
    onnx.ModelProto
        With the inputs "input_ids" and "attention_mask", (n_texts, length), int64, of any number
        of texts and any length. The mask is 1 for tokens and 0 for the padding after them.

    Raises
    ------
    ValueError
        If the family or the activation of the encoder has no graph.
    """
    from onnx import TensorProto, helper, numpy_helper

    check_has_graph(encoder.config)
    graph = Graph()
    names = INPUTS[: 3 if has_segments else 2]
    inputs = dict(zip(names, names, strict=True))
    graph.scope = "cut"
    if cut is not None:
        inputs = _add_cut(graph, inputs, cut)
    hidden = _add_embeddings(graph, encoder, inputs)
    bias = _add_visibility(graph, inputs["attention_mask"])
    bias = _add_distances(graph, encoder, inputs["input_ids"], bias)
    blocks = blocks_of(encoder)[:n_layers]
    activation = _ACTIVATIONS[_activation_name(encoder.config)]
    for number, block in enumerate(blocks):
        graph.scope = f"layer.{number}"
        is_first_only = pooling == "cls" and number + 1 == len(blocks)
        hidden = _add_layer(graph, block, activation, hidden, bias, first_only=is_first_only)
    graph.scope = OUTPUT_SCOPE
    result = finish.add_to(graph, _add_pooling(graph, pooling, hidden, inputs["attention_mask"]))
    graph.nodes.append(helper.make_node("Identity", [result], [output], name=f"{output}/Identity"))
    axes = ["n_texts", "length"]
    proto = helper.make_graph(
        graph.nodes,
        "skbert",
        [helper.make_tensor_value_info(name, TensorProto.INT64, axes) for name in names],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n_texts", finish.width])],
    )
    opset = helper.make_opsetid("", _OPSET)
    model = helper.make_model(
        proto, opset_imports=[opset], ir_version=_IR_VERSION, producer_name="skbert"
    )
    for name, array in graph.constants.items():  # now, because `make_model` copies the graph
        weight = numpy_helper.from_array(np.asarray(array, order="C"), name)
        model.graph.initializer.add().CopyFrom(weight)
    return model


def check_has_graph(config: PretrainedConfig) -> None:
    """Raise an error if skbert writes no graph for an encoder."""
    if family_of(config).padded:
        raise ValueError(
            f"The model has model_type={config.model_type!r}, which runs through the padded "
            "forward of transformers, but to_onnx writes encoders with model_type in "
            f"{[*FAMILIES]}. Choose such a model."
        )
    if _activation_name(config) not in _ACTIVATIONS:
        raise ValueError(
            f"The model has the activation {_activation_name(config)!r}, but to_onnx writes "
            f"{[*_ACTIVATIONS]}. Choose another model."
        )


def _activation_name(config: PretrainedConfig) -> str:
    return str(getattr(config, family_of(config).setting("hidden_act"), "gelu"))


def _array(weight: Tensor) -> np.ndarray:
    return weight.detach().to("cpu", torch.float32).numpy()


def _add_cut(graph: Graph, inputs: Mapping[str, str], cut: Cut) -> dict[str, str]:
    """Keep the first and the last tokens of longer texts: (n_texts, length) -> at most max_length.

    Of a text with n tokens more, the tokens from place `n_first` on come from n places later.
    """
    length = graph.add("Shape", inputs["input_ids"], start=1, end=2)
    n_kept = graph.add("Min", length, graph.integers(cut.max_length))
    n_kept = graph.add("Squeeze", n_kept, graph.integers(0))
    places = graph.add("Range", graph.integer(0), n_kept, graph.integer(1))
    n_tokens = graph.add("ReduceSum", inputs["attention_mask"], graph.integers(1), keepdims=1)
    n_lost = graph.add("Sub", n_tokens, graph.integer(cut.max_length))
    n_lost = graph.add("Max", n_lost, graph.integer(0))
    is_last = graph.add("GreaterOrEqual", places, graph.integer(cut.n_first))
    is_last = graph.add("Cast", is_last, to=_onnx_type("INT64"))
    places = graph.add("Add", places, graph.add("Mul", n_lost, is_last))
    return {name: graph.add("GatherElements", x, places, axis=1) for name, x in inputs.items()}


def _onnx_type(name: str) -> int:
    from onnx import TensorProto

    return int(TensorProto.DataType.Value(name))


def _add_places(graph: Graph, input_ids: str) -> str:
    """Add the places of tokens, 0, 1, ...: (length,)."""
    length = graph.add("Shape", input_ids, start=1, end=2)
    length = graph.add("Squeeze", length, graph.integers(0))
    return graph.add("Range", graph.integer(0), length, graph.integer(1))


def _add_embeddings(graph: Graph, encoder: PreTrainedModel, inputs: Mapping[str, str]) -> str:
    """Add words, positions and segments: (n_texts, length) -> (n_texts, length, d_model)."""
    graph.scope = "embeddings"
    embeddings = embeddings_of(encoder)
    input_ids, segment_ids = inputs["input_ids"], inputs.get("token_type_ids")
    hidden = graph.table(embeddings.words, input_ids)
    padding = embeddings.positions.padding_idx
    places = _add_places(graph, input_ids)
    if padding is not None:  # a padding token has its own position, also within a text
        padding_id = int(embeddings.words.padding_idx or 0)
        is_padding = graph.add("Equal", input_ids, graph.integer(padding_id))
        is_token = graph.add("Cast", graph.add("Not", is_padding), to=_onnx_type("INT64"))
        places = graph.add("Mul", graph.add("CumSum", is_token, graph.integer(1)), is_token)
        places = graph.add("Add", places, graph.integer(int(padding)))
    hidden = graph.add("Add", hidden, graph.table(embeddings.positions, places))
    if embeddings.segments is not None and segment_ids is not None:
        hidden = graph.add("Add", hidden, graph.table(embeddings.segments, segment_ids))
    elif embeddings.segments is not None:
        first = graph.constant(_array(embeddings.segments.weight)[0], "segment_0")
        hidden = graph.add("Add", hidden, first)
    hidden = graph.norm(hidden, embeddings.norm)
    if embeddings.projection is None:
        return hidden
    return graph.linear(hidden, embeddings.projection)


def _add_visibility(graph: Graph, attention_mask: str) -> str:
    """Make what attention adds to the scores of padding: (n_texts, 1, 1, length)."""
    visible = graph.add("Cast", attention_mask, to=_onnx_type("FLOAT"))
    hidden = graph.add("Sub", graph.number(1.0), visible)
    bias = graph.add("Mul", hidden, graph.number(_LOWEST))
    return graph.add("Unsqueeze", bias, graph.integers(1, 2))


def _add_distances(graph: Graph, encoder: PreTrainedModel, input_ids: str, bias: str) -> str:
    """Add the numbers for distances of tokens to `bias`: (n_texts, n_heads, length, length)."""
    table = position_bias_of(encoder)
    if table is None:
        return bias
    longest = longest_text(encoder.config)
    both = _array(relative_bias(table, longest))[0]  # (n_heads, longest, longest)
    by_distance = np.concatenate([both[:, :0:-1, 0], both[:, 0]], axis=1)  # 1 - longest ...
    places = _add_places(graph, input_ids)
    keys = graph.add("Unsqueeze", places, graph.integers(0))
    queries = graph.add("Unsqueeze", places, graph.integers(1))
    rows = graph.add("Add", graph.add("Sub", keys, queries), graph.integer(longest - 1))
    found = graph.add("Gather", graph.constant(by_distance.T, "distances"), rows)
    found = graph.add("Transpose", found, perm=[2, 0, 1])
    return graph.add("Add", bias, graph.add("Unsqueeze", found, graph.integers(0)))


def _add_layer(
    graph: Graph, block: Block, activation: str, hidden: str, bias: str, *, first_only: bool
) -> str:
    """Add one block: (n_texts, length, d_model) -> the same, or (n_texts, 1, d_model)."""
    d_head = block.query.out_features // block.n_heads
    keys = _add_heads(graph, graph.linear(hidden, block.key), block.n_heads, [0, 2, 3, 1])
    values = _add_heads(graph, graph.linear(hidden, block.value), block.n_heads)
    if first_only:  # the other tokens are only keys and values, as in `encode_first_token`
        hidden = graph.slice(hidden, graph.integers(0), graph.integers(1), axis=1)
        bias = graph.slice(bias, graph.integers(0), graph.integers(1), axis=2)
    query = graph.linear(hidden, block.query, scale=d_head**-0.5)
    queries = _add_heads(graph, query, block.n_heads)
    scores = graph.add("Add", graph.add("MatMul", queries, keys), bias)
    context = graph.add("MatMul", graph.softmax(scores), values)
    context = graph.add("Transpose", context, perm=[0, 2, 1, 3])
    context = graph.add("Reshape", context, graph.integers(0, 0, block.n_heads * d_head))
    attended = graph.add("Add", graph.linear(context, block.attention_output), hidden)
    hidden = graph.norm(attended, block.attention_norm)
    inner = graph.activation(activation, graph.linear(hidden, block.inner))
    return graph.norm(
        graph.add("Add", graph.linear(inner, block.output), hidden), block.output_norm
    )


def _add_heads(graph: Graph, x: str, n_heads: int, perm: Sequence[int] = (0, 2, 1, 3)) -> str:
    """(n_texts, length, d_model) -> (n_texts, n_heads, length, d_head), or as `perm` says."""
    return graph.add(
        "Transpose", graph.add("Reshape", x, graph.integers(0, 0, n_heads, -1)), perm=[*perm]
    )


def _add_pooling(graph: Graph, pooling: str, hidden: str, attention_mask: str) -> str:
    """Add the pooling: (n_texts, length, d_model) -> (n_texts, d_model)."""
    if pooling == "cls":
        first = graph.slice(hidden, graph.integers(0), graph.integers(1), axis=1)
        return graph.add("Squeeze", first, graph.integers(1))
    visible = graph.add("Cast", attention_mask, to=_onnx_type("FLOAT"))
    visible = graph.add("Unsqueeze", visible, graph.integers(2))
    if pooling == "mean":
        sums = graph.add(
            "ReduceSum", graph.add("Mul", hidden, visible), graph.integers(1), keepdims=0
        )
        n_tokens = graph.add("ReduceSum", visible, graph.integers(1), keepdims=0)
        return graph.add("Div", sums, n_tokens)
    is_token = graph.add("Cast", visible, to=_onnx_type("BOOL"))
    shown = graph.add("Where", is_token, hidden, graph.number(_LOWEST))
    return graph.add("ReduceMax", shown, axes=[1], keepdims=0)
