"""An ONNX graph while it is being built: its nodes, its constants and the order of axes of each value.

JAX's images have the channel last. ONNX's convolutions need it first. Values stay channel-first from
one convolution to the next, so that no transposes are needed in between.
"""

from typing import NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

# Axes of [batch, height, width, channel] in the order [batch, channel, height, width], and back.
TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)


class Tensor(NamedTuple):
    """A value that depends on the input."""

    name: str
    # In JAX's order of axes. An axis of size 1 may stand for a longer axis that it broadcasts to.
    shape: tuple
    channel_first: bool = False


class Graph:
    """The nodes and constants so far. A value is a Tensor or, if it is constant, a NumPy array."""

    def __init__(self):
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        # Prefix of the names of new nodes: the layer that they belong to.
        self.scope = ""

    def add(self, operation: str, inputs: list, shape, channel_first=False, name="", **attributes):
        """Adds a node and returns its output. Constant inputs are stored in their present axis order."""
        name = name or f"{self.scope}{operation}_{len(self.nodes)}"
        input_names = []
        for place, value in enumerate(inputs):
            if isinstance(value, np.ndarray):
                self.constants.append(numpy_helper.from_array(value, f"{name}_{place}"))
                input_names.append(self.constants[-1].name)
            else:
                input_names.append(value.name)
        self.nodes.append(helper.make_node(operation, input_names, [name], name, **attributes))
        return Tensor(name, tuple(shape), channel_first)

    def plain(self, value, shape):
        """The value with the channel last. Raises NotImplementedError unless it has exactly this shape."""
        if tuple(value.shape) != tuple(shape):
            raise NotImplementedError(f"an array of {value.shape} broadcast to {shape}")
        if isinstance(value, np.ndarray) or not value.channel_first:
            return value
        return self.add("Transpose", [value], value.shape, perm=TO_LAST)

    def channel_first(self, value):
        """The value with the channel first, if it has four axes; else the value itself."""
        if len(value.shape) != 4:
            return value
        if isinstance(value, np.ndarray):
            return np.ascontiguousarray(value.transpose(TO_FIRST))
        if value.channel_first:
            return value
        return self.add("Transpose", [value], value.shape, True, perm=TO_FIRST)

    def with_equal_layouts(self, inputs: list) -> list:
        """All inputs with the channel first if one of them has it first; else the inputs themselves."""
        return list(map(self.channel_first, inputs)) if any_channel_first(inputs) else inputs

    def reshaped(self, value: Tensor, shape) -> Tensor:
        """The value in another shape, of which at most one size is symbolic."""
        sizes = np.array([size if isinstance(size, int) else -1 for size in shape], np.int64)
        return self.add("Reshape", [value, sizes], shape)


def any_channel_first(values: list) -> bool:
    """Whether one of the values is a Tensor with the channel first."""
    return any(isinstance(value, Tensor) and value.channel_first for value in values)


def onnx_type(dtype) -> int:
    """ONNX's number for a NumPy dtype."""
    return helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
