"""A mixer that nobody needs, and the edits that add it: those of CONTRIBUTING.md, by file.

local_gate: proj(sigmoid(depthwise 3x3 of x) * x).
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
KIND = "local_gate"
COPIED = ("results", "supernet", "lut", "predictors", "nas", "tests", "pyproject.toml")

COST = """
def _local_gate(ops: _Ops, block: Block) -> None:
    channels = block.in_channels
    gate = ops.conv(-1, Convolution("gate", channels, channels, 3, groups=channels))
    x = ops.elementwise(gate, -1)
    ops.conv(x, Convolution("proj", channels, block.out_channels, norm=True))


OPERATORS: dict["""
MODULE = """
class LocalGate(nn.Module):
    def __init__(self, block: Block, eps: float) -> None:
        super().__init__()
        channels = block.in_channels
        gate = Convolution("gate", channels, channels, 3, groups=channels)
        self.gate = ConvNormAct(gate, eps)
        self.proj = ConvNormAct(Convolution("proj", channels, block.out_channels, norm=True), eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(self.gate(x).sigmoid() * x)


MIXERS: dict["""
ONNX = """
def local_gate(ops: OnnxOps, x: Value, block: Block, parameters: Parameters) -> Value:
    channels = block.in_channels
    kernel, _ = parameters.conv(Convolution("gate", channels, channels, 3, groups=channels))
    gate = ops.unary("Sigmoid", ops.conv(x, kernel, None, groups=channels))
    y = ops.kept(ops.binary("Mul", gate, x))
    proj = Convolution("proj", channels, block.out_channels, norm=True)
    return ops.conv(y, *parameters.conv(proj))


MIXERS: dict["""
TFLITE = """
def local_gate(ops: TfliteOps, x: int, block: Block, parameters: Parameters) -> int:
    channels = block.in_channels
    kernel, _ = parameters.conv(Convolution("gate", channels, channels, 3, groups=channels))
    gate = ops.conv(x, kernel, form=ConvolutionForm(groups=channels))
    y = ops.binary("MUL", ops.unary("LOGISTIC", gate), x)
    proj = Convolution("proj", channels, block.out_channels, norm=True)
    return ops.conv(y, *parameters.conv(proj))


MIXERS: dict["""
# by file: pairs of a text that stands there once, and what takes its place
EDITS: dict[str, list[tuple[str, str]]] = {
    "supernet/arch.py": [('    "rwkv",\n]', f'    "rwkv",\n    "{KIND}",\n]')],
    "supernet/cost.py": [
        ("\nOPERATORS: dict[", COST),
        ('    "rwkv": _rwkv,\n', f'    "rwkv": _rwkv,\n    "{KIND}": _local_gate,\n'),
    ],
    "supernet/layers/mixers.py": [
        ("\nMIXERS: dict[", MODULE),
        ('    "rwkv": RWKV,\n', f'    "rwkv": RWKV,\n    "{KIND}": LocalGate,\n'),
    ],
    "lut/builders/onnx_mixers.py": [
        ("\nMIXERS: dict[", ONNX),
        ('    "rwkv": rwkv,\n', f'    "rwkv": rwkv,\n    "{KIND}": local_gate,\n'),
    ],
    "lut/builders/tflite_mixers.py": [
        ("\nMIXERS: dict[", TFLITE),
        ('    "rwkv": rwkv,\n', f'    "rwkv": rwkv,\n    "{KIND}": local_gate,\n'),
    ],
}


def tree_with_toy(
    folder: Path, edits_by_file: Mapping[str, Sequence[tuple[str, str]]], *, without: str = ""
) -> Path:
    """Return a copy of the project in `folder` with all edits but those in the file `without`."""
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for name, edits in edits_by_file.items():
        if name == without:
            continue
        text = (folder / name).read_text()
        for old, new in edits:
            assert text.count(old) == 1, f"{name} has {old!r} {text.count(old)} times"
            text = text.replace(old, new)
        (folder / name).write_text(text)
    return folder
