"""Networks as StableHLO for other compilers, with a batch of any size.

Tested with IREE, which does not support everything that JAX writes for arrays without a fixed batch size.
So unsupported operations are replaced: first as operations of JAX, then in the resulting module. The
values are the same to rounding.
"""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.export
import jax.numpy as jnp
from jax import lax
from jax.extend.mlir import ir
from jax.extend.mlir.dialects import stablehlo

# Parameters in which JAX keeps the body of an operation that only calls others.
BODIES = ("jaxpr", "call_jaxpr", "fun_jaxpr")


def softmax(x: jax.Array) -> jax.Array:
    """Softmax of [batch, ..., classes] over the classes. Broadcasts each sum in one step, not in two."""
    axes = tuple(range(x.ndim - 1))
    stretch = functools.partial(lax.broadcast_in_dim, shape=x.shape, broadcast_dimensions=axes)
    y = jnp.exp(x - stretch(jnp.max(x, axis=-1)))
    return y / stretch(jnp.sum(y, axis=-1))


def argmax(x: jax.Array) -> jax.Array:
    """The place of the largest value of [batch, ..., classes], the first of several: int32 [batch, ...]."""
    return lax.argmax(x, x.ndim - 1, jnp.int32)


def convert(function: Callable, images: jax.ShapeDtypeStruct) -> bytes:
    """A function of one array, whose first axis may have a symbolic size, as portable bytecode.

    The module has one public function, `main`, and calls no runtime.
    """
    # For several platforms, the function would get a second argument that chooses among them.
    exported = jax.export.export(jax.jit(rewritten(function)), platforms=("cpu",))(images)
    return bytecode(exported, _rewrite_operation)


def bytecode(exported: jax.export.Exported, rewrite: Callable = lambda operation: None) -> bytes:
    """The module of a function after rewriting each operation, for compilers up to 12 weeks older.

    Removes the names of source files that JAX leaves in.
    """
    with ir.Context() as context, ir.Location.unknown():
        stablehlo.register_dialect(context)
        module = stablehlo.deserialize_portable_artifact(context, exported.mlir_module_serialized)
        for function in module.body.operations:
            for operation in list(function.regions[0].blocks[0].operations):
                rewrite(operation)
        requirement = stablehlo.StablehloCompatibilityRequirement.WEEK_12
        version = stablehlo.get_version_from_compatibility_requirement(requirement)
        return stablehlo.serialize_portable_artifact_str(str(module), version)


class _Flattened(NamedTuple):
    """Images [batch, height, width, channel] that stand for [batch, height * width * channel]."""

    images: jax.Array


def rewritten(function: Callable) -> Callable:
    """The same function of one array, with operations that IREE does not support replaced."""

    def run(jaxpr, consts, inputs):
        values = dict(zip(jaxpr.constvars, consts, strict=True))
        values |= zip(jaxpr.invars, inputs, strict=True)

        def read(atom):
            return atom.val if hasattr(atom, "val") else values[atom]

        for equation in jaxpr.eqns:
            given = [read(atom) for atom in equation.invars]
            body = next((equation.params[key] for key in BODIES if key in equation.params), None)
            if body is not None:
                results = run(getattr(body, "jaxpr", body), getattr(body, "consts", ()), given)
            else:
                results = _do(equation, given)
            values |= zip(equation.outvars, results, strict=True)
        return [read(atom) for atom in jaxpr.outvars]

    def traced(images):
        closed = jax.make_jaxpr(function)(images)
        results = run(closed.jaxpr, closed.consts, [images])
        return results[0] if len(results) == 1 else tuple(results)

    traced.__name__ = getattr(function, "__name__", "network")
    return traced


def _do(equation, inputs: list) -> list:
    name, params = equation.primitive.name, equation.params
    if name == "reshape" and _is_flattening(inputs[0].shape, params["new_sizes"]):
        return [_Flattened(inputs[0])]
    if name == "dot_general" and isinstance(inputs[0], _Flattened):
        return [_dense(inputs[0].images, inputs[1])]
    if name == "dot_general" and sorted(x.ndim for x in inputs) == [2, 4]:
        return [_contract(*inputs, params["dimension_numbers"])]
    if name == "conv_general_dilated" and params["feature_group_count"] > 1:
        return [_depthwise(*inputs, params["window_strides"], params["padding"])]
    if name == "reduce_window_max":
        edges = [(low, high, 0) for low, high in params["padding"]]
        inputs = [lax.pad(inputs[0], jnp.array(-jnp.inf, inputs[0].dtype), edges)]
        params = params | {"padding": ((0, 0),) * len(edges)}
    results = equation.primitive.bind(*inputs, **params)
    return results if equation.primitive.multiple_results else [results]


