"""Public tables of trained networks of other spaces: their MACs at each stride, and accuracies.

What they are, and under which names their files are looked for in one folder:

- Once-for-All, MobileNetV3 of width 1.0, ImageNet top-1 with shared weights: `mbnv3w10_*.csv` of
  IntelLabs/DyNAS-T, notebooks/data (Apache-2.0). Repeated rows of a network are averaged.
- Accel-NASBench, an EfficientNet-like space, ImageNet top-1 after a short training:
  `accel_nasbench_dataset_jsons.tar.gz`, anb_dataset of afzalxo/Accel-NASBench.
- timm, ImageNet top-1 of published networks: `imagenet_published_architectures.csv.gz`, rows of
  pytorch-image-models' results with MACs by stride.
- NAS-Bench-MR, HRNet-like networks trained alone, Cityscapes mIoU: `nasbench_mr.csv.gz`, data of
  dingmyu/NCP (BSD-2).
"""

import ast
import gzip
import math
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from predictors.worth import STRIDES, Array
from results.errors import PredictorError, reason_of, shown
from results.reading import parse_json
from results.sheets import parse_sheet

MOST_BYTES = 1 << 28  # of a table when unpacked
_INPUT = 224  # pixels, of Once-for-All and Accel-NASBench


@dataclass(frozen=True)
class PublicTable:
    """Networks of one space with the accuracy of each, one row a network."""

    name: str
    about: str  # what was evaluated how, and the source
    macs: Array  # (rows, 5), of the body at STRIDES
    depth: Array  # (rows,), blocks
    kernel: Array  # (rows, 4), mean log(kernel / 3) of the depthwise convolutions, by STRIDES[1:]
    value: Array  # (rows,), percent
    controls: Array  # (rows, k), what also moves the value and is no matter of MACs; k may be 0
    groups: NDArray[np.int64]  # (rows,), family and recipe: levels differ between, all 0: no groups


@dataclass(frozen=True, slots=True)
class _Inverted:
    """An inverted residual block (1x1, depthwise, 1x1)."""

    out_channels: int
    expand_ratio: int
    kernel_size: int
    stride: int


def read_public_tables(folder: Path) -> dict[str, PublicTable]:
    """Read the tables that `folder` holds, by name.

    Raises PredictorError where it holds none, or one is damaged.
    """
    tables = {
        name: reader(path)
        for name, (pattern, reader) in _READERS.items()
        if (path := sorted(folder.glob(pattern)))
    }
    if not tables:
        names = ", ".join(pattern for pattern, _ in _READERS.values())
        raise PredictorError(f"{folder} holds none of the public tables: {names}")
    return tables


def _once_for_all(paths: list[Path]) -> PublicTable:
    widths, strides = (24, 40, 80, 112, 160), (2, 2, 2, 1, 2)
    stem = 27 * 16 * 112**2 + (9 * 16 + 16 * 16) * 112**2
    values: dict[tuple[tuple[tuple[int, int], ...], ...], list[float]] = {}
    for path in paths:
        for row in _rows(path, ("sub-network", "top-1 acc (%)")):
            try:
                network = ast.literal_eval(row["sub-network"])
                kernels = np.reshape(network["ks"], (5, 4)).tolist()
                expands = np.reshape(network["e"], (5, 4)).tolist()
                key = tuple(
                    tuple(zip(k[:depth], e[:depth], strict=True))
                    for k, e, depth in zip(kernels, expands, network["d"], strict=True)
                )
                values.setdefault(key, []).append(float(row["top-1 acc (%)"]))
            except (ValueError, SyntaxError, KeyError, TypeError, RecursionError, MemoryError):
                raise PredictorError(f"{path} is no table of Once-for-All's subnets") from None
    kept = {key: float(np.mean(v)) for key, v in values.items() if np.mean(v) > 0}
    networks = [
        [
            _Inverted(width, expand, kernel, stride if number == 0 else 1)
            for width, stride, blocks in zip(widths, strides, key, strict=True)
            for number, (kernel, expand) in enumerate(blocks)
        ]
        for key in kept
    ]
    about = "Once-for-All subnets (MobileNetV3, width 1.0), shared weights, IntelLabs/DyNAS-T"
    return _of_inverted("once_for_all", about, networks, (stem, 16), list(kept.values()))


