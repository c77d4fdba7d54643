"""JAX's operations as ONNX's: one table entry for each operation that a network uses in evaluation.

To support another operation, add an entry to `SAME_MEANING`, `ELEMENTWISE` or `OTHERS`.
"""

import functools

import numpy as np

from cifar_jax.inference.export.onnx_nodes import (
    TO_FIRST,
    TO_LAST,
    Graph,
    Tensor,
    any_channel_first,
    onnx_type,
)

# Element-wise operations that need only another name: JAX's -> ONNX's.
SAME_MEANING = {
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
    return add("Cast", inputs, to=onnx_type(params["new_dtype"]))


# Element-wise operations that need more than another name: (add, inputs, params) -> output.
ELEMENTWISE = {
    "convert_element_type": _convert_element_type,
    "erfc": _erfc,
    "expm1": _expm1,
    "select_n": _select_n,
    "square": _square,
}


def is_elementwise(name: str) -> bool:
    return name in SAME_MEANING or name in ELEMENTWISE


def elementwise(graph: Graph, name: str, params, inputs: list) -> Tensor:
    """Adds an element-wise operation, JAX's `name`. All inputs are in the same order of axes."""
    first = any_channel_first(inputs)
    shape = functools.reduce(_broadcast_shape, [_jax_shape(value, first) for value in inputs])
    add = functools.partial(graph.add, shape=shape, channel_first=first)
    if name in ELEMENTWISE:
        return ELEMENTWISE[name](add, inputs, params)
    constant = inputs[-1] if isinstance(inputs[-1], np.ndarray) else None
    if name == "sub" and constant is not None:
        # Gives the same bits. Runtimes can merge an addition into the convolution before it.
        return add("Add", [inputs[0], -constant])
    if name == "max" and constant is not None and not constant.any():
        return add("Relu", inputs[:1])
    return add(SAME_MEANING[name], inputs)


def _jax_shape(value, channel_first: bool) -> tuple:
    """The value's shape in JAX's order of axes. `channel_first` tells the order of the constants."""
    if isinstance(value, np.ndarray) and channel_first and value.ndim == 4:
        return tuple(value.shape[axis] for axis in TO_LAST)
    return tuple(value.shape)


def _broadcast_shape(a: tuple, b: tuple) -> tuple:
    """The shape of the result for inputs of two shapes: of equal length, or one of them empty."""
    if not a or not b:
        return a or b
    return tuple(y if isinstance(x, int) and x == 1 else x for x, y in zip(a, b, strict=True))


def broadcast(graph: Graph, value, shape, dimensions):
    """Inserts axes of size 1. They need not be repeated: the operations that follow broadcast them."""
    sizes = [1] * len(shape)
    for axis, size in zip(dimensions, value.shape, strict=True):
        sizes[axis] = size
    if isinstance(value, np.ndarray):
        value = value.reshape(sizes)
        is_fixed = all(isinstance(size, int) for size in shape)
        return np.broadcast_to(value, shape) if is_fixed else value
    if tuple(sizes) == tuple(value.shape):
        return value
    return graph.reshaped(graph.plain(value, value.shape), sizes)


def _reshape(graph, out, value, **_):
    return graph.reshaped(value, out.shape)


def _transpose(graph, out, value, permutation):
    return graph.add("Transpose", [value], out.shape, perm=permutation)


def _reduce(operation, graph, out, value, axes, **_):
    if tuple(sorted(axes)) == (1, 2) and value.channel_first:
        axes = (2, 3)
    else:
        value = graph.plain(value, value.shape)
    axes = np.array(axes, np.int64)
    return graph.add(operation, [value, axes], out.shape, keepdims=0)


def _argmax(graph, out, value, axes, index_dtype):
    (axis,) = axes
    found = graph.add("ArgMax", [value], out.shape, axis=axis, keepdims=0)
    return graph.add("Cast", [found], out.shape, to=onnx_type(index_dtype))


def _dot_general(graph, out, left, right, dimension_numbers, **_):
    (left_axes, right_axes), (left_batch, right_batch) = dimension_numbers
    rank = len(left.shape)
    is_dense = (left_axes, right_axes) == ((rank - 1,), (0,)) and len(right.shape) == 2
    if is_dense and not left_batch:
        return graph.add("MatMul", [left, right], out.shape)
    letters = iter("abcdefghijklmnopqrstuvwxyz")
    left_names = [next(letters) for _ in left.shape]
    right_names = [next(letters) for _ in right.shape]
    for i, j in zip((*left_axes, *left_batch), (*right_axes, *right_batch), strict=True):
        right_names[j] = left_names[i]
    # JAX's order of the result: batch axes, remaining axes of `left`, remaining axes of `right`.
    result = [left_names[i] for i in left_batch]
    result += [x for i, x in enumerate(left_names) if i not in (*left_axes, *left_batch)]
    result += [x for j, x in enumerate(right_names) if j not in (*right_axes, *right_batch)]
    equation = f"{''.join(left_names)},{''.join(right_names)}->{''.join(result)}"
    return graph.add("Einsum", [left, right], out.shape, equation=equation)


def _conv_general_dilated(
    graph,
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
    known = numbers.lhs_spec == numbers.out_spec == TO_FIRST and batch_group_count == 1
    if not known or set(lhs_dilation) != {1} or not isinstance(kernel, np.ndarray):
        raise NotImplementedError("a kind of convolution that no network uses")
    kernel = np.ascontiguousarray(kernel.transpose(numbers.rhs_spec))
    return graph.add(
        "Conv",
        [graph.channel_first(images), kernel],
        out.shape,
        True,
        kernel_shape=kernel.shape[2:],
        strides=window_strides,
        pads=[before for before, _ in padding] + [after for _, after in padding],
        dilations=rhs_dilation,
        group=feature_group_count,
    )


def _reduce_window_max(graph, out, value, window_dimensions, window_strides, padding, **dilations):
    window, strides = tuple(window_dimensions), tuple(window_strides)
    unused = (window[0], window[3], strides[0], strides[3], *padding[0], *padding[3])
    is_dilated = any(set(dilation) != {1} for dilation in dilations.values())
    if unused != (1, 1, 1, 1, 0, 0, 0, 0) or is_dilated:
        raise NotImplementedError("a kind of max pooling that no network uses")
    return graph.add(
        "MaxPool",
        [graph.channel_first(value)],
        out.shape,
        True,
        kernel_shape=window[1:3],
        strides=strides[1:3],
        pads=[before for before, _ in padding[1:3]] + [after for _, after in padding[1:3]],
    )


def _slice(graph, out, value, start_indices, limit_indices, strides):
    strides = strides or (1,) * len(start_indices)
    # Axes that are taken whole may have an unknown size.
    whole = list(zip(start_indices, value.shape, strides, strict=True))
    axes = [i for i, axis in enumerate(whole) if axis != (0, limit_indices[i], 1)]
    wanted = (start_indices, limit_indices, range(len(strides)), strides)
    limits = [np.array([values[i] for i in axes], np.int64) for values in wanted]
    return graph.add("Slice", [value, *limits], out.shape)


def _pad(graph, out, value, filling, padding_config):
    before, after, between = zip(*padding_config, strict=True)
    if any(between) or min(before + after) < 0:
        raise NotImplementedError("a kind of padding that no network uses")
    return graph.add("Pad", [value, np.array(before + after, np.int64), filling], out.shape)


# The other operations: (graph, out, *inputs, **params) -> output. `out` has the output's shape.
OTHERS = {
    "argmax": _argmax,
    "conv_general_dilated": _conv_general_dilated,
    "dot_general": _dot_general,
    "expand_dims": _reshape,
    "pad": _pad,
    "reduce_max": functools.partial(_reduce, "ReduceMax"),
    "reduce_sum": functools.partial(_reduce, "ReduceSum"),
    "reduce_window_max": _reduce_window_max,
    "reshape": _reshape,
    "slice": _slice,
    "squeeze": _reshape,
    "transpose": _transpose,
}
# Those of `OTHERS` that take inputs in either order of axes; the rest need the channel last.
ANY_LAYOUT = {"conv_general_dilated", "reduce_max", "reduce_sum", "reduce_window_max"}
