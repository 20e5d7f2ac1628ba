"""Super-resolution: small pictures made from large ones, and how near the enlarged ones come.

B batch, H height, W width of the large picture, s the scale.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from results.errors import DataError
from supernet.pictures import hw, normalise, read_rgb, to_tensor
from supernet.tasks.folders import check_folder, contents, list_pictures

FOLDERS = {"val": ("DIV2K_valid_HR", "val", "valid"), "train": ("DIV2K_train_HR", "train")}
WINDOW, SIGMA = 11, 1.5  # of SSIM, pixels
MAX_DB = 100.0  # of pictures that are equal; JSON has no infinity


class LargePictures(Dataset[tuple[Tensor, Tensor]]):
    """Pictures and their reduction by `scale`: Pillow's bicubic, antialiased, to 8 bits.

    Of DIV2K the split's own folder is read, of other folders all that is in and below.
    """

    def __init__(
        self,
        folder: Path,
        scale: int,
        *,
        mean: Sequence[float] = (0.0, 0.0, 0.0),
        std: Sequence[float] = (1.0, 1.0, 1.0),
        split: str = "val",
    ) -> None:
        """
        Args:
            mean, std: of RGB in 0..1, of what the network sees.

        Raises:
            DataError: the folder is missing or has no pictures.
        """
        check_folder(folder)
        self.scale, self.mean, self.std = scale, mean, std
        inside = [folder / name for name in FOLDERS.get(split, ()) if (folder / name).is_dir()]
        self.samples = list_pictures(inside[0] if inside else folder)
        if not self.samples:
            raise DataError(
                f"{folder} holds no pictures; expected large pictures, as in "
                f"DIR/DIV2K_valid_HR/*.png or DIR/*.png, {contents(folder)}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """(3, H/s, W/s) normalised, and (3, H, W), uint8; H and W are multiples of s.

        Raises DataError for what cannot be read or is too small to be compared.
        """
        path = self.samples[index]
        large = crop_to_multiple(read_rgb(path), self.scale)
        least = WINDOW + 2 * self.scale
        if min(large.size) < least:
            raise DataError(
                f"{path} is too small: {large.height}x{large.width}, and {least} pixels a side "
                f"are needed at scale {self.scale}"
            )
        small = reduce(large, self.scale)
        return normalise(to_tensor(small), self.mean, self.std), to_tensor(large)


class Likeness:
    """PSNR and SSIM as the field reports them, means over pictures with standard errors.

    On luma (BT.601, 16 to 235) of 8-bit pictures, without a border of `scale` pixels.
    """

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self.psnr_db: list[float] = []
        self.ssim: list[float] = []

    def update(self, pictures: Tensor, large: Tensor) -> None:
        """(B, 3, H, W) in 0..1, any floating dtype, and (B, 3, H, W), uint8."""
        if pictures.shape != large.shape:
            raise ValueError(f"{tuple(pictures.shape)} is compared with {tuple(large.shape)}")
        said = (pictures.double().clamp(0, 1) * 255).round()
        border = slice(self.scale, -self.scale)
        a, b = (luma(x)[:, border, border] for x in (said, large.to(said.device)))
        self.psnr_db += psnr(a, b).tolist()
        self.ssim += ssim(a, b).tolist()

    def compute(self) -> dict[str, float]:
        """psnr_db and ssim, each with `_stderr` if there are two pictures or more."""
        found = {}
        for name, values in (("psnr_db", self.psnr_db), ("ssim", self.ssim)):
            x = torch.tensor(values, dtype=torch.float64)
            found[name] = float(x.mean())
            if len(x) > 1:
                found[f"{name}_stderr"] = float(x.std()) / math.sqrt(len(x))
        return found


def crop_to_multiple(picture: Image.Image, scale: int) -> Image.Image:
    """The top left, with sides that `scale` divides."""
    height, width = hw(picture)
    return picture.crop((0, 0, width - width % scale, height - height % scale))


def reduce(large: Image.Image, scale: int) -> Image.Image:
    size = (large.width // scale, large.height // scale)
    return large.resize(size, Image.Resampling.BICUBIC)


def luma(pixels: Tensor) -> Tensor:
    """(..., 3, H, W) RGB in 0..255 -> (..., H, W) in 16..235, float64, not rounded.

    Source: ITU-R BT.601; the same as MATLAB's rgb2ycbcr before it rounds.
    """
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=pixels.device)
    return 16 + (pixels.double() * weights.view(3, 1, 1)).sum(-3) / 255


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """(B, H, W) in 0..255 -> (B,), dB, no more than 100."""
    error = (a - b).square().mean((-2, -1))
    decibels: Tensor = 10 * torch.log10(255**2 / error)
    return decibels.clamp(max=MAX_DB)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """(B, H, W) in 0..255, float64 -> (B,): the mean over all whole windows.

    Windows of 11 x 11 pixels, Gaussian with sigma 1.5.

    Source: Wang et al., Image quality assessment, 2004, https://doi.org/10.1109/TIP.2003.819861
    """
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    mean_a, mean_b = _blur(a), _blur(b)
    var_a = _blur(a * a) - mean_a**2
    var_b = _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    same_mean = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    same_form = (2 * covariance + c2) / (var_a + var_b + c2)
    return (same_mean * same_form).mean((-2, -1))


def _blur(x: Tensor) -> Tensor:
    """(B, H, W) -> (B, H - 10, W - 10)."""
    offset = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-0.5 * (offset / SIGMA) ** 2)
    weights = weights / weights.sum()
    x = F.conv2d(x[:, None], weights.view(1, 1, WINDOW, 1))
    return F.conv2d(x, weights.view(1, 1, 1, WINDOW))[:, 0]
