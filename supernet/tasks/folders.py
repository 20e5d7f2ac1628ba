"""Which pictures and masks a folder holds: links, case, suffixes, and what is no data."""

import difflib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

from results.errors import DataError

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".bmp", ".dib", ".webp", ".avif"),
    *(".tif", ".tiff", ".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".gif"),
)
LOSSLESS = (".png", ".apng", ".bmp", ".dib", ".tif", ".tiff", ".pgm", ".pbm", ".ppm", ".gif")
NOTES = (".txt", ".md", ".json", ".csv", ".xml", ".yaml", ".yml", ".html", ".pdf", ".zip")
NO_DATA = (  # what systems and network storage leave in folders, in lower case
    *("@eadir", "@recycle", "@recently-snapshot", "#recycle", "#snapshot", "$recycle.bin"),
    *("__macosx", "lost+found", "lost.dir", "system volume information", "thumbs.db"),
    *("ehthumbs.db", "desktop.ini", "__pycache__", "@tmp", "@synoresource", "@synoeastream"),
    *("@sharebin", "~snapshot", "network trash folder", "temporary items", "msdownld.tmp"),
    *("thevolumesettingsfolder", "thefindbycontentfolder", "icon\r"),
)
NO_DATA_OF_WINDOWS = re.compile(r"RECYCLER|(?i:found\.\d{3})")
# Beside NOTES, files of which nobody asks why they are no pictures.
NO_PICTURES = (*NOTES, ".log", ".tsv", ".ini", ".db", ".py", ".rst", ".lst", ".lnk", ".url")

MOST_SUFFIXES = 3  # that are named of files that are not read
Unread = Counter[str]  # files by suffix


def check_folder(folder: Path) -> None:
    """Raise DataError, with the nearest name beside it, unless `folder` is a folder."""
    if folder.is_dir():
        return
    if folder.exists():
        raise DataError(f"{folder} is a file; --data takes a folder")
    beside = folder.absolute().parent
    names = sorted(path.name for path in beside.iterdir()) if beside.is_dir() else []
    close = difflib.get_close_matches(folder.name, names, n=1)
    raise DataError(f"no folder {folder}" + (f"; did you mean {close[0]!r}?" if close else ""))


def contents(folder: Path, most: int = 6) -> str:
    """Return the end of an error about a layout, `found a/, b.txt, …`."""
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    listed = ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")
    return f"found {listed or 'nothing'}"


def list_folders(folder: Path) -> list[Path]:
    """Return the folders in `folder`, sorted by name.

    Hidden ones, what systems leave there and links to `folder` or a folder above it are none.
    Raises DataError for a link that leads nowhere, which a class may be missing by.
    """
    own = os.path.realpath(folder)
    paths = sorted(path for path in folder.iterdir() if is_data(path.name))
    for path in paths:
        if path.is_symlink():
            _check_link(path)
    return [
        path
        for path in paths
        if path.is_dir() and not (path.is_symlink() and _is_above(os.path.realpath(path), own))
    ]


def list_pictures(
    folder: Path, *, each_name: bool = False, unread: Unread | None = None
) -> list[Path]:
    """Return all pictures in `folder` and below, sorted folder by folder.

    Links are followed, also out of it. Each picture is listed once, whatever leads to it: links
    to what is listed anyway and to folders above are passed over. With `each_name` links to
    files all count, where names tell what belongs together: masks may share one file. Files of
    other formats are counted in `unread`.

    Raises DataError for a folder that cannot be read, a link that leads nowhere, and a pipe or
    device named like a picture.
    """
    return [path for path, _ in _walk(folder, each_name=each_name, unread=unread)]


