"""A traced JAX function of one array as an ONNX model; needs the package `onnx`.

Takes the operations that the networks of this project make in evaluation, and raises
NotImplementedError for any other. What does not depend on the input is computed here, once. JAX's
images have the channel last, ONNX's convolutions take it first: between convolutions it stays there.
"""

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np
import onnx
from onnx import helper, numpy_helper

from cifar_jax.inference.export.stablehlo import BODIES

# Of December 2022, with the format that was current then: ONNX Runtime 1.14 reads them.
OPSET = 18
IR_VERSION = 8

# Axes of [batch, height, width, channel] in the order [batch, channel, height, width], and back.
_TO_FIRST, _TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)

# JAX's name -> ONNX's, of those that work value by value.
_ELEMENTWISE = {
    "abs": "Abs",
    "add": "Add",
    "div": "Div",
    "erf": "Erf",
    "exp": "Exp",
    "ge": "GreaterOrEqual",
    "gt": "Greater",
    "le": "LessOrEqual",
    "logistic": "Sigmoid",
    "lt": "Less",
    "max": "Max",
    "min": "Min",
    "mul": "Mul",
    "neg": "Neg",
    "sqrt": "Sqrt",
    "sub": "Sub",
    "tanh": "Tanh",
}
_ONE = np.ones((), np.float32)
# What changes no value.
_SAME = ("copy", "copy_p", "stop_gradient")


class _Tensor(NamedTuple):
    """A value that depends on the input."""

    name: str
    # In JAX's order of axes. An axis of size 1 may stand for a longer one that it is to be stretched to.
    shape: tuple
    channel_first: bool = False


def convert(
    function: Callable,
    images: jax.ShapeDtypeStruct,
    names: tuple[str, str],
    metadata: Mapping[str, str],
) -> bytes:
    """The ONNX model of a function of one array, as a file holds it.

    Args:
      function: what is traced.
      images: the argument's shape, which may have a symbolic size, and type.
      names: of the input and the output.
      metadata: texts that the file is to hold.
    """
    closed = jax.make_jaxpr(function)(images)
    graph = _Graph()
    given = _Tensor(names[0], images.shape)
    (result,) = graph.run(closed.jaxpr, closed.consts, [given])
    (aval,) = closed.out_avals
    result = graph.plain(result, aval.shape)
    graph.add("Identity", [result], result.shape, name=names[1])
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            getattr(function, "__name__", "network"),
            [_value_info(names[0], images)],
            [_value_info(names[1], aval)],
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
    return helper.make_tensor_value_info(name, _onnx_type(array.dtype), shape)


def _onnx_type(dtype) -> int:
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))


