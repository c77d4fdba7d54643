"""Converts a JAX function of one array to an ONNX model. Needs the package `onnx`.

Supports the operations that this project's networks use in evaluation (`onnx_operations`), and raises
NotImplementedError for any other. Whatever does not depend on the input is computed during the conversion.
"""

from collections.abc import Callable, Mapping

import jax
import numpy as np
import onnx
from onnx import helper

from cifar_jax.inference.export.onnx_nodes import Graph, Tensor, onnx_type
from cifar_jax.inference.export.onnx_operations import (
    ANY_LAYOUT,
    OTHERS,
    broadcast,
    elementwise,
    is_elementwise,
)
from cifar_jax.inference.export.stablehlo import BODIES

# The versions of December 2022, which ONNX Runtime 1.14 and later can read.
OPSET = 18
IR_VERSION = 8

# Operations that change no value.
_IDENTITIES = ("copy", "copy_p", "stop_gradient")


def convert(
    function: Callable,
    images: jax.ShapeDtypeStruct,
    input_name: str,
    output_names: list[str],
    metadata: Mapping[str, str],
) -> bytes:
    """Returns the contents of an ONNX file for a function of one array.

    Args:
      function: the function to trace.
      images: shape and type of its argument; a size may be symbolic.
      input_name: the name of the input.
      output_names: those of the outputs.
      metadata: texts to store in the file.
    """
    closed = jax.make_jaxpr(function)(images)
    graph = Graph()
    results = _run(graph, closed.jaxpr, closed.consts, [Tensor(input_name, images.shape)])
    outputs = list(zip(output_names, closed.out_avals, strict=True))
    for result, (name, aval) in zip(results, outputs, strict=True):
        graph.add("Identity", [graph.plain(result, aval.shape)], aval.shape, name=name)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            getattr(function, "__name__", "network"),
            [_value_info(input_name, images)],
            [_value_info(name, aval) for name, aval in outputs],
            graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cifar_jax",
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def _value_info(name: str, array) -> onnx.ValueInfoProto:
    shape = [size if isinstance(size, int) else str(size) for size in array.shape]
    return helper.make_tensor_value_info(name, onnx_type(array.dtype), shape)


def _run(graph: Graph, jaxpr, consts, inputs) -> list:
    """Adds a traced function to the graph and returns its outputs."""
    values = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
    values |= zip(jaxpr.invars, inputs, strict=True)

    def read(atom):
        # Literals carry their own value.
        return np.asarray(atom.val) if hasattr(atom, "val") else values[atom]

    for equation in jaxpr.eqns:
        results = _add_equation(graph, equation, [read(atom) for atom in equation.invars])
        values |= zip(equation.outvars, results, strict=True)
    return [read(atom) for atom in jaxpr.outvars]


def _add_equation(graph: Graph, equation, inputs: list) -> list:
    """Adds one operation of JAX, or the function that it calls, and returns its outputs."""
    name, params = equation.primitive.name, equation.params
    body = next((params[key] for key in BODIES if key in params), None)
    if body is not None:
        return _run(graph, getattr(body, "jaxpr", body), getattr(body, "consts", ()), inputs)
    graph.scope = _scope(equation)
    out = equation.outvars[0].aval
    if name in _IDENTITIES:
        return inputs
    if name == "broadcast_in_dim":
        dimensions = params["broadcast_dimensions"]
        return [broadcast(graph, inputs[0], out.shape, dimensions)]
    if all(isinstance(value, np.ndarray) for value in inputs):
        return _computed(equation, inputs)
    if is_elementwise(name):
        inputs = graph.with_equal_layouts(inputs)
        return [elementwise(graph, name, params, inputs)]
    if name not in OTHERS:
        raise NotImplementedError(f"the export to ONNX does not know JAX's operation {name}")
    if name not in ANY_LAYOUT:
        shapes = [atom.aval.shape for atom in equation.invars]
        inputs = [graph.plain(v, shape) for v, shape in zip(inputs, shapes, strict=True)]
    return [OTHERS[name](graph, out, *inputs, **params)]


def _scope(equation) -> str:
    """The layer that an operation belongs to: "ResNet/stage1_block1/conv1/"."""
    stack = str(equation.source_info.name_stack)
    return f"{stack}/" if stack else ""


def _computed(equation, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of an operation whose inputs are all constants, computed by JAX."""
    if is_elementwise(equation.primitive.name):
        inputs = np.broadcast_arrays(*inputs)
    results = equation.primitive.bind(*map(jax.numpy.asarray, inputs), **equation.params)
    if not equation.primitive.multiple_results:
        results = [results]
    return [np.asarray(result) for result in results]