def list_classes(
    root: Path, names: Sequence[str], unread: Unread | None = None
) -> dict[str, list[Path]]:
    """Return the pictures of class folders by name; {} where no class has any.

    Files of other formats are counted in `unread`.

    Raises DataError for a class without a picture beside others, and for a picture, or folder
    of some, that links put into two classes.
    """
    walked = {name: _walk(root / name, unread=unread) for name in names}
    if not any(walked.values()):
        return {}
    owner: dict[str, str] = {}
    real_folder = cache(os.path.realpath)
    linked = any(real for pictures in walked.values() for _, real in pictures) or any(
        (root / name).is_symlink() for name in names
    )
    for name, pictures in walked.items():
        if not pictures:
            raise DataError(
                f"class folder {root / name} holds no pictures{_unread(root / name)}; add some, "
                "or remove it"
            )
        for path, real in pictures if linked else ():
            real = real or os.path.join(real_folder(path.parent), path.name)
            other = owner.setdefault(real, name)
            if other != name:
                raise DataError(
                    f"{path} is of class {name!r}, and a link makes it one of {other!r} as well; "
                    "remove the link"
                )
    return {name: [path for path, _ in pictures] for name, pictures in walked.items()}


def unread_notes(unread: Unread, where: Path) -> tuple[str, ...]:
    """Return a line where files below a folder are of formats that are not read."""
    if not unread:
        return ()
    common = ", ".join(f"*{suffix}" for suffix, _ in unread.most_common(MOST_SUFFIXES))
    more = ", …" if len(unread) > MOST_SUFFIXES else ""
    return (
        f"{unread.total()} files in {where} are of formats that are not read, {common}{more}; "
        "convert the pictures among them",
    )


def _walk(
    folder: Path, *, each_name: bool = False, unread: Unread | None = None
) -> list[tuple[Path, str]]:
    """Return pictures in and below `folder`, each with its real path where a link led to it."""
    own = os.path.realpath(folder)
    pictures: list[tuple[Path, str]] = []  # "" where no link led to it
    links: list[Path] = []
    visited: set[str] = set()

    def scan(start: Path, real_start: str, linked: bool) -> None:
        waiting = [(start, real_start)]
        while waiting:
            where, real = waiting.pop()
            if real in visited:
                continue
            visited.add(real)
            inner = []
            for entry in _entries(where):
                path = Path(entry.path)
                if entry.is_symlink():
                    links.append(path)
                elif entry.is_dir():
                    inner.append((path, os.path.join(real, entry.name)))
                elif is_picture(entry.name):
                    if not entry.is_file():
                        raise DataError(f"{path} is no regular file; remove it")
                    pictures.append((path, os.path.join(real, entry.name) if linked else ""))
                elif unread is not None:
                    _count_unread(entry.name, unread)
            waiting += reversed(inner)

    scan(folder, own, False)
    if not links:
        return pictures
    # After what is there itself, so that a link never takes the place of what it leads to.
    known = {os.path.realpath(path) for path, _ in pictures}
    number = 0
    while number < len(links):
        path, number = links[number], number + 1
        _check_link(path)
        real = os.path.realpath(path)
        if os.path.isdir(real):
            if not _is_above(real, own):
                before = len(pictures)
                scan(path, real, True)
                new = [item for item in pictures[before:] if item[1] not in known]
                known.update(real for _, real in new)
                pictures[before:] = new
        elif is_picture(path.name) and (each_name or real not in known):
            known.add(real)
            pictures.append((path, real))
    return sorted(pictures, key=lambda item: (item[0].parent.parts, item[0].name))


def _count_unread(name: str, unread: Unread) -> None:
    suffix = os.path.splitext(name)[1].lower()
    if len(suffix) > 1 and suffix not in NO_PICTURES:
        unread[suffix] += 1


def _entries(folder: Path) -> list["os.DirEntry[str]"]:
    """Return what is in a folder but what is no data, sorted by name. Raises DataError."""
    try:
        with os.scandir(folder) as entries:
            return sorted((e for e in entries if is_data(e.name)), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"cannot read folder {folder}: {error.strerror or error}") from None


def _check_link(path: Path) -> None:
    """Raise DataError for a link that leads nowhere, unless it is named like a text or archive."""
    if os.path.exists(path) or path.name.lower().endswith(NOTES):
        return
    raise DataError(
        f"link {path} leads to {os.readlink(path)}, which is not there or cannot be "
        "reached; mend the link, or remove it"
    )


def _is_above(real: str, other: str) -> bool:
    """Return whether `real` is `other` or a folder above it; both are real paths."""
    return real == other or other.startswith(os.path.join(real, ""))


