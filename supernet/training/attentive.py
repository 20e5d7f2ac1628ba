"""Attentive sampling: subnets that are good for their latency are trained more often.

A latency is drawn, log-uniformly; of a few subnets near it the most promising one is trained:
the one of highest predicted accuracy where the file tells it, else of most MACs, since among
equally fast networks those that compute more are usually more accurate.

Source: Wang et al., AttentiveNAS (BestUp), CVPR 2021, https://arxiv.org/abs/2011.09011
"""

import heapq
import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from results.errors import ArchError, TableError, UserError, reason_of, shown
from results.reading import MOST_LOG_BYTES
from results.sheets import parse_number, read_sheet
from supernet.arch import Arch, ClassificationHead, SegmentationHead
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.resolve import written_arch
from supernet.space import Part, Space

COLUMNS = ("arch", "latency_ms", "latency_std_ms", "accuracy", "accuracy_std")
NEAR = 16  # subnets around the drawn latency
CONTENDERS = 8  # of these, among which the most promising is taken


class SubnetCost(NamedTuple):
    """A subnet, and why it should be trained."""

    arch: Arch
    latency_ms: float
    promise: float  # predicted accuracy, or MACs; compared within one file alone


@dataclass(frozen=True)
class Costs:
    """Subnets with their latencies, of one device."""

    rows: tuple[SubnetCost, ...]

    def draw(self, part: Part, resolution: tuple[int, int], rng: random.Random) -> Arch | None:
        """Return a subnet of `part` for a step at `resolution`; None if no row is of that part.

        Where there are rows at that resolution, it is one of these.
        """
        shape = part.family, len(part.reference.stages)
        inside = [row for row in self.rows if (row.arch.family, len(row.arch.stages)) == shape]
        rows = [row for row in inside if row.arch.resolution == resolution] or inside
        if not rows:
            return None
        logs = [math.log(row.latency_ms) for row in rows]
        wanted = rng.uniform(min(logs), max(logs))
        near = heapq.nsmallest(NEAR, range(len(rows)), key=lambda i: (abs(logs[i] - wanted), i))
        contenders = rng.sample(near, min(CONTENDERS, len(near)))
        best = max(contenders, key=lambda i: (rows[i].promise, -i))
        return replace(rows[best].arch, resolution=resolution)


def read_costs(path: Path, space: Space, *, tell: Callable[[str], object] | None = None) -> Costs:
    """Read the columns `arch`, `latency_ms` and, if there, `accuracy` of a CSV file.

    `arch` is as for `written_arch`; other columns are passed over. `tell` is given what was
    assumed of the file, in one line.

    Raises TableError, with the line, for what cannot be read or is outside `space`.
    """
    sheet = read_sheet(path, COLUMNS, numbers=COLUMNS[1:], error=TableError, most=MOST_LOG_BYTES)
    missing = {"arch", "latency_ms"} - set(sheet.columns)
    if missing:
        raise TableError(
            f"{path} has no column {min(missing)}; write it with python -m nas.sample --costs"
        )
    rows = []
    for line, fields in sheet:
        try:
            rows.append(_row(fields, space))
        except UserError as error:
            raise TableError(f"{path}, line {line}: {error}") from None
        except ValueError as error:
            raise TableError(f"{path}, line {line}: {reason_of(error)}") from None
    if not rows:
        raise TableError(f"{path} holds no subnets")
    if tell and sheet.remark:
        tell(sheet.remark)
    return Costs(tuple(rows))


def _row(fields: Mapping[str, str], space: Space) -> SubnetCost:
    arch = written_arch(fields.get("arch", ""))
    head = arch.head  # predictions are for the published classes
    if isinstance(head, ClassificationHead):
        arch = replace(arch, head=replace(head, num_classes=space.num_classes or 1000))
    elif isinstance(head, SegmentationHead) and space.num_classes:
        arch = replace(arch, head=replace(head, num_classes=space.num_classes))
    space.encode(arch)  # raises where it is outside
    latency_ms = _number(fields, "latency_ms")
    if not latency_ms > 0:
        raise ArchError(f"latency_ms must be above 0, not {shown(fields['latency_ms'])}")
    told = bool(fields.get("accuracy"))
    promise = _number(fields, "accuracy") if told else network_cost(blocks_of(arch)).macs
    return SubnetCost(arch, latency_ms, promise)


def _number(fields: Mapping[str, str], column: str) -> float:
    text = fields.get(column, "")
    try:
        return parse_number(text)
    except ValueError:
        raise ArchError(f"{column} must be a number, not {shown(text)}") from None