class _Graph:
    """The nodes and constants so far."""

    def __init__(self):
        self.nodes, self.constants, self._scope = [], [], ""

    def run(self, jaxpr, consts, inputs) -> list:
        """Adds a function; each value that goes in or out is a _Tensor or a constant NumPy array."""
        values = dict(zip(jaxpr.constvars, map(np.asarray, consts), strict=True))
        values |= zip(jaxpr.invars, inputs, strict=True)

        def read(atom):
            # A number that is written into the function has a value of its own.
            return np.asarray(atom.val) if hasattr(atom, "val") else values[atom]

        for equation in jaxpr.eqns:
            results = self._equation(equation, [read(atom) for atom in equation.invars])
            values |= zip(equation.outvars, results, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def add(self, operation: str, inputs: list, shape, channel_first=False, name="", **attributes):
        """Adds a node and returns its output; constants among the inputs are written as they lie."""
        name = name or f"{self._scope}{operation}_{len(self.nodes)}"
        taken = []
        for place, value in enumerate(inputs):
            if isinstance(value, np.ndarray):
                self.constants.append(numpy_helper.from_array(value, f"{name}_{place}"))
                taken.append(self.constants[-1].name)
            else:
                taken.append(value.name)
        self.nodes.append(helper.make_node(operation, taken, [name], name, **attributes))
        return _Tensor(name, tuple(shape), channel_first)

    def plain(self, value, shape):
        """The value with the channel last, of exactly this shape."""
        if tuple(value.shape) != tuple(shape):
            raise NotImplementedError(f"an array of {value.shape} stretched to {shape}")
        if isinstance(value, np.ndarray) or not value.channel_first:
            return value
        return self.add("Transpose", [value], value.shape, perm=_TO_LAST)

    def _channel_first(self, value):
        """The value with the channel first, where it has four axes."""
        if len(value.shape) != 4:
            return value
        if isinstance(value, np.ndarray):
            return np.ascontiguousarray(value.transpose(_TO_FIRST))
        if value.channel_first:
            return value
        return self.add("Transpose", [value], value.shape, True, perm=_TO_FIRST)

    def _equation(self, equation, inputs: list) -> list:
        name, params = equation.primitive.name, equation.params
        body = next((params[key] for key in BODIES if key in params), None)
        if body is not None:
            return self.run(getattr(body, "jaxpr", body), getattr(body, "consts", ()), inputs)
        self._scope = _scope(equation)
        out = equation.outvars[0].aval
        shapes = [atom.aval.shape for atom in equation.invars]
        if name in _SAME:
            return inputs
        if name == "broadcast_in_dim":
            return [self._broadcast(inputs[0], out.shape, params["broadcast_dimensions"])]
        if all(isinstance(value, np.ndarray) for value in inputs):
            return _computed(equation, inputs)
        if name in _ELEMENTWISE or name in _SPECIAL:
            inputs = self._with_equal_layouts(inputs)
            return [self._elementwise(name, params, inputs)]
        handler = getattr(self, f"_{name}", None)
        if handler is None:
            raise NotImplementedError(f"JAX's operation {name} as one of ONNX")
        if not (name.startswith("reduce_") or name == "conv_general_dilated"):
            inputs = [self.plain(v, shape) for v, shape in zip(inputs, shapes, strict=True)]
        return [handler(out, *inputs, **params)]

    def _with_equal_layouts(self, inputs: list) -> list:
        first = any(isinstance(value, _Tensor) and value.channel_first for value in inputs)
        return [self._channel_first(value) for value in inputs] if first else inputs

    def _elementwise(self, name: str, params, inputs: list) -> _Tensor:
        # A constant that has its channel first by now still counts in ONNX's order.
        first = any(isinstance(value, _Tensor) and value.channel_first for value in inputs)
        ordered = [_ordered(value, first) for value in inputs]
        shape = functools.reduce(_stretched, ordered)
        add = functools.partial(self.add, shape=shape, channel_first=first)
        if name in _SPECIAL:
            return _SPECIAL[name](add, inputs, params)
        constant = inputs[-1] if isinstance(inputs[-1], np.ndarray) else None
        if name == "sub" and constant is not None:
            # The same to the last bit, and a form that runtimes merge into the convolution before.
            return add("Add", [inputs[0], -constant])
        if name == "max" and constant is not None and not constant.any():
            return add("Relu", inputs[:1])
        return add(_ELEMENTWISE[name], inputs)

    def _broadcast(self, value, shape, dimensions):
        """Axes of size 1 are put in; that they are longer matters to no operation that follows."""
        sizes = [1] * len(shape)
        for axis, size in zip(dimensions, value.shape, strict=True):
            sizes[axis] = size
        if isinstance(value, np.ndarray):
            value = value.reshape(sizes)
            fixed = all(isinstance(size, int) for size in shape)
            return np.broadcast_to(value, shape) if fixed else value
        if tuple(sizes) == tuple(value.shape):
            return value
        return self._reshaped(self.plain(value, value.shape), sizes)

    def _reshaped(self, value: _Tensor, shape) -> _Tensor:
        sizes = np.array([size if isinstance(size, int) else -1 for size in shape], np.int64)
        return self.add("Reshape", [value, sizes], shape)

    def _reshape(self, out, value, **_):
        return self._reshaped(value, out.shape)

    _squeeze = _expand_dims = _reshape

    def _transpose(self, out, value, permutation):
        return self.add("Transpose", [value], out.shape, perm=permutation)

    def _reduce(self, operation, out, value, axes):
        if tuple(sorted(axes)) == (1, 2) and value.channel_first:
            axes = (2, 3)
        else:
            value = self.plain(value, value.shape)
        axes = np.array(axes, np.int64)
        return self.add(operation, [value, axes], out.shape, keepdims=0)

    def _reduce_sum(self, out, value, axes, **_):
        return self._reduce("ReduceSum", out, value, axes)

    def _reduce_max(self, out, value, axes, **_):
        return self._reduce("ReduceMax", out, value, axes)

    def _dot_general(self, out, left, right, dimension_numbers, **_):
        (left_axes, right_axes), (left_batch, right_batch) = dimension_numbers
        rank = len(left.shape)
        is_dense = (left_axes, right_axes) == ((rank - 1,), (0,)) and len(right.shape) == 2
        if is_dense and not left_batch:
            return self.add("MatMul", [left, right], out.shape)
        letters = iter("abcdefghijklmnopqrstuvwxyz")
        left_names = [next(letters) for _ in left.shape]
        right_names = [next(letters) for _ in right.shape]
        for i, j in zip((*left_axes, *left_batch), (*right_axes, *right_batch), strict=True):
            right_names[j] = left_names[i]
        # JAX's order: what is common, what is left of the first, what is left of the second.
        result = [left_names[i] for i in left_batch]
        result += [x for i, x in enumerate(left_names) if i not in (*left_axes, *left_batch)]
        result += [x for j, x in enumerate(right_names) if j not in (*right_axes, *right_batch)]
        equation = f"{''.join(left_names)},{''.join(right_names)}->{''.join(result)}"
        return self.add("Einsum", [left, right], out.shape, equation=equation)

    def _conv_general_dilated(
        self,
        out,
        images,
        kernel,
        window_strides,
        padding,
        lhs_dilation,
        rhs_dilation,
        dimension_numbers,
        feature_group_count,
        batch_group_count,
        **_,
    ):
        numbers = dimension_numbers
        known = numbers.lhs_spec == numbers.out_spec == _TO_FIRST and batch_group_count == 1
        if not known or set(lhs_dilation) != {1} or not isinstance(kernel, np.ndarray):
            raise NotImplementedError("a convolution of another kind than the networks make")
        kernel = np.ascontiguousarray(kernel.transpose(numbers.rhs_spec))
        return self.add(
            "Conv",
            [self._channel_first(images), kernel],
            out.shape,
            True,
            kernel_shape=kernel.shape[2:],
            strides=window_strides,
            pads=[before for before, _ in padding] + [after for _, after in padding],
            dilations=rhs_dilation,
            group=feature_group_count,
        )

    def _reduce_window_max(
        self, out, value, window_dimensions, window_strides, padding, **dilations
    ):
        window, strides = tuple(window_dimensions), tuple(window_strides)
        unused = (window[0], window[3], strides[0], strides[3], *padding[0], *padding[3])
        is_dilated = any(set(dilation) != {1} for dilation in dilations.values())
        if unused != (1, 1, 1, 1, 0, 0, 0, 0) or is_dilated:
            raise NotImplementedError("max pooling of another kind than the networks make")
        return self.add(
            "MaxPool",
            [self._channel_first(value)],
            out.shape,
            True,
            kernel_shape=window[1:3],
            strides=strides[1:3],
            pads=[before for before, _ in padding[1:3]] + [after for _, after in padding[1:3]],
        )


def _scope(equation) -> str:
    """Where in the network an operation is: "ResNet/stage1_block1/conv1/"."""
    stack = str(equation.source_info.name_stack)
    return f"{stack}/" if stack else ""


def _ordered(value, channel_first: bool) -> tuple:
    """The value's shape in JAX's order of axes; constants are in the order of the others."""
    if isinstance(value, np.ndarray) and channel_first and value.ndim == 4:
        return tuple(value.shape[axis] for axis in _TO_LAST)
    return tuple(value.shape)


def _stretched(a: tuple, b: tuple) -> tuple:
    """The shape of an operation on arrays of two shapes, of equal length or one of them empty."""
    if not a or not b:
        return a or b
    return tuple(y if isinstance(x, int) and x == 1 else x for x, y in zip(a, b, strict=True))


def _computed(equation, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """What JAX gives for constants."""
    if equation.primitive.name in (*_ELEMENTWISE, *_SPECIAL):
        inputs = np.broadcast_arrays(*inputs)
    results = equation.primitive.bind(*map(jax.numpy.asarray, inputs), **equation.params)
    if not equation.primitive.multiple_results:
        results = [results]
    return [np.asarray(result) for result in results]


def _erfc(add, inputs, params):
    return add("Sub", [_ONE, add("Erf", inputs)])


def _expm1(add, inputs, params):
    return add("Sub", [add("Exp", inputs), _ONE])


def _select_n(add, inputs, params):
    which, if_false, if_true = inputs
    return add("Where", [which, if_true, if_false])


def _square(add, inputs, params):
    return add("Mul", [inputs[0], inputs[0]])


def _convert_element_type(add, inputs, params):
    return add("Cast", inputs, to=_onnx_type(params["new_dtype"]))


# Those that are value by value too, but more than a name.
_SPECIAL = {
    "convert_element_type": _convert_element_type,
    "erfc": _erfc,
    "expm1": _expm1,
    "select_n": _select_n,
    "square": _square,
}
