"""COCO's files of annotations, and SA-1B's: which pictures they name, and objects as they stand.

An object is decoded when its picture is read; a file's text is held, not what it says.
H height, W width.
"""

import difflib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec

from results.errors import DataError, shown
from results.reading import Finite, Record, decode, parse_json, read_bytes
from supernet.tasks.folders import contents, folded, is_data, list_pictures
from supernet.tasks.split_folders import split_named, splits_in

MOST_BYTES = 2 * 2**30  # of a file of COCO; LVIS' largest has 1.1 GB
MOST_COMPARED = 5000  # names of files that one that is missing is compared with
MOST_SIDE = 10**6  # of a picture, pixels
NOT_A_NUMBER = re.compile(rb"(?<=[\[,:\s])-?(?:NaN|Infinity)(?=[\s,\]}])")  # Python writes them


class RunLengths(Record, frozen=True):
    size: tuple[int, int]  # H, W
    counts: str | list[int]


class Annotation(Record, frozen=True):
    """One object; what is not needed is not decoded."""

    id: Any = None
    bbox: tuple[Finite, Finite, Finite, Finite] | None = None  # x, y, width, height
    area: Finite | None = None
    segmentation: list[list[Finite]] | RunLengths | None = None


@dataclass(frozen=True)
class Labels:
    """The objects of one picture."""

    source: Path
    size: tuple[int, int] | None  # (H, W) of the picture that they were made on, if told
    annotations: tuple[bytes, ...]  # JSON of an `Annotation` each


class _Image(Record, frozen=True):
    id: int | float | str
    file_name: str | None = None
    coco_url: str | None = None
    width: Any = None
    height: Any = None


class _Coco(Record, frozen=True):
    images: list[_Image]
    annotations: list[msgspec.Raw]


class _Sa1b(Record, frozen=True):
    annotations: list[msgspec.Raw]
    image: Any = None


class _Owner(Record, frozen=True):
    image_id: int | float | str


def read_sa1b(source: Path) -> Labels:
    """Return the objects of one picture from its file of SA-1B. Raises DataError."""
    record = _parse(read_bytes(source, error=DataError), _Sa1b, source)
    image = record.image if isinstance(record.image, dict) else {}
    size = _size(image.get("width"), image.get("height"))
    return Labels(source, size, tuple(map(bytes, record.annotations)))


def find_coco(folder: Path, split: str) -> tuple[list[tuple[Path, Labels]], tuple[str, ...]]:
    """Return pictures with their objects, and a line where objects or pictures are passed over.

    Raises DataError for a file of another layout, one that names a picture twice, a picture
    outside `folder`, and where all are missing.
    """
    source = _coco_file(folder / "annotations", split)
    record = _parse(read_bytes(source, error=DataError, most=MOST_BYTES), _Coco, source)
    objects: dict[str, list[bytes]] = {}
    for image in record.images:
        if _key(image.id) in objects:
            raise DataError(
                f"{source} has two pictures of id {shown(image.id)}, so that it does not tell "
                "whose the objects are; give each an id of its own"
            )
        objects[_key(image.id)] = []
    orphans = 0
    for annotation in record.annotations:
        try:
            owner = _key(msgspec.json.decode(annotation, type=_Owner).image_id)
        except (msgspec.DecodeError, RecursionError):
            owner = ""
        if owner in objects:
            objects[owner].append(bytes(annotation))
        else:
            orphans += 1
    notes: tuple[str, ...] = ()
    if orphans:
        notes = (
            f"{orphans} of {len(record.annotations)} objects in {source} are of no picture that "
            "it names, and are passed over",
        )
        if orphans == len(record.annotations):
            raise DataError(
                f"none of {orphans} objects in {source} is of a picture that it names: their "
                "image_id is none of the images' id"
            )
    within = source.stem.split("_")[-1]  # val2017
    places = [folder / place for place in (within, f"images/{within}", "images", split, ".")]
    places = [place for place in places if place.is_dir()]
    names = [_name(image, source) for image in record.images]
    found, about_names = _find_pictures(names, places, folder, source)
    samples = [
        (path, Labels(source, _size(image.width, image.height), tuple(objects[_key(image.id)])))
        for image, path in zip(record.images, found, strict=True)
        if path is not None
    ]
    return samples, notes + about_names


def _find_pictures(
    names: Sequence[str], places: Sequence[Path], folder: Path, source: Path
) -> tuple[list[Path | None], tuple[str, ...]]:
    """Return the path of each picture, None where it is missing, and what is odd, a line each.

    Raises DataError for one outside `folder`, and where all are missing.
    """
    last = Counter(map(_last, names))
    found = [_picture(name, places, folder, source, alone=last[_last(name)] == 1) for name in names]
    if all(found):
        return found, ()
    files = _Files(folder, [path for path in found if path is not None])
    other: dict[str, Path] = {}
    for name, path in zip(names, found, strict=True):
        if path is None and (spelt := files.find(_candidates(name, places, folder))) is not None:
            other[name] = spelt
    twice = Counter(other.values())
    other = {name: path for name, path in other.items() if twice[path] == 1}
    found = [path or other.get(name) for name, path in zip(names, found, strict=True)]
    notes: tuple[str, ...] = ()
    if other:
        name, path = next(iter(other.items()))
        notes = (
            f"{len(other)} of {len(names)} pictures that {source} names are spelt otherwise there: "
            f"{_last(name)!a} is {path.name!a}",
        )
    missing = [name for name, path in zip(names, found, strict=True) if path is None]
    if not missing:
        return found, notes
    where = ", ".join(map(str, places)) + files.nearest(missing[0])
    if len(missing) == len(names):
        raise DataError(f"{source} names picture {missing[0]}, which is in none of {where}")
    return found, (
        *notes,
        f"{len(missing)} of {len(names)} pictures that {source} names are missing, as "
        f"{shown(missing[0])} in {where}, and are passed over",
    )