def _accel_nasbench(paths: list[Path]) -> PublicTable:
    widths, strides = (16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 2, 1, 2, 1)
    output = (2, 4, 8, 16, 16, 32, 32)
    networks, values, controls = [], [], []
    for record in _members(paths[0]):
        try:
            choices = record.architecture
            networks.append(
                [
                    _Inverted(width, choices[f"block{b}_e"], choices[f"block{b}_k"], stride)
                    for b, (width, first) in enumerate(zip(widths, strides, strict=True))
                    for stride in (first, *[1] * (choices[f"block{b}_l"] - 1))
                ]
            )
            values.append(record.metrics.val_top1)
            excited = Counter[int]()  # blocks with squeeze and excitation, by stride
            for b, stride in enumerate(output):
                excited[stride] += bool(choices[f"block{b}_se"]) * choices[f"block{b}_l"]
        except KeyError:
            raise PredictorError(f"{paths[0]} is no table of Accel-NASBench") from None
        controls.append([float(excited[stride]) for stride in STRIDES])
    about = "Accel-NASBench, short trainings on ImageNet, afzalxo/Accel-NASBench"
    return _of_inverted(
        "accel_nasbench", about, networks, (27 * 32 * 112**2, 32), values, np.array(controls)
    )


def _timm(paths: list[Path]) -> PublicTable:
    """Return rows without extra data and with a body in stages, of groups of three or more."""
    columns = ("source", "cls", "name", "recipe", "resolution", "top1", "extra_data", "macs_g")
    strides = STRIDES[1:]
    kinds = ("conv", "dw", "lin", "dwk")
    per_stride = [f"macs{s}_g" for s in strides] + [f"{k}{s}" for k in kinds for s in strides]
    rows = [
        row
        for row in _rows(paths[0], (*columns, *per_stride))
        if row["source"] == "timm" and row["extra_data"] != "1" and row["cls"] not in _NO_STAGES
        if all(_number(row[f"macs{s}_g"]) > 0 for s in strides)
    ]
    groups = [_group_of(row) for row in rows]
    sizes = Counter(groups)
    rows = [row for row, group in zip(rows, groups, strict=True) if sizes[group] >= 3]
    groups = [group for group in groups if sizes[group] >= 3]
    order = {group: number for number, group in enumerate(sorted(set(groups)))}

    def depth(row: Mapping[str, str]) -> float:
        return 1 + sum(
            _number(row[f"dw{s}"]) + _number(row[f"conv{s}"]) + _number(row[f"lin{s}"]) / 2
            for s in strides
        )

    by_stride = np.array([[_number(row[f"macs{s}_g"]) for s in strides] for row in rows]) * 1e9
    total = np.array([_number(row["macs_g"]) for row in rows]) * 1e9
    before = np.maximum(total - by_stride.sum(axis=1), 0.0)
    kernel = [[np.log(max(_number(row[f"dwk{s}"]), 3) / 3) for s in strides] for row in rows]
    return PublicTable(
        "timm",
        "published networks in groups of one family and recipe, timm's results",
        np.column_stack([before, by_stride]),
        np.array([depth(row) for row in rows]),
        np.array(kernel),
        np.array([_number(row["top1"]) for row in rows]),
        np.log([[_number(row["resolution"])] for row in rows]),
        np.array([order[group] for group in groups]),
    )


# Of which MACs by stride say little: no stages, or several resolutions side by side.
_NO_STAGES = frozenset(
    name
    for line in (
        "VisionTransformer VisionTransformerDistilled VisionTransformerSAM Deit Eva Beit Cait Xcit",
        "Hiera SwinTransformer SwinTransformerV2 CrossViT Twins TNT PyramidVisionTransformerV2",
        "MlpMixer ConvMixer HRNet HighResolutionNet VGG",
        "EfficientVit EfficientVitLarge",  # what is predicted teaches nothing of itself
    )
    for name in line.split()
)


def _group_of(row: Mapping[str, str]) -> str:
    """Return class, family and recipe, without sizes and resolutions."""
    recipe = re.sub(r"_?r\d{3}|\d{3}", "", row["recipe"])
    return f"{row['cls']}|{re.sub(r'[_0-9.].*', '', row['name'])}|{recipe}"


