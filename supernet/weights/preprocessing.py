"""How pictures are prepared for a network: the official conventions, and what a file tells.

Loaded wherever modules are built, on targets too: no package is imported here.
"""

from dataclasses import dataclass, replace
from typing import Literal

from supernet.arch import Arch, PromptableHead, SegmentationHead, SuperResolutionHead
from supernet.official import BACKBONES

Triple = tuple[float, float, float]
Resize = Literal["crop", "fit", "pad", "none"]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SAM_MEAN = (123.675 / 255, 116.28 / 255, 103.53 / 255)
SAM_STD = (58.395 / 255, 57.12 / 255, 57.375 / 255)


@dataclass(frozen=True)
class Preprocessing:
    """What is done to a picture before a network sees it.

    `resize` is how it comes to the network's resolution. `crop`: the centre, `crop_pct` of the
    shorter side. `fit`: the whole picture, its shorter side to that of a square resolution, else
    to just that size. `pad`: its longer side to that, padded to a square. `none`: as it is.
    """

    mean: Triple  # of RGB in 0..1
    std: Triple
    interpolation: str  # bicubic or bilinear
    crop_pct: float  # share of the shorter side that is seen
    resize: Resize


def preprocessing_of(arch: Arch) -> Preprocessing:
    """Return the preparation that official networks, and trainings here, use for `arch`."""
    if isinstance(arch.head, PromptableHead):
        return Preprocessing(SAM_MEAN, SAM_STD, "bilinear", 1.0, "pad")
    if isinstance(arch.head, SuperResolutionHead):
        return Preprocessing((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "bicubic", 1.0, "none")
    if isinstance(arch.head, SegmentationHead):
        return Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bicubic", 1.0, "fit")
    backbone = replace(arch, head=None, resolution=BACKBONES["b0"].resolution)
    small = backbone in (BACKBONES["b0"], BACKBONES["b1"])
    # the official evaluation's, https://github.com/mit-han-lab/efficientvit
    crop_pct = 0.95 if small and arch.task == "classification" else 1.0
    return Preprocessing(IMAGENET_MEAN, IMAGENET_STD, "bicubic", crop_pct, "crop")
