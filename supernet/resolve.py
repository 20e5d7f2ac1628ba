"""`--arch NAME|FILE|RUN#ID`: an Arch by the name, file or run that a user gives."""

import math
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.errors import ArchError, RunError, SpaceError, nearest, shown
from results.fronts import FRONT, FRONT_ALL, NetworksRecord, read_front_record
from results.reading import MOST_LOG_BYTES, as_kind, parse_json, read_text
from results.sheets import read_sheet
from supernet.arch import (
    Arch,
    ClassificationHead,
    SegmentationHead,
    Task,
    format_resolution,
    parse_resolution,
)
from supernet.official import (
    NAMES,
    SEGMENTATION_HEADS,
    dataset_of,
    known_name,
    named_arch,
    refuse_other_family,
    with_nearest_head,
)
from supernet.space import Space

if TYPE_CHECKING:
    from supernet.weights.header import WeightsHeader

WEIGHTS = ".safetensors"


def resolve_arch(
    text: str,
    *,
    task: Task | None = None,
    dataset: str | None = None,
    resolution: tuple[int, int] | None = None,
    num_classes: int | None = None,
) -> Arch:
    """Return the Arch that `text` names, with its own head unless `task` or `dataset` ask for one.

    `text` may also be an Arch as JSON itself, or weights that tell their network, which is taken
    at the resolution that they were trained at.

    Raises ArchError; RunError for a run that is not there; WeightsError for damaged weights.
    """
    if known_name(text):
        return named_arch(
            text, task=task, dataset=dataset, resolution=resolution, num_classes=num_classes
        )
    run, hash_, number = text.rpartition("#")
    if text.lstrip().startswith("{"):
        arch = Arch.from_json(text)
    elif is_weights(text):
        arch = _from_weights(Path(text))
    elif is_file(text):
        written = read_text(Path(text), error=ArchError)
        try:
            arch = Arch.from_json(written)
        except ArchError as error:
            raise ArchError(f"{text}: {error}") from None
    elif hash_:
        arch = _from_run(Path(run), number)
    elif is_folder(text):
        ids = _candidates_of(Path(text))
        raise ArchError(
            f"{text} is a run; name a candidate of it as {text}#ID, ID from 0 to {max(ids)}"
        )
    else:
        refuse_other_family(text)
        meant = nearest(text.lower().removeprefix("efficientvit_"), NAMES)
        raise ArchError(f"no arch or file {shown(text)}{meant}, a JSON file, weights, or RUN#ID")
    if resolution is not None:
        arch = replace(arch, resolution=resolution)
    if task or dataset or arch.head is None:
        arch = with_nearest_head(arch, dataset_of(task or arch.task, dataset), num_classes)
    elif num_classes is not None and isinstance(arch.head, ClassificationHead | SegmentationHead):
        arch = replace(arch, head=replace(arch.head, num_classes=num_classes))
    return arch


def is_weights(text: str) -> bool:
    """Tell whether `--arch` names a file of weights, by the file's name."""
    return text.lower().endswith(WEIGHTS) and is_file(text)


def header_of_weights(path: Path) -> "WeightsHeader":
    """Return what a file of weights tells of the one network in it.

    Raises ArchError for a supernet and where the file tells of no network, WeightsError for a
    damaged file.
    """
    from supernet.weights.header import read_header  # with msgspec, which a target may lack

    header = read_header(path)
    if header.kind == "supernet":
        raise ArchError(
            f"{path} is a supernet; name a network of it by --arch NAME, or take one out first by "
            f"python -m supernet.extract --weights {shlex.quote(str(path))} --arch NAME --out FILE"
        )
    if header.arch is None:
        raise ArchError(f"{path} does not tell its network; name it by --arch, such as --arch b1")
    return header


def _from_weights(path: Path) -> Arch:
    arch = header_of_weights(path).arch_as_trained
    assert arch is not None
    return arch


def read_archs(
    text: str,
    space: Space,
    *,
    within: Callable[[Space, Arch], Arch] | None = None,
    tell: Callable[[str], object] | None = None,
) -> list[Arch]:
    """Return the Archs of `space` that `text` names: a run, .csv, .jsonl, or as `resolve_arch`.

    A .csv has a column `arch`, as `written_arch` reads it; a line of a .jsonl is an Arch, or an
    object with one as `arch`. Networks by name take the space's resolution that is nearest to
    their own.

    Args:
        within: what finds an Arch in the space; by default `arch_in_space`.
        tell: is given what was assumed of a .csv, in one line.

    Raises ArchError, RunError; SpaceError, naming the dimension, for an Arch outside the space.
    Of a file of several, each names the line.
    """
    find = within or arch_in_space
    if text.endswith(".csv"):
        listed = _from_sheet(Path(text), space, tell)
    elif text.endswith(".jsonl"):
        listed = _from_lines(Path(text))
    elif is_folder(text):
        return [find(space, arch) for arch in _candidates_of(Path(text)).values()]
    elif known_name(text):
        return [find(space, _at_nearest_resolution(resolve_arch(text), space))]
    else:
        return [find(space, resolve_arch(text))]
    archs = []
    for line, arch in listed:
        try:
            archs.append(find(space, arch))
        except SpaceError as error:
            raise SpaceError(f"{text}, line {line}: {error}") from None
    return archs


def written_arch(text: str, **options: Any) -> Arch:
    """Read a cell of a CSV: a name as for `named_arch`, with its options, or an Arch as JSON.

    Raises ArchError.
    """
    if text.startswith("{"):
        return Arch.from_json(text)
    return named_arch(text, **options)


def _at_nearest_resolution(arch: Arch, space: Space) -> Arch:
    pixels = math.prod(arch.resolution)
    nearest_size = min(space.resolutions, key=lambda size: abs(math.prod(size) - pixels))
    return replace(arch, resolution=nearest_size)


