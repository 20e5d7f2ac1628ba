"""A fitted model as a file: plain arrays in one .npz, and what they mean as JSON among them.

Nothing is unpickled. Every array has the type and shape that the others ask for, or the file is
refused in one line.
"""

import io
import zipfile
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from predictors.models.encoding import Encoding, Gene, Measure, Name
from predictors.models.gp import GaussianProcess
from predictors.models.judge import Judgement
from predictors.models.model import Interval, Kind, Linear, Member, Members, Model
from predictors.models.trees import LEAVES, NODES, Trees
from predictors.models.warp import Warp
from results.errors import PredictorError
from results.files import write_bytes
from results.reading import Finite, NotNegative, Record, parse_json, read_bytes
from supernet.weights.header import SpaceArguments

SUFFIX = ".npz"
MOST, LEAST_SCALE, MOST_EXPONENT = 1e15, 1e-12, 30.0  # what cannot make a prediction infinite
METADATA = "metadata"
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]


class Origin(Record, frozen=True):
    """Which evaluated subnets a model is of, and the space that they are in."""

    task: Name
    dataset: Name
    weights_sha256: Name
    num_pictures: NotNegative | None
    file: Name
    file_sha256: Name
    space: SpaceArguments


class Metadata(Record, frozen=True):
    """All of a model but its arrays."""

    version: Literal[1]
    target: Name  # what is predicted
    kind: Kind
    genes: tuple[Gene, ...]
    measures: tuple[Measure, ...]
    warp: Warp
    weights: dict[Member, Share]
    interval: Interval
    judgement: Judgement
    ridge_mean: Finite
    gp_mean: Finite
    gp_std: NotNegative
    trees_start: Finite
    origin: Origin | None = None


def write_model(path: Path, model: Model, target: str, origin: Origin | None = None) -> None:
    """Write a model, atomically, to the same bytes from the same model.

    Raises RunError where it cannot be written.
    """
    members, encoding = model.members, model.encoding
    gp, trees = members.gp, members.trees
    told = Metadata(
        version=1,
        target=target,
        kind=model.kind,
        genes=encoding.genes,
        measures=encoding.measures,
        warp=model.warp,
        weights=model.weights,
        interval=model.interval,
        judgement=model.judgement,
        ridge_mean=members.ridge.mean,
        gp_mean=gp.mean,
        gp_std=gp.std,
        trees_start=trees.start,
        origin=origin,
    )
    arrays: dict[str, NDArray[Any]] = {
        METADATA: np.frombuffer(msgspec.json.encode(told), np.uint8),
        "means": encoding.means,
        "scales": encoding.scales,
        "ridge.effects": members.ridge.effects,
        "trees.columns": trees.columns,
        "trees.thresholds": trees.thresholds,
        "trees.leaves": trees.leaves,
    }
    arrays |= {f"gp.{name}": getattr(gp, name) for name in GP_ARRAYS}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # of the stubs
    write_bytes(path, buffer.getvalue())


GP_ARRAYS = (
    *("theta", "inverse_lengths", "linear", "variances"),
    *("rows", "alpha", "root", "linear_root"),
)


def read_model(path: Path) -> tuple[Model, Metadata]:
    """Read a model. Raises PredictorError where the file is none, or is damaged."""
    arrays = _Arrays(path)
    told = parse_json(
        arrays.take(METADATA, np.uint8, (None,)).tobytes(),
        Metadata,
        f"cannot read {path}",
        error=PredictorError,
    )
    encoding = _encoding(told, arrays)
    columns = int((encoding.scales > 0).sum())
    trees = Trees(
        arrays.take("trees.columns", np.int32, (None, NODES)),
        arrays.take("trees.thresholds", np.float64, (None, NODES), infinite=True),
        arrays.take("trees.leaves", np.float64, (None, LEAVES)),
        told.trees_start,
    )
    tree_columns = encoding.tree_columns
    if not len(trees.columns) == len(trees.thresholds) == len(trees.leaves) or (
        trees.columns.size
        and not 0 <= trees.columns.min() <= trees.columns.max() < len(tree_columns)
    ):
        raise arrays.damaged("its trees do not fit together")
    rows = arrays.take("gp.rows", np.float64, (None, columns))
    root = arrays.take("gp.root", np.float64, (len(rows), None))
    groups = len(encoding.groups)
    gp = GaussianProcess(
        theta=arrays.take("gp.theta", np.float64, (2 * groups + 2,)),
        inverse_lengths=arrays.take("gp.inverse_lengths", np.float64, (columns,)),
        linear=arrays.take("gp.linear", np.float64, (columns,)),
        variances=arrays.take("gp.variances", np.float64, (columns,)),
        rows=rows,
        alpha=arrays.take("gp.alpha", np.float64, (len(rows),)),
        root=root,
        linear_root=arrays.take("gp.linear_root", np.float64, (columns, root.shape[1])),
        mean=told.gp_mean,
        std=told.gp_std,
    )
    effects = arrays.take("ridge.effects", np.float64, (columns,))
    members = Members(Linear(told.ridge_mean, effects), gp, trees, tree_columns)
    if np.abs(gp.theta).max() > MOST_EXPONENT or _bent_most(told.warp) > MOST_EXPONENT:
        raise arrays.damaged("an exponent is too large")
    if told.kind not in told.judgement.scores or not told.weights:
        raise arrays.damaged(f"nothing is said of its kind, {told.kind}")
    model = Model(
        told.kind, encoding, told.warp, members, told.weights, told.interval, told.judgement
    )
    return model, told


