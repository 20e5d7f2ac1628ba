"""Which files networks are exported to, at which precisions, and what writes and runs them."""

from collections.abc import Sequence
from dataclasses import dataclass

from results.errors import DeviceError, check_choice
from results.extras import require

PRECISIONS = ("fp32", "fp16")
WITH_INT8 = (*PRECISIONS, "int8")
TOLERANCE = 1e-5  # relative difference to PyTorch that a file of fp32 may have


@dataclass(frozen=True)
class FileFormat:
    """A kind of file."""

    name: str
    precisions: tuple[str, ...]
    is_pipeline: bool  # holds computations, and not weights alone
    runtimes: tuple[str, ...]  # as latency tables name them: those that run such files
    extra: str  # of pip
    modules: tuple[str, ...]  # what is needed to write and to check it


ONNX = ("onnx", "onnxruntime")
FORMATS = {
    form.name: form
    for form in (
        FileFormat("onnx", WITH_INT8, True, ("onnxruntime", "tensorrt"), "device", ONNX),
        FileFormat("tflite", WITH_INT8, True, ("litert",), "device", ("ai_edge_litert",)),
        FileFormat("pt2", PRECISIONS, True, ("pytorch",), "torch", ("torch",)),
        FileFormat("safetensors", PRECISIONS, False, (), "torch", ("safetensors",)),
        FileFormat("openvino", PRECISIONS, True, (), "openvino", ("onnx", "openvino")),
        FileFormat("tensorrt", PRECISIONS, True, ("tensorrt",), "device", ONNX),
    )
}


@dataclass(frozen=True)
class FileForm:
    """One file that is asked for."""

    format: str
    precision: str


def forms_of(formats: Sequence[str], precisions: Sequence[str]) -> tuple[FileForm, ...]:
    """Return every format at every precision, each once.

    Raises DeviceError for none, for an unknown format or precision and for a format that lacks one.
    """
    if not formats:
        raise DeviceError(f"name a file's format by --format: {', '.join(FORMATS)}")
    for name in formats:
        check_choice("format", name, FORMATS, DeviceError)
    for precision in precisions:
        check_choice("precision", precision, WITH_INT8, DeviceError)
        for name in formats:
            own = FORMATS[name].precisions
            check_choice(f"precision of {name}", precision, own, DeviceError)
    pairs = [(name, precision) for name in formats for precision in precisions]
    return tuple(FileForm(*pair) for pair in dict.fromkeys(pairs))


def require_all(forms: Sequence[FileForm]) -> None:
    """Raise UserError, with what to install, where a file could not be written or checked."""
    require("torch", "torch", "safetensors", "PIL")  # every file is held against PyTorch
    for form in forms:
        own = FORMATS[form.format]
        require(own.extra, *own.modules)
