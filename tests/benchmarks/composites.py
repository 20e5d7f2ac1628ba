"""Real pictures with exact labels: photographs, and photographed objects cut out and put on them.

Both come from Debian packages, by its own client: 25 photographs of `lomiri-wallpapers-16.04` and
`mate-backgrounds` (Creative Commons), and the objects of `tuxpaint-stamps-default` (GPL-2) that
have an alpha channel. No photograph and no object is both trained on and held out. None of it is
kept in this repository.
"""

import random
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

PACKAGES = ("lomiri-wallpapers-16.04", "mate-backgrounds", "tuxpaint-stamps-default")
PHOTOS = "usr/share/backgrounds"
STAMPS = "usr/share/tuxpaint/stamps"
CLASSES = {  # folders of stamps
    "bird": ("animals/birds",),
    "flower": ("plants/flowers",),
    "fruit": ("food/fruit", "food/vegetables"),
    "insect": ("animals/insects",),
    "mammal": ("animals/mammals", "animals/marsupials"),
    "vehicle": ("vehicles", "military/vehicles"),
}
HELD_OUT = 4  # each fourth photograph, and object of a class
SIDE = 160  # of composites, pixels
PHOTO_SIDE = 1024  # photographs are reduced to this, longer side
LEAST_SIDE = 64  # of an object as it comes
OBJECTS = (2, 4)  # of a picture with several
COUNTS = {"train": 4000, "val": 400}


@dataclass(frozen=True)
class Sources:
    """What one split's pictures are made from."""

    photos: tuple[Path, ...]
    objects: dict[str, tuple[Path, ...]]  # by class


def make(work: Path) -> None:
    """The folders `photos`, `single` (by class), `scenes` (classes) and `objects` (numbered).

    Each has `train` and `val` as `--data` expects them; what is there is kept.

    Raises CalledProcessError where Debian's client fails.
    """
    unpacked = work / "packages"
    if not unpacked.exists():
        _download(work, work / "unpacking")
        (work / "unpacking").rename(unpacked)
    for split in COUNTS:
        done = work / f"{split}.done"
        if not done.exists():
            _make_split(work, split, sources(unpacked, split))
            done.touch()


def sources(unpacked: Path, split: str) -> Sources:
    photos = [
        *(unpacked / PHOTOS).glob("*.jpg"),
        *(unpacked / PHOTOS / "mate/nature").glob("*.jpg"),
    ]
    objects = {name: _stamps(unpacked / STAMPS, folders) for name, folders in CLASSES.items()}
    return Sources(
        tuple(_of_split(sorted(photos), split)),
        {name: tuple(_of_split(paths, split)) for name, paths in objects.items()},
    )


def compose(
    rng: random.Random, photos: Sequence[Path], objects: Sequence[Path]
) -> tuple[Image.Image, NDArray[np.uint8]]:
    """A part of a photograph with all objects on it, later ones in front.

    Returns RGB of SIDE x SIDE, and (SIDE, SIDE): 0, or the number of the object seen, from 1.
    """
    picture = _part(rng, photo(rng.choice(photos)))
    numbers = np.zeros((SIDE, SIDE), np.uint8)
    for number, path in enumerate(objects, start=1):
        stamp = Image.open(path).convert("RGBA")
        stamp = stamp.crop(stamp.getchannel("A").getbbox())
        share = rng.uniform(0.35, 0.75) * SIDE / max(stamp.size)
        width, height = (max(8, round(side * share)) for side in stamp.size)
        stamp = stamp.resize((width, height), Image.Resampling.LANCZOS)
        if rng.random() < 0.5:
            stamp = stamp.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        left, top = rng.randint(0, SIDE - width), rng.randint(0, SIDE - height)
        picture.paste(stamp, (left, top), stamp)
        seen = np.asarray(stamp.getchannel("A")) > 127
        numbers[top : top + height, left : left + width][seen] = number
    return picture, numbers


@lru_cache(maxsize=64)
def photo(path: Path) -> Image.Image:
    image = Image.open(path).convert("RGB")
    image.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.LANCZOS)
    return image


def _download(work: Path, folder: Path) -> None:
    work.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", "-q", *PACKAGES], cwd=work, check=True)
    for name in PACKAGES:
        (package,) = work.glob(f"{name}_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
        package.unlink()


def _make_split(work: Path, split: str, found: Sources) -> None:
    for number, path in enumerate(found.photos):
        _save(photo(path), work / "photos" / split / f"{number:02}.png")
    rng = random.Random(f"composites/{split}")
    names = list(CLASSES)
    for number in range(COUNTS[split]):
        name = names[number % len(names)]
        picture, _ = compose(rng, found.photos, [rng.choice(found.objects[name])])
        _save(picture, work / "single" / split / name / f"{number:05}.jpg")
        chosen = rng.choices(names, k=rng.randint(*OBJECTS))
        picture, numbers = compose(
            rng, found.photos, [rng.choice(found.objects[n]) for n in chosen]
        )
        classes = np.array([0, *(1 + names.index(n) for n in chosen)], np.uint8)[numbers]
        for kind, mask in (("scenes", classes), ("objects", numbers)):
            _save(picture, work / kind / "images" / split / f"{number:05}.jpg")
            _save(Image.fromarray(mask), work / kind / "masks" / split / f"{number:05}.png")


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, quality=90)  # of JPEGs


def _part(rng: random.Random, image: Image.Image) -> Image.Image:
    side = round(rng.uniform(0.3, 1) * min(image.size))
    left, top = rng.randint(0, image.width - side), rng.randint(0, image.height - side)
    box = (left, top, left + side, top + side)
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box)


def _stamps(folder: Path, within: Sequence[str]) -> list[Path]:
    """Cut-outs large enough, without drawings and those that are another one mirrored."""
    return [path for name in within for path in sorted(_usable((folder / name).rglob("*.png")))]


def _usable(paths: Iterator[Path]) -> Iterator[Path]:
    for path in paths:
        if "cartoon" in path.parts or path.stem.endswith(("_mirror", "_flip")):
            continue
        with Image.open(path) as image:
            has_alpha = "A" in image.getbands() or "transparency" in image.info
            if has_alpha and min(image.size) >= LEAST_SIDE:
                yield path


def _of_split(paths: Sequence[Path], split: str) -> list[Path]:
    held_out = split == "val"
    return [path for i, path in enumerate(paths) if (i % HELD_OUT == 0) is held_out]