def arch_in_space(space: Space, arch: Arch) -> Arch:
    """Return the backbone of `arch`, at its resolution, with the head that it has in `space`.

    Raises SpaceError, naming the dimension, if the space has no such network.
    """
    _, part = space.part_of(arch)
    resolutions: Any = part.dimensions["resolution"]
    resolution = arch.resolution if arch.resolution in resolutions else resolutions[0]
    values: dict[str, Any] = part.values(arch) | {"resolution": resolution}
    if "head.widths" in part.dimensions:
        values.setdefault("head.widths", part.dimensions["head.widths"][0])
    try:
        inside = space.build(part, values)
        space.encode(inside)
        return replace(inside, resolution=arch.resolution)
    except ArchError as error:
        raise SpaceError(f"{arch.describe()} is not in space {space.name}: {error}") from None


def trained_arch(space: Space, arch: Arch) -> Arch:
    """Return what `arch_in_space` does, of a space that tells the resolutions of its training.

    Raises SpaceError also for another one of these.
    """
    inside = arch_in_space(space, arch)
    trained = space.spec.resolutions if space.spec else ()
    if trained and inside.resolution not in space.resolutions:
        size = format_resolution(inside.resolution)
        sizes = ", ".join(map(format_resolution, trained))
        pixels = math.prod(inside.resolution)
        closest = min(space.resolutions, key=lambda size: abs(math.prod(size) - pixels))
        raise SpaceError(
            f"the weights were trained at {sizes} px, not at {size}; give "
            f"--resolution {format_resolution(closest)}"
        )
    return inside


def at_resolution(arch: Arch, resolution: str | None) -> Arch:
    """Return `arch` at `--resolution`, or as it is. Raises ArchError."""
    return replace(arch, resolution=parse_resolution(resolution)) if resolution else arch


def _from_sheet(
    path: Path, space: Space, tell: Callable[[str], object] | None
) -> Iterator[tuple[int, Arch]]:
    """Yield lines and Archs of a .csv. Raises ArchError, naming the line."""
    sheet = read_sheet(path, ("arch",), error=ArchError, most=MOST_LOG_BYTES)
    if "arch" not in sheet.columns:
        meant = nearest("arch", sheet.columns)
        raise ArchError(f"{path} has no column arch, of networks as JSON or by name{meant}")
    if tell and sheet.remark:
        tell(sheet.remark)
    line = 0
    for line, fields in sheet:
        cell = fields.get("arch", "")
        try:
            arch = written_arch(cell)
        except ArchError as error:
            raise ArchError(f"{path}, line {line}: {error}") from None
        yield line, _at_nearest_resolution(arch, space) if known_name(cell) else arch
    if not line:
        raise ArchError(f"{path} names no arch")


def _from_lines(path: Path) -> Iterator[tuple[int, Arch]]:
    """Yield lines and Archs of a .jsonl. Raises ArchError, naming the line."""
    lines = enumerate(read_text(path, error=ArchError, most=MOST_LOG_BYTES).split("\n"), start=1)
    lines_of_archs = [(number, line) for number, line in lines if line.strip()]
    for number, line in lines_of_archs:
        where = f"{path}, line {number}"
        data = parse_json(line, dict[str, Any], where, error=ArchError)
        own = as_kind(data.get("arch", data), dict[str, Any], where, error=ArchError)
        try:
            arch = Arch.from_dict(own)
        except ArchError as error:
            raise ArchError(f"{where}: {error}") from None
        yield number, arch
    if not lines_of_archs:
        raise ArchError(f"{path} names no arch")


def is_file(text: str) -> bool:
    """Tell whether a text is the path of a file."""
    try:
        return Path(text).is_file()
    except OSError:  # too long for a file name, say
        return False


def is_folder(text: str) -> bool:
    """Tell whether a text is the path of a folder."""
    try:
        return Path(text).is_dir()
    except OSError:
        return False


def dataset_of_arch(arch: Arch) -> str:
    """Return the data set whose published figures speak of networks with such a head.

    "super_resolution" for those, of which no figures are published.
    """
    if arch.task == "super_resolution":
        return arch.task
    if arch.task != "segmentation":
        return dataset_of(arch.task, None)
    ade20k = {replace(head, num_classes=1) for head in SEGMENTATION_HEADS["ade20k"].values()}
    head = arch.head
    is_ade20k = isinstance(head, SegmentationHead) and replace(head, num_classes=1) in ade20k
    return "ade20k" if is_ade20k else "cityscapes"


def _from_run(run: Path, number: str) -> Arch:
    """Return a network by its id: of front.json, or of those that were thinned out of it."""
    shown_ones = _candidates_of(run)
    if number.isdecimal() and len(number) < 10:
        if (found := shown_ones.get(int(number))) is not None:
            return found
        if (found := _thinned_out(run, int(number))) is not None:
            return found
    raise ArchError(f"{run} has no candidate {number[:20]!r} (ids 0 to {max(shown_ones)})")


def _candidates_of(run: Path) -> dict[int, Arch]:
    networks = read_front_record(run, NetworksRecord).networks
    try:
        return {number: Arch.from_dict(arch) for number, arch in networks.items()}
    except ArchError as error:
        raise RunError(f"{run / FRONT} is damaged: {error}") from None


def _thinned_out(run: Path, number: int) -> Arch | None:
    path = run / FRONT_ALL
    if not path.is_file():  # a run of before fronts were thinned
        return None
    for line, row in read_sheet(path, ("id", "arch")):
        if row.get("id") == str(number):
            try:
                return Arch.from_json(row.get("arch", ""))
            except ArchError as error:
                raise RunError(f"{path}, line {line} is damaged: {error}") from None
    return None
