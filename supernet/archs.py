"""`--arch NAME|FILE|RUN#ID`: an Arch by the name, file or run that a user gives."""

from dataclasses import replace
from pathlib import Path

from results.errors import ArchError, RunError, nearest
from results.files import read_text
from results.runs import FRONT, read_front_data
from supernet.arch import Arch, ClassificationHead, SegmentationHead, Task
from supernet.named import (
    NAMES,
    SEGMENTATION_HEADS,
    dataset_of,
    named_arch,
    with_nearest_head,
)


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
    data = read_front_data(run)
    try:
        archs = [Arch.from_dict(candidate["arch"]) for candidate in data["candidates"]]
        if not archs:
            raise ValueError("it has no candidates")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{run / FRONT} is damaged: {error}") from None
    return archs