def _is_flattening(shape, new_sizes) -> bool:
    return len(shape) == 4 and tuple(new_sizes) == (shape[0], math.prod(shape[1:]))


def _dense(images, kernel):
    """The product of flattened images and a kernel [values, out], as a convolution of the whole image."""
    kernel = kernel.reshape(*images.shape[1:], kernel.shape[1])
    numbers = ("NHWC", "HWIO", "NHWC")
    result = lax.conv_general_dilated(images, kernel, (1, 1), "VALID", dimension_numbers=numbers)
    return jnp.sum(result, axis=(1, 2))


def _contract(left, right, dimension_numbers):
    """The contraction of one of four axes with one of a matrix, as a 1x1 convolution."""
    (left_axes, right_axes), _ = dimension_numbers
    matrix_first = left.ndim == 2
    images, matrix = (right, left) if matrix_first else (left, right)
    (axis,), (row,) = (right_axes, left_axes) if matrix_first else (left_axes, right_axes)
    others = [i for i in range(4) if i != axis]
    # JAX puts the remaining axes of the first operand first.
    places = [1, 2, 3] if matrix_first else [0, 1, 2]
    # Only the batch axis of a convolution may lack a fixed size.
    is_fixed = [isinstance(images.shape[i], int) for i in others]
    order = sorted(range(3), key=is_fixed.__getitem__)
    batch, *space = (others[i] for i in order)
    out_batch, *out_space = (places[i] for i in order)
    numbers = lax.ConvDimensionNumbers(
        lhs_spec=(batch, axis, *space),
        rhs_spec=(1 - row, row, 2, 3),
        out_spec=(out_batch, 0 if matrix_first else 3, *out_space),
    )
    return lax.conv_general_dilated(
        images, matrix[:, :, None, None], (1, 1), "VALID", dimension_numbers=numbers
    )


def _depthwise(images, kernel, strides, padding):
    """Depthwise convolution with a kernel [height, width, 1, channel], as a sum of products."""
    images = lax.pad(
        images, jnp.zeros((), images.dtype), [(0, 0, 0), *((*p, 0) for p in padding), (0, 0, 0)]
    )
    rows, columns = (
        [(start, images.shape[1 + axis] - size + 1 + start) for start in range(size)]
        for axis, size in enumerate(kernel.shape[:2])
    )
    total = 0.0
    for i, (top, bottom) in enumerate(rows):
        part = lax.slice_in_dim(images, top, bottom, strides[0], axis=1)
        for j, (left, right) in enumerate(columns):
            window = lax.slice_in_dim(part, left, right, strides[1], axis=2)
            total = total + window * kernel[i, j, 0]
    return total


def _rewrite_operation(operation) -> None:
    """Rewrites an operation that IREE does not support.

    JAX asserts that the batch size is at least 1 by a call of its own runtime: removed. IREE cannot get
    the size of an array of unsigned integers: taken from a copy as floats. IREE must be told that an axis
    of the batch size is not an axis of size 1 to broadcast.
    """
    name = operation.operation.name
    if name == "stablehlo.custom_call":
        operation.operation.erase()
    elif name == "stablehlo.get_dimension_size":
        _measure_floats(operation)
    elif name == "stablehlo.dynamic_broadcast_in_dim":
        _mark_batch(operation)


def _measure_floats(operation) -> None:
    images = operation.operands[0]
    floats = ir.RankedTensorType.get(ir.RankedTensorType(images.type).shape, ir.F32Type.get())
    with ir.InsertionPoint(operation):
        operation.operation.operands[0] = stablehlo.ConvertOp(floats, images).result


def _mark_batch(operation) -> None:
    kind = ir.RankedTensorType(operation.operands[0].type)
    batch = [axis for axis in range(kind.rank) if kind.is_dynamic_dim(axis)]
    others = [axis for axis in range(kind.rank) if axis not in batch and kind.shape[axis] == 1]
    if batch:
        attributes = operation.attributes
        attributes["known_nonexpanding_dimensions"] = ir.DenseI64ArrayAttr.get(batch)
        attributes["known_expanding_dimensions"] = ir.DenseI64ArrayAttr.get(others)