def _bent_most(warp: Warp) -> float:
    return abs(warp.bend) * max(1.0, abs(warp.low), abs(warp.high))


def _encoding(told: Metadata, arrays: "_Arrays") -> Encoding:
    """Return what the genes and measures are encoded by. Raises PredictorError."""
    names = [gene.name for gene in told.genes]
    measured = [measure.name for measure in told.measures if not measure.summed]
    if len({*names}) != len(names) or len({*measured}) != len(measured):
        raise arrays.damaged("a column stands twice")
    numeric = {gene.name for gene in told.genes if gene.numbers is not None}
    for gene in told.genes:
        seen: tuple[Any, ...] = gene.texts if gene.numbers is None else gene.numbers
        if list(seen) != sorted(set(seen)) or (gene.numbers is not None and not seen):
            raise arrays.damaged(f"choices of {gene.name} are not sorted")
    for measure in told.measures:
        if not numeric.issuperset(measure.summed) or (measure.least or 1) <= 0:
            raise arrays.damaged(f"{measure.name} cannot be computed")
    count = Encoding(told.genes, told.measures, np.zeros(0), np.zeros(0)).num_raw
    means = arrays.take("means", np.float64, (count,))
    scales = arrays.take("scales", np.float64, (count,))
    if not (scales > 0).any() or ((scales != 0) & (scales < LEAST_SCALE)).any():
        raise arrays.damaged("its scales are no lengths")
    return Encoding(told.genes, told.measures, means, scales)


class _Arrays:
    """The arrays of an .npz file, each parsed as it is asked for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        data = read_bytes(path, error=PredictorError)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as file:
                entries = file.infolist()
                is_plain = all(e.compress_type == zipfile.ZIP_STORED for e in entries)
                # parts that overlap, or are packed, may be far larger than the file
                is_bounded = is_plain and sum(e.file_size for e in entries) <= len(data)
                self._parts = {e.filename: file.read(e) for e in entries if is_bounded}
        except (zipfile.BadZipFile, EOFError, OSError, ValueError, RuntimeError):
            raise PredictorError(
                f"{path} is no model: write one by `python -m predictors.fit --out {path}`"
            ) from None
        if not is_bounded:
            raise self.damaged("its parts are packed, or larger than the whole")

    def damaged(self, reason: str) -> PredictorError:
        """Return the error for a file that says something impossible."""
        return PredictorError(f"{self.path} is damaged, or no model of this project: {reason}")

    def take(
        self, name: str, kind: type[Any], shape: tuple[int | None, ...], *, infinite: bool = False
    ) -> NDArray[Any]:
        """Return an array of a type and shape, None for any length. Raises PredictorError."""
        data = self._parts.get(f"{name}.npy")
        if data is None:
            raise self.damaged(f"no {name}")
        file = io.BytesIO(data)
        try:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError
            found, by_column, dtype = np.lib.format.read_array_header_1_0(file)
        except (ValueError, EOFError, SyntaxError, TypeError, RecursionError, MemoryError):
            raise self.damaged(f"{name} is no array") from None
        fits = len(found) == len(shape) and all(
            own == asked or (asked is None and own >= 0)
            for own, asked in zip(found, shape, strict=True)
        )
        body = data[file.tell() :]
        size = int(np.prod([int(length) for length in found], dtype=object))
        if not fits or dtype != np.dtype(kind) or size * dtype.itemsize != len(body):
            raise self.damaged(f"{name} is not of type {np.dtype(kind)} and the shape expected")
        order: Literal["F", "C"] = "F" if by_column else "C"
        array = np.frombuffer(body, dtype=dtype).reshape(found, order=order)
        if dtype.kind == "f" and not infinite and not (np.abs(array) <= MOST).all():
            raise self.damaged(f"{name} holds what is no number, or too large")
        if infinite and np.isnan(array).any():
            raise self.damaged(f"{name} holds what is no number")
        return array
