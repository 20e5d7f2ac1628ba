"""Attentive sampling: subnets that are good for their latency are trained more often.

A latency is drawn, log-uniformly; of a few subnets near it the most promising one is trained:
the one of highest predicted accuracy where the file tells it, else of most MACs, since among
equally fast networks those that compute more are usually more accurate.

Source: Wang et al., AttentiveNAS (BestUp), CVPR 2021, https://arxiv.org/abs/2011.09011
"""

import csv
import heapq
import io
import math
import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from results.errors import ArchError, TableError, UserError
from results.reading import read_text
from supernet.arch import Arch, ClassificationHead, SegmentationHead
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.space import Part, Space

NEAR = 16  # subnets around the drawn latency
CONTENDERS = 8  # of these, among which the most promising is taken


class Row(NamedTuple):
    arch: Arch
    latency_ms: float
    promise: float  # predicted accuracy, or MACs; compared within one file alone


@dataclass(frozen=True)
class Costs:
    """Subnets with their latencies, of one device."""

    rows: tuple[Row, ...]

    def draw(self, part: Part, resolution: tuple[int, int], rng: random.Random) -> Arch | None:
        """A subnet of `part` for a step at `resolution`; None if no row is of that part.

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


def read_costs(path: Path, space: Space) -> Costs:
    """The columns `arch` (JSON), `latency_ms` and, if there, `accuracy` of a CSV file.

    Raises TableError, with the line, for what cannot be read or is outside `space`.
    """
    reader = csv.DictReader(io.StringIO(read_text(path, error=TableError)))
    missing = {"arch", "latency_ms"} - set(reader.fieldnames or ())
    if missing:
        raise TableError(
            f"{path} has no column {min(missing)}; write it with python -m nas.predict --costs"
        )
    rows = []
    try:
        for fields in reader:
            try:
                rows.append(_row(fields, space))
            except (UserError, TypeError, ValueError) as error:
                raise TableError(f"{path}, line {reader.line_num}: {error}") from None
    except csv.Error as error:
        raise TableError(f"{path}, line {reader.line_num}: {error}") from None
    if not rows:
        raise TableError(f"{path} holds no subnets")
    return Costs(tuple(rows))


def _row(fields: dict[str, str], space: Space) -> Row:
    arch = Arch.from_json(fields["arch"])
    head = arch.head  # predictions are for the published classes
    if isinstance(head, ClassificationHead):
        arch = replace(arch, head=replace(head, num_classes=space.num_classes or 1000))
    elif isinstance(head, SegmentationHead) and space.num_classes:
        arch = replace(arch, head=replace(head, num_classes=space.num_classes))
    space.encode(arch)  # raises where it is outside
    latency_ms = float(fields["latency_ms"])
    if not 0 < latency_ms < math.inf:
        raise ArchError(f"latency_ms must be above 0, not {fields['latency_ms']}")
    accuracy = fields.get("accuracy")
    promise = float(accuracy) if accuracy else network_cost(blocks_of(arch)).macs
    if not math.isfinite(promise):
        raise ArchError(f"accuracy must be a number, not {accuracy}")
    return Row(arch, latency_ms, promise)