def _nasbench_mr(paths: list[Path]) -> PublicTable:
    """Return Cityscapes mIoU; a code tells blocks, units and channels of 1 to 4 branches."""
    digits = [f"e{number}" for number in range(2, 26)]
    macs, depth, values = [], [], []
    for row in _rows(paths[0], (*digits, "seg")):
        try:
            code = [int(row[digit]) for digit in digits]
            values.append(float(row["seg"]))
        except ValueError:
            raise PredictorError(f"{paths[0]} is no table of NAS-Bench-MR") from None
        by_stride, blocks = Counter[int](), 0
        for branches in range(1, 5):
            times, code = code[0], code[1:]
            units, channels = code[:branches], code[branches : 2 * branches]
            code = code[2 * branches :]
            for branch, (count, width) in enumerate(zip(units, channels, strict=True)):
                stride = 4 << branch
                by_stride[stride] += times * count * 18 * width**2 * (512 * 1024) // stride**2
                blocks += times * count
                for other, wide in enumerate(channels):  # fusions into this branch
                    taps, at = (1, 4 << other) if other > branch else (9, stride)
                    if other != branch:
                        by_stride[stride] += times * taps * wide * width * (512 * 1024) // at**2
        macs.append([0.0] + [float(by_stride[s]) for s in STRIDES[1:]])
        depth.append(float(blocks))
    rows = len(values)
    return PublicTable(
        "nasbench_mr",
        "NAS-Bench-MR, Cityscapes mIoU of networks trained alone, dingmyu/NCP",
        np.array(macs), np.array(depth), np.zeros((rows, 4)), np.array(values),
        np.zeros((rows, 0)), np.zeros(rows, dtype=np.int64),
    )  # fmt: skip


_READERS: dict[str, tuple[str, Callable[[list[Path]], PublicTable]]] = {
    "once_for_all": ("mbnv3w10_*.csv", _once_for_all),
    "accel_nasbench": ("accel_nasbench_dataset_jsons.tar.gz", _accel_nasbench),
    "timm": ("imagenet_published_architectures.csv.gz", _timm),
    "nasbench_mr": ("nasbench_mr.csv.gz", _nasbench_mr),
}


def _of_inverted(
    name: str,
    about: str,
    networks: Iterable[list[_Inverted]],
    stem: tuple[int, int],  # MACs, at stride 2, and channels behind it
    values: list[float],
    controls: Array | None = None,
) -> PublicTable:
    macs, depth, kernel = [], [], []
    for blocks in networks:
        by_stride, kernels = Counter({2: stem[0]}), {s: [0.0] for s in STRIDES}
        channels, side = stem[1], _INPUT // 2
        for block in blocks:
            hidden, out_side = channels * block.expand_ratio, side // block.stride
            expansion = 0 if block.expand_ratio == 1 else channels * hidden * side**2
            taps = block.kernel_size**2 + block.out_channels
            stride = _INPUT // out_side
            by_stride[stride] += expansion + taps * hidden * out_side**2
            kernels[stride].append(float(np.log(block.kernel_size / 3)))
            channels, side = block.out_channels, out_side
        macs.append([float(by_stride[s]) for s in STRIDES])
        depth.append(float(len(blocks)))
        kernel.append([sum(kernels[s]) / max(len(kernels[s]) - 1, 1) for s in STRIDES[1:]])
    rows = len(values)
    if controls is None:
        controls = np.zeros((rows, 0))
    return PublicTable(
        name, about, np.array(macs), np.array(depth), np.array(kernel), np.array(values),
        controls, np.zeros(rows, dtype=np.int64),
    )  # fmt: skip


def _rows(path: Path, columns: tuple[str, ...]) -> Iterator[dict[str, str]]:
    """Yield the rows of a CSV file, packed or not, of which others than `columns` are left out."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            text = file.read(MOST_BYTES + 1)
            decoded = text.decode()
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise PredictorError(f"cannot read {path}: {reason_of(error)}") from None
    if len(text) > MOST_BYTES:
        raise PredictorError(f"{path} is larger than {MOST_BYTES >> 20} MB")
    for _, row in parse_sheet(decoded, columns, str(path), error=PredictorError):
        yield row


class _Metrics(msgspec.Struct):
    val_top1: float  # percent


class _Trained(msgspec.Struct):
    """A file of Accel-NASBench: by block, expand ratio, kernel size, layers and excitation."""

    architecture: dict[str, int | bool]
    metrics: _Metrics


def _members(path: Path) -> Iterator[_Trained]:
    """Yield the networks in the JSON files of a packed archive, in order of their names."""
    try:
        with tarfile.open(path) as archive:
            for member in sorted(archive.getmembers(), key=lambda member: member.name):
                file = archive.extractfile(member) if member.name.endswith(".json") else None
                if file is not None and member.size < MOST_BYTES:
                    text = file.read().decode()
                    yield parse_json(text, _Trained, f"{path}, {member.name}", error=PredictorError)
    except (OSError, EOFError, zlib.error, tarfile.TarError, UnicodeDecodeError) as error:
        raise PredictorError(f"cannot read {path}: {reason_of(error)}") from None


def _number(text: str) -> float:
    """Return a cell's number, 0 for an empty one. Raises PredictorError for another text."""
    try:
        number = float(text) if text else 0.0
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise PredictorError(f"{shown(text)} stands where a number should in a public table")
    return number
