"""`--arch NAME|FILE|RUN#ID`: an Arch by the name, file or run that a user gives."""

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from results.errors import ArchError, RunError, SpaceError, nearest
from results.reading import read_text
from results.runs import FRONT, read_front_record
from supernet.arch import (
    Arch,
    ClassificationHead,
    SegmentationHead,
    Task,
    format_resolution,
    parse_resolution,
)
from supernet.named import (
    NAMES,
    SEGMENTATION_HEADS,
    dataset_of,
    named_arch,
    with_nearest_head,
)
from supernet.space import Space


def resolve_arch(
    text: str,
    *,
    task: Task | None = None,
    dataset: str | None = None,
    resolution: tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> Arch:
    """The Arch that `text` names; it keeps its own head unless `task` or `dataset` asks for one.

    `text` may also be an Arch as JSON itself.

    Raises ArchError, or RunError for a run that is not there.
    """
    name = text.lower().removeprefix("efficientvit_")
    if name in NAMES:
        return named_arch(
            name, task=task, dataset=dataset, resolution=resolution, num_classes=num_classes
        )
    run, hash_, number = text.rpartition("#")
    if text.lstrip().startswith("{"):
        arch = Arch.from_json(text)
    elif _is_file(text):
        try:
            arch = Arch.from_json(read_text(Path(text), error=ArchError))
        except ArchError as error:
            raise ArchError(f"{text}: {error}") from None
    elif hash_:
        arch = _from_run(Path(run), number)
    elif _is_folder(text):
        last = len(_candidates_of(Path(text))) - 1
        raise ArchError(
            f"{text} is a run; name a candidate of it as {text}#ID, ID from 0 to {last}"
        )
    else:
        raise ArchError(
            f"no arch or file {text[:80]!r}{nearest(name[:80], NAMES)}, or a JSON file or RUN#ID"
        )
    if resolution is not None:
        arch = replace(arch, resolution=resolution)
    if task or dataset or arch.head is None:
        arch = with_nearest_head(arch, dataset_of(task or arch.task, dataset), num_classes)
    elif num_classes is not None and isinstance(arch.head, ClassificationHead | SegmentationHead):
        arch = replace(arch, head=replace(arch.head, num_classes=num_classes))
    return arch


def read_archs(text: str, space: Space) -> list[Arch]:
    """The Archs of `space` that `text` names, a run, a .csv, a .jsonl, or as for `resolve_arch`.

    A .csv has a column `arch`; a line of a .jsonl is an Arch, or an object with one as `arch`.
    Networks by name take the space's resolution that is nearest to their own.

    Raises ArchError, RunError; SpaceError, naming the dimension, for an Arch outside the space.
    """
    if text.endswith((".csv", ".jsonl")):
        found = list(_from_lines(Path(text)))
    elif _is_folder(text):
        found = _candidates_of(Path(text))
    elif text.lower().removeprefix("efficientvit_") in NAMES:
        arch = resolve_arch(text)
        pixels = math.prod(arch.resolution)
        known = min(space.resolutions, key=lambda size: abs(math.prod(size) - pixels))
        found = [replace(arch, resolution=known)]
    else:
        found = [resolve_arch(text)]
    return [arch_in_space(space, arch) for arch in found]


def arch_in_space(space: Space, arch: Arch) -> Arch:
    """The backbone of `arch`, at its resolution, with the head that it has in `space`.

    Raises SpaceError, naming the dimension, if the space has no such network.
    """
    _, part = space.part_of(arch)
    resolutions: Any = part.dimensions["resolution"]
    known = arch.resolution if arch.resolution in resolutions else resolutions[0]
    chosen: dict[str, Any] = part.values(arch) | {"resolution": known}
    if "head.widths" in part.dimensions:
        chosen.setdefault("head.widths", part.dimensions["head.widths"][0])
    try:
        found = space.build(part, chosen)
        space.encode(found)
        return replace(found, resolution=arch.resolution)
    except ArchError as error:
        raise SpaceError(f"{arch.describe()} is not in space {space.name}: {error}") from None


def trained_arch(space: Space, arch: Arch) -> Arch:
    """`arch_in_space`, for a space that tells which resolutions its weights were trained at.

    Raises SpaceError also for another one of these.
    """
    found = arch_in_space(space, arch)
    trained = (space.arguments or {}).get("resolutions")
    if trained and found.resolution not in space.resolutions:
        size = format_resolution(found.resolution)
        pixels = math.prod(found.resolution)
        closest = min(space.resolutions, key=lambda size: abs(math.prod(size) - pixels))
        raise SpaceError(
            f"the weights were trained at {', '.join(trained)} px, not at {size}; give "
            f"--resolution {format_resolution(closest)}"
        )
    return found


def at_resolution(arch: Arch, resolution: str | None) -> Arch:
    """`arch` at `--resolution`, or as it is. Raises ArchError."""
    return replace(arch, resolution=parse_resolution(resolution)) if resolution else arch


def _from_lines(path: Path) -> Iterator[Arch]:
    text = read_text(path, error=ArchError)
    if path.suffix == ".csv":
        rows = csv.DictReader(text.splitlines())
        if "arch" not in (rows.fieldnames or ()):
            raise ArchError(f"{path} has no column arch")
        lines = [row["arch"] or "" for row in rows]
    else:
        lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise ArchError(f"{path} names no arch")
    for number, line in enumerate(lines, start=1):
        try:
            data = json.loads(line)
            yield Arch.from_dict(data.get("arch", data))
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise ArchError(f"{path}, arch {number}: {error}") from None


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except OSError:  # too long for a file name, say
        return False


def _is_folder(text: str) -> bool:
    try:
        return Path(text).is_dir()
    except OSError:
        return False


def dataset_of_arch(arch: Arch) -> str:
    """The data set whose published figures speak of networks with such a head.

    "super_resolution" for those, of which no figures are published.
    """
    if arch.task == "super_resolution":
        return arch.task
    if arch.task != "segmentation":
        return dataset_of(arch.task, None)
    ade20k = {replace(head, num_classes=1) for head in SEGMENTATION_HEADS["ade20k"].values()}
    head = arch.head
    known = isinstance(head, SegmentationHead) and replace(head, num_classes=1) in ade20k
    return "ade20k" if known else "cityscapes"


def _from_run(run: Path, number: str) -> Arch:
    candidates = _candidates_of(run)
    if not number.isdecimal() or len(number) > 9 or int(number) >= len(candidates):
        raise ArchError(f"{run} has no candidate {number[:20]!r} (ids 0 to {len(candidates) - 1})")
    return candidates[int(number)]


def _candidates_of(run: Path) -> list[Arch]:
    try:
        return [Arch.from_dict(found.arch) for found in read_front_record(run).candidates]
    except ArchError as error:
        raise RunError(f"{run / FRONT} is damaged: {error}") from None
