"""Readers of weights, pictures, masks and annotations."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from supernet.arch import Arch
from supernet.model import build_task_model
from supernet.pictures import Normalisation, read_indices
from supernet.rle import area, decode, encode
from supernet.sharing.checkpoint import open_supernet, save_checkpoint
from supernet.sharing.extremes import smallest_of
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from supernet.tasks.annotated_pictures import AnnotatedPictures
from supernet.tasks.classification import ClassFolders, Preparation
from supernet.tasks.labelled_pictures import LabelledPictures
from supernet.weights.files import (
    load_weights,
    official_state_dict,
    read_weights,
    save_weights,
)
from supernet.weights.header import read_header
from tests.blobs import FROZEN
from tests.fuzzing import mutate
from tests.fuzzing.check import Reader

NORMALISATION = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SPACE = get_space("tiny", freeze=FROZEN, num_classes=3)


@cache
def small_arch() -> Arch:
    return replace(next(iter(smallest_of(SPACE))), resolution=(32, 32))


def _network() -> nn.Module:
    torch.manual_seed(0)
    return build_task_model(small_arch()).eval()


# --- Weights ---------------------------------------------------------------------------------


def make_weights(folder: Path) -> list[Path]:
    path = folder / "model.safetensors"
    save_weights(_network(), path, steps=3, seed=0, resolutions="32")
    return [path]


def use_weights(path: Path) -> Any:
    """As supernet.evaluate: built as the file says, filled, and run on a picture."""
    arch = read_header(path).arch
    if arch is None:
        arch = small_arch()
    model = build_task_model(arch)
    load_weights(model, path)
    with torch.no_grad():
        return tuple(model.eval()(torch.zeros(1, 3, 32, 32)).shape)


def make_supernet(folder: Path) -> list[Path]:
    torch.manual_seed(0)
    path = folder / "supernet.safetensors"
    save_checkpoint(path, Supernet(SPACE), metadata={"seed": "5", "resolutions": "32,64"})
    return [path]


def use_supernet(path: Path) -> Any:
    supernet = open_supernet(path)
    arch = next(iter(supernet.largest))
    with torch.no_grad():
        return tuple(supernet.extract(arch).eval()(torch.zeros(1, 3, 32, 32)).shape)


def make_pt(folder: Path) -> list[Path]:
    state = official_state_dict(_network())
    files = [folder / name for name in ("state.pt", "wrapped.pt", "module.pt")]
    torch.save(state, files[0])
    torch.save({"state_dict": state, "epoch": 3}, files[1])
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, files[2])
    return files


def use_pt(path: Path) -> Any:
    read_weights(path)
    model = _network()
    load_weights(model, path, partial=True)
    with torch.no_grad():
        return tuple(model(torch.zeros(1, 3, 32, 32)).shape)


# --- Pictures --------------------------------------------------------------------------------


def _picture(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def make_pictures(folder: Path) -> list[Path]:
    exif = Image.Exif()
    exif[0x0112] = 6
    files = [folder / "val" / "a" / name for name in ("x.jpg", "turned.jpg")]
    files[0].parent.mkdir(parents=True)
    _picture(40, 60).save(files[0], quality=90)
    _picture(40, 60).save(files[1], quality=90, exif=exif)
    (folder / "val" / "b").mkdir()
    _picture(40, 60, 1).save(folder / "val" / "b" / "y.png")
    return files


def make_png(folder: Path) -> list[Path]:
    """Of every kind of pixel."""
    place = folder / "val" / "a"
    place.mkdir(parents=True)
    (folder / "val" / "b").mkdir()
    _picture(40, 60, 1).save(folder / "val" / "b" / "y.png")
    picture = _picture(40, 60)
    files = []
    for mode in ("RGB", "RGBA", "P", "L", "I;16", "1"):
        files.append(place / f"{mode.replace(';', '')}.png")
        if mode == "I;16":
            grey = np.asarray(picture.convert("L")).astype(np.uint16) * 257
            Image.fromarray(grey).save(files[-1])
        else:
            picture.convert(mode).save(files[-1])
    return files


def use_pictures(path: Path) -> Any:
    data = ClassFolders(path.parents[2], Preparation((32, 32), 0.95, NORMALISATION))
    return [tuple(data[index][0].shape) for index in range(len(data))]


def make_masks(folder: Path) -> list[Path]:
    for name in ("images", "masks"):
        (folder / name).mkdir()
    files = []
    for number in range(2):
        _picture(40, 60, number).save(folder / "images" / f"{number}.jpg")
        files.append(folder / "masks" / f"{number}.png")
        mask = np.zeros((40, 60), np.uint8)
        mask[10:30, 10:30], mask[30:, 40:], mask[0] = 1, 2, 255
        image = Image.fromarray(mask)
        if number:
            image.putpalette(bytes(range(256)) * 3)
        image.save(files[-1])
    return files


def use_masks(path: Path) -> Any:
    """As labels of three classes, and as numbers of objects."""
    read_indices(path)
    data = LabelledPictures(path.parents[1], (32, 32), 3, NORMALISATION)
    found = [tuple(data[index][1].shape) for index in range(len(data))]
    for picture in AnnotatedPictures(path.parents[1]):  # type: ignore[attr-defined]
        assert all(instance.decode().any() for instance in picture.instances)
    return found


# --- Annotations -----------------------------------------------------------------------------


def _annotations(first: int = 1) -> list[dict[str, Any]]:
    mask = np.zeros((40, 60), np.bool_)
    mask[5:20, 10:30] = True
    own = {"bbox": [10, 5, 20, 15], "area": 300}
    return [
        {"id": first, "segmentation": dict(encode(mask)), **own},
        {"id": first + 1, "segmentation": dict(encode(mask, compressed=False)), **own},
        {"id": first + 2, "segmentation": [[10, 5, 30, 5, 30, 20, 10, 20]], **own},
        {"id": first + 3, "segmentation": [[1, 1, 9, 1, 9, 9]], "area": 32.0},
    ]


def make_coco(folder: Path) -> list[Path]:
    (folder / "annotations").mkdir()
    (folder / "val2017").mkdir()
    images, annotations = [], []
    for number in (1, 2):
        name = f"{number:012d}.jpg"
        _picture(40, 60, number).save(folder / "val2017" / name)
        images.append({"id": number, "file_name": name, "height": 40, "width": 60})
        for one in _annotations(10 * number):
            annotations.append(one | {"image_id": number, "category_id": 1, "iscrowd": 0})
    path = folder / "annotations" / "instances_val2017.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": []}))
    return [path]


def make_sa1b(folder: Path) -> list[Path]:
    _picture(40, 60).save(folder / "sa_1.jpg")
    image = {"image_id": 1, "file_name": "sa_1.jpg", "height": 40, "width": 60}
    path = folder / "sa_1.json"
    path.write_text(json.dumps({"image": image, "annotations": _annotations()}))
    return [path]


def use_annotations(path: Path) -> Any:
    root = path.parents[1] if path.parent.name == "annotations" else path.parent
    data = AnnotatedPictures(root)
    found: list[Any] = []
    for index in range(len(data)):
        for one in data[index].instances:
            found.append((one.area, *one.box, int(one.decode().sum())))
    return found


def make_rle(folder: Path) -> list[Path]:
    mask = np.zeros((40, 60), np.bool_)
    mask[5:20, 10:30] = True
    files = [folder / "text.json", folder / "list.json"]
    files[0].write_text(json.dumps(encode(mask)))
    files[1].write_text(json.dumps(encode(mask, compressed=False)))
    return files


def use_rle(path: Path) -> Any:
    """What is no JSON is another reader's matter."""
    from results.errors import DataError

    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise DataError("not JSON") from None
    if not isinstance(found, dict):
        raise DataError("no object")
    return area(found), int(decode(found).sum())


READERS = (
    Reader("weights, one network", make_weights, mutate.safetensors, use_weights),
    Reader("weights, a supernet", make_supernet, mutate.safetensors, use_supernet),
    Reader("weights of others (.pt)", make_pt, mutate.pt_file, use_pt),
    Reader("pictures (JPEG)", make_pictures, mutate.jpeg, use_pictures),
    Reader("pictures (PNG)", make_png, mutate.png, use_pictures),
    Reader("masks (PNG)", make_masks, mutate.png, use_masks),
    Reader("COCO JSON", make_coco, mutate.json_file, use_annotations),
    Reader("SA-1B JSON", make_sa1b, mutate.json_file, use_annotations),
    Reader("run lengths", make_rle, mutate.json_file, use_rle, is_file=False),
)