def _unread(folder: Path) -> str:
    """Return `, but 3 files *.heic, which are not read`, of the most frequent suffix."""
    counts = Counter(Path(name).suffix for name in os.listdir(folder) if is_data(name))
    counts.pop("", None)
    if not counts:
        return ""
    suffix, count = counts.most_common(1)[0]
    return f", but {count} files *{suffix}, which are not read"


def is_picture(name: str) -> bool:
    """Return whether a file of that name is read as a picture."""
    return is_data(name) and name.lower().endswith(SUFFIXES)


def is_data(name: str) -> bool:
    """Return whether a file or folder of that name is the user's: not hidden, nor a system's."""
    if name.startswith(".") or name.lower() in NO_DATA:
        return False
    return not NO_DATA_OF_WINDOWS.fullmatch(name)


def normal(name: str) -> str:
    """Return a name as Unicode composes it: é is one character on Linux, and two on old Macs."""
    return unicodedata.normalize("NFC", name.encode("utf-8", "backslashreplace").decode())


def folded(name: str) -> str:
    """Return a name as `normal` does, without case."""
    return normal(name).lower()


def pair_masks(
    pictures: Path, masks: Path, unread: Unread | None = None
) -> list[tuple[Path, Path]]:
    """Return every picture below `pictures` with the mask of its name at its place in `masks`.

    Files beside pictures of formats that are not read are counted in `unread`.

    Masks are of a LOSSLESS format. Case, and how Unicode is composed, make no difference where no
    name is the very same.

    Raises DataError for a picture without a mask or with two, and for one in a lossy format.
    """
    all_masks = [path.relative_to(masks) for path in list_pictures(masks, each_name=True)]
    by_name = _by(all_masks, lambda path: str(path.with_suffix("")))
    by_folded = _by(all_masks, lambda path: folded(str(path.with_suffix(""))))
    listed = list_pictures(pictures, each_name=True, unread=unread)
    names = [path.relative_to(pictures) for path in listed]
    taken = {str(name.with_suffix("")) for name in names}
    pairs = []
    for name in names:
        stem = str(name.with_suffix(""))
        chosen = by_name.get(stem) or [
            mask
            for mask in by_folded.get(folded(stem), ())
            if str(mask.with_suffix("")) not in taken  # another picture's own
        ]
        lossless = [mask for mask in chosen if mask.suffix.lower() in LOSSLESS]
        if not chosen:
            missing = masks / name.with_suffix(".png")
            raise DataError(
                f"{pictures / name} has no mask: {missing} is missing{_similar(name, all_masks)}"
            )
        if not lossless:
            raise DataError(
                f"mask {masks / chosen[0]} is in a lossy format, which changes labels; make it a "
                "PNG from what it was made of"
            )
        if len(lossless) > 1:
            raise DataError(
                f"{pictures / name} has two masks, {lossless[0]} and {lossless[1]} in {masks}; "
                "remove one"
            )
        pairs.append((pictures / name, masks / lossless[0]))
    return pairs


def _similar(name: Path, masks: Sequence[Path]) -> str:
    """Return `; there is 0_mask.png: rename the masks`, of those where `name` should have one."""
    as_word = re.compile(rf"(?<![^\W_]){re.escape(folded(name.stem))}(?![^\W_])")
    for mask in masks:
        stem = folded(mask.stem)
        is_beside = folded(str(mask.parent)) == folded(str(name.parent))
        if is_beside and stem != folded(name.stem) and as_word.search(stem):
            return f"; there is {mask.name}: rename the masks as their pictures"
    return ""


def unused_masks(pairs: Sequence[tuple[Path, Path]], masks: Path) -> tuple[str, ...]:
    """Return a line where masks below `masks` are of no picture, () where all are used."""
    used = {mask for _, mask in pairs}
    unused = [path for path in list_pictures(masks) if path not in used]
    if not unused:
        return ()
    return (f"{len(unused)} masks in {masks} are of no picture, as {unused[0].name}",)


def _by(paths: Sequence[Path], key: Callable[[Path], str]) -> dict[str, list[Path]]:
    grouped: dict[str, list[Path]] = {}
    for path in paths:
        grouped.setdefault(key(path), []).append(path)
    return grouped