class _Files:
    """The pictures of a folder, to find those whose names are spelt otherwise."""

    def __init__(self, folder: Path, taken: Sequence[Path]) -> None:
        """`taken`: pictures that were found by their very names, and are no other's."""
        try:
            self.paths = list_pictures(folder)
        except DataError:  # as for a dead link: what is missing is missing
            self.paths = []
        used = {os.path.abspath(path) for path in taken}
        self.by_name: dict[str, list[Path]] = {}
        for path in self.paths:
            whole = os.path.abspath(path)
            if whole not in used:
                self.by_name.setdefault(folded(whole), []).append(path)

    def find(self, candidates: Sequence[str]) -> Path | None:
        """Return the only picture that one of absolute paths may mean: case and Unicode aside.

        Names may be those of addresses, with %20 for a space.
        """
        for candidate in candidates:
            for name in (candidate, unquote(candidate)):
                paths = self.by_name.get(folded(name), [])
                if len(paths) == 1:
                    return paths[0]
        return None

    def nearest(self, name: str) -> str:
        """Return `; did you mean 'x.jpg'?`, or nothing."""
        names = [path.name for path in self.paths[:MOST_COMPARED]]
        close = difflib.get_close_matches(_last(name)[:200], names, n=1, cutoff=0.75)
        return f"; did you mean {close[0]!r}?" if close else ""


def read_annotation(text: bytes, source: Path) -> Annotation:
    """Return one object. Raises DataError that names a damaged one."""
    try:
        return msgspec.json.decode(text, type=Annotation)
    except (msgspec.DecodeError, RecursionError) as reason:
        raise DataError(f"{named(text, source)} is damaged: {reason}") from None


def named(text: bytes, source: Path) -> str:
    """Return what errors call an object, `FILE: annotation 7`, also where it is damaged."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        value = None
    number = value.get("id", "?") if isinstance(value, dict) else "?"
    return f"{source}: annotation {number if number == '?' else shown(number)}"


def _parse(data: bytes, kind: Any, source: Path) -> Any:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff") or b"\0" in data[:2]:
        data = decode(data, str(source), error=DataError).encode()
    data = data.removeprefix(b"\xef\xbb\xbf")
    where = f"cannot read {source}"
    try:
        return parse_json(data, kind, where, error=DataError)
    except DataError:
        readable = NOT_A_NUMBER.sub(b"null", data)
        if readable == data:
            raise
    return parse_json(readable, kind, where, error=DataError)


def _key(number: int | float | str) -> str:
    """Return an id as a text: tools write 7, 7.0 and "7" for the same."""
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    return str(number).strip()


def _size(width: Any, height: Any) -> tuple[int, int] | None:
    """Return (H, W), None where it is not told."""
    sides = []
    for side in (height, width):
        try:
            number = float(side) if type(side) in (int, float, str) else 0.0
        except (ValueError, OverflowError):
            number = 0.0
        if not (0 < number <= MOST_SIDE and number.is_integer()):
            return None
        sides.append(int(number))
    return sides[0], sides[1]


def _name(image: _Image, source: Path) -> str:
    """Return the name of a picture's file; LVIS tells it as the end of an address."""
    name = image.file_name or "/".join((image.coco_url or "").split("/")[-2:])
    if not name:
        raise DataError(f"{source}: the picture of id {shown(image.id)} has no file_name")
    return name


def _last(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]


def _picture(
    name: str, places: Sequence[Path], folder: Path, source: Path, *, alone: bool
) -> Path | None:
    """Return the path of a picture as it is written: links that lie in the folder may lead out.

    Args:
        alone: no other picture has the same name in another folder, so that it can be told by
            its name without folders where it is not in these.

    Returns None for one that is missing.
    """
    inside = _candidates(name, places, folder)
    if not inside:
        raise DataError(
            f"{source} names picture {shown(name)}, which is outside {folder}; put it inside, or "
            "link to it there"
        )
    if alone and _last(name) not in ("", name):
        inside += [os.path.abspath(os.path.join(place, _last(name))) for place in places]
    for path in inside:
        if os.path.isfile(path):
            return folder / os.path.relpath(path, os.path.abspath(folder))
    return None


def _candidates(name: str, places: Sequence[Path], folder: Path) -> list[str]:
    """Return the absolute paths that a picture's name may mean, those in the folder alone."""
    within = os.path.join(os.path.abspath(folder), "")
    paths = (os.path.abspath(os.path.join(place, name.replace("\\", "/"))) for place in places)
    return [path for path in paths if path.startswith(within)]


def _split_in(folder: Path, split: str) -> Path | None:
    return splits_in(folder).of(split) if folder.is_dir() else None


def _coco_file(annotations: Path, split: str) -> Path:
    files = sorted(path for path in annotations.glob("*.json") if is_data(path.name))
    told = {path: path.stem.lower() for path in files}
    for chosen in (
        [path for path in files if told[path].startswith(f"instances_{split}")],
        [path for path in files if split in told[path]],
        [path for path in files if split in map(split_named, re.findall("[a-z]+", told[path]))],
        files,
    ):
        if len(chosen) == 1:
            return chosen[0]
        if chosen:
            break
    raise DataError(
        f"{annotations} must hold one instances_{split}*.json, or one *.json; "
        f"{contents(annotations)}"
    )
