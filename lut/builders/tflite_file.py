"""A TFLite model under construction: tensors, constants and operators, then a flatbuffer.

Nothing here knows what an operator does. A tensor is the index of it; all sizes are fixed, the
batch among them. Options of operators go by the names in TFLite's schema,
https://github.com/google-ai-edge/LiteRT/blob/main/tflite/converter/schema/schema.fbs
"""

from collections.abc import Mapping, Sequence
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

IDENTIFIER, SCHEMA_VERSION = b"TFL3", 3
ALIGNMENT = 16  # bytes, of constants: the schema demands it, as kernels read them in place
SMALL = 64  # elements of a constant that is worth looking up among those before it
TYPES = {
    np.dtype(np.float32): schema.TensorType.FLOAT32,
    np.dtype(np.float16): schema.TensorType.FLOAT16,
    np.dtype(np.int32): schema.TensorType.INT32,
    np.dtype(np.int8): schema.TensorType.INT8,
    np.dtype(np.uint8): schema.TensorType.UINT8,
}

Shape = tuple[int, ...]


class TfliteFile:
    """A model with one subgraph; every method appends to it."""

    def __init__(self) -> None:
        self._tensors: list[Any] = []
        self._buffers = [_Buffer(None)]  # the first one stands for no data
        self._operators: list[Any] = []
        self._codes: dict[str, int] = {}
        self._small: dict[tuple[str, Shape, bytes], int] = {}

    def shape(self, tensor: int) -> Shape:
        """Return a tensor's shape."""
        shape: Shape = self._tensors[tensor].shape
        return shape

    def is_int8(self, tensor: int) -> bool:
        """Tell whether a tensor is quantised to int8."""
        return bool(self._tensors[tensor].type == schema.TensorType.INT8)

    def quantisation(self, tensor: int) -> tuple[float, int]:
        """Return scale and zero point of a tensor that has one of each."""
        known = self._tensors[tensor].quantization
        return float(known.scale[0]), int(known.zeroPoint[0])

    def tensor(
        self,
        shape: Sequence[int],
        dtype: npt.DTypeLike = np.float32,
        *,
        scales: Sequence[float] = (),
        zero: int = 0,
        axis: int = 0,
        buffer: int = 0,
    ) -> int:  # a tensor is all of this
        """Add a tensor, without values unless `buffer` is one, and return its number.

        Args:
            scales: of a quantised tensor; one, or one for each index of `axis`.
            zero: what stands for 0 in it.
        """
        added = schema.TensorT()
        added.shape = tuple(shape)
        added.type = TYPES[np.dtype(dtype)]
        added.name = b"t%d" % len(self._tensors)
        added.buffer = buffer
        if len(scales):
            quantization = added.quantization = schema.QuantizationParametersT()
            quantization.scale = np.asarray(scales, np.float32)
            quantization.zeroPoint = np.full(len(scales), zero, np.int64)
            quantization.quantizedDimension = axis
        self._tensors.append(added)
        return len(self._tensors) - 1

    def rename(self, tensor: int, name: str) -> None:
        """Give a tensor a name in the file."""
        self._tensors[tensor].name = name.encode()

    def constant(
        self, values: npt.NDArray[Any], *, scales: Sequence[float] = (), axis: int = 0
    ) -> int:
        """Add a tensor of these values and return its number; small equal ones are shared."""
        key = None
        if values.size <= SMALL and not len(scales):
            key = (values.dtype.char, values.shape, values.tobytes())
            if key in self._small:
                return self._small[key]
        self._buffers.append(_Buffer(np.ascontiguousarray(values)))
        buffer = len(self._buffers) - 1
        tensor = self.tensor(values.shape, values.dtype, scales=scales, axis=axis, buffer=buffer)
        if key:
            self._small[key] = tensor
        return tensor

    def operator(
        self,
        name: str,
        inputs: Sequence[int],
        output: int,
        options: str = "",
        **values: bool | float | Sequence[int],
    ) -> int:
        """Append the builtin operator `name` and give back `output`, a new tensor.

        Args:
            options: the schema's table of options for it, less `Options`; `values` fill it.
        """
        added = schema.OperatorT()
        added.opcodeIndex = self._codes.setdefault(name, len(self._codes))
        added.inputs, added.outputs = list(inputs), [output]
        if options:
            table = added.builtinOptions = getattr(schema, f"{options}OptionsT")()
            added.builtinOptionsType = getattr(schema.BuiltinOptions, f"{options}Options")
            for field, value in values.items():
                setattr(table, field, value)
        self._operators.append(added)
        return output

    def pack(
        self,
        inputs: Sequence[int],
        outputs: Sequence[int],
        metadata: Mapping[str, bytes],
        description: str = "",
    ) -> bytes:
        """Return the file's bytes; `description` is a line on what the file is."""
        graph = schema.SubGraphT()
        graph.tensors, graph.operators = self._tensors, self._operators
        graph.inputs, graph.outputs, graph.name = list(inputs), list(outputs), b"main"
        model = schema.ModelT()
        model.version, model.subgraphs, model.buffers = SCHEMA_VERSION, [graph], self._buffers
        model.operatorCodes = [_operator_code(name) for name in self._codes]
        model.description = description.encode() or None
        model.metadata = []
        for key, value in metadata.items():
            entry = schema.MetadataT()
            entry.name, entry.buffer = key.encode(), len(self._buffers)
            self._buffers.append(_Buffer(np.frombuffer(value, np.uint8)))
            model.metadata.append(entry)
        size = sum(buffer.size + ALIGNMENT for buffer in self._buffers)
        builder = flatbuffers.Builder(size + 256 * len(self._tensors))
        builder.Finish(model.Pack(builder), IDENTIFIER)
        return bytes(memoryview(builder.Bytes)[builder.Head() :])


class _Buffer:
    """A constant's data. Stands in for the schema's BufferT, which aligns to 4 bytes at most."""

    def __init__(self, values: npt.NDArray[Any] | None) -> None:
        self._values = values
        self.size = 0 if values is None else values.nbytes

    def Pack(self, builder: Any) -> Any:  # noqa: N802, the name that ModelT calls
        if self._values is not None:
            builder.StartVector(1, self.size, ALIGNMENT)
            builder.head -= self.size
            data = self._values.reshape(-1).view(np.uint8)
            builder.Bytes[builder.head : builder.head + self.size] = data.data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if self._values is not None:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def _operator_code(name: str) -> Any:
    """Return a code of version 1: runtimes look at types, not at versions below their own."""
    entry = schema.OperatorCodeT()
    entry.builtinCode, entry.version = getattr(schema.BuiltinOperator, name), 1
    last = schema.BuiltinOperator.PLACEHOLDER_FOR_GREATER_OP_CODES
    entry.deprecatedBuiltinCode = min(entry.builtinCode, last)
    return entry
