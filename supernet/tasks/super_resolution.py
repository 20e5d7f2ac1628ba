"""Super-resolution: large pictures or embedded dead leaves, and how near the enlarged ones come.

Small pictures are made from large ones.

B batch, H height, W width of the large picture, s the scale.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import Dataset

from results.errors import DataError
from supernet.arch import Arch, SuperResolutionHead
from supernet.pictures import Normalisation, hw, normalise, read_rgb, to_tensor
from supernet.tasks.draw import Augment, Draw
from supernet.tasks.embedded_leaves import draw_leaves
from supernet.tasks.folders import Unread, check_folder, contents, list_pictures, unread_notes
from supernet.tasks.losses import like
from supernet.tasks.options import TaskOptions
from supernet.tasks.sources import Embedded, Folder
from supernet.tasks.split_folders import beside, splits_in
from supernet.tasks.splits import separate
from supernet.tasks.task import Task

DIV2K = {"val": "DIV2K_valid_HR", "train": "DIV2K_train_HR"}
WINDOW, SIGMA = 11, 1.5  # of SSIM, pixels
MAX_DB = 100.0  # of pictures that are equal; JSON has no infinity
SHARE = 0.6  # share of the embedded pictures' own difficulty, as noise cannot be enlarged
AS_SHARES = Normalisation((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))  # 0 to 1
Pixels = NDArray[np.uint8]  # (H, W, 3)


class LargePictures(Dataset[tuple[Tensor, Tensor]]):
    """Pictures and their reduction by `scale`: Pillow's bicubic, antialiased, to 8 bits.

    The split's own folder is read, where there is one, else all that is in and below `folder`.
    `notes` says which was taken, where its name is unusual.
    """

    def __init__(
        self,
        folder: Path,
        scale: int,
        *,
        normalisation: Normalisation = AS_SHARES,
        split: str = "val",
    ) -> None:
        """`normalisation` is of what the network sees.

        Raises DataError where the folder is missing or has no pictures.
        """
        check_folder(folder)
        self.scale, self.normalisation = scale, normalisation
        self.samples, self.notes = _pictures_of(folder, split)
        if not self.samples:
            raise DataError(
                f"{folder} holds no pictures; expected large pictures, as in "
                f"DIR/DIV2K_valid_HR/*.png or DIR/*.png, {contents(folder)}"
            )

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return (3, H/s, W/s), normalised, and (3, H, W), uint8; H and W are multiples of s.

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
        return normalise(to_tensor(small), *self.normalisation), to_tensor(large)


def _pictures_of(folder: Path, split: str) -> tuple[list[Path], tuple[str, ...]]:
    """Return the pictures of a split, and a line where that is not what its name says."""
    official, unread = folder / DIV2K.get(split, split), Unread()
    if official.is_dir():
        return list_pictures(official, unread=unread), unread_notes(unread, official)
    splits = splits_in(folder)
    own = splits.of(split)
    pictures = list_pictures(own or folder, unread=unread)
    notes = unread_notes(unread, own or folder)
    if own is not None:
        return pictures, splits.notes(split, ("train", "val", "valid")) + notes
    pictures, about_split = beside(splits, pictures, split)
    return pictures, about_split + notes


class SuperResolutionTask(Task):
    """Pictures enlarged by `scale`; `Draw.size` is that of the small picture.

    A target is the large picture, (3, s H, s W), float32, 0..1.
    """

    name, primary = "super_resolution", "psnr_db"
    source: "_Leaves | _LargeFiles"

    def __init__(self, options: TaskOptions) -> None:
        """Raises DataError where pictures are missing."""
        self.scale, self.normalisation = options.scale, options.normalisation or AS_SHARES
        source = _Leaves(options) if options.data is None else _LargeFiles(options.data, options)
        super().__init__(source, options.variations)

    def sample(self, draw: Draw, augment: Augment) -> tuple[Tensor, Tensor]:
        """Return a part of a picture, (3, H, W), normalised, and the same part large, in 0..1."""
        rng, size = draw.rng(), (draw.size[0] * self.scale, draw.size[1] * self.scale)
        large = random_part(self.source.read(draw.index, size), size, rng)
        if augment.flip:
            large = large[:: 1 - 2 * int(rng.integers(2)), :: 1 - 2 * int(rng.integers(2))]
            if size[0] == size[1] and rng.random() < 0.5:
                large = large.swapaxes(0, 1)
        small_x, large_x = pair(np.ascontiguousarray(large), self.scale)
        return normalise(small_x, *self.normalisation), as_shares(large_x)

    def loss(self, output: Tensor, target: Tensor, decoder: nn.Module | None) -> Tensor:
        """Return the mean absolute difference of pixels."""
        return (output.float() - target).abs().mean()

    def distill(self, output: Tensor, teacher: Tensor, alpha: float | None) -> Tensor:
        """Return the mean absolute difference of pixels from the teacher's."""
        return (output.float() - like(teacher.detach().float(), output)).abs().mean()

    def held_out(self, arch: Arch) -> tuple[Dataset[Any], "Likeness"]:
        """Return small pictures with large ones, and PSNR and SSIM of these.

        Raises DataError for a network of another scale.
        """
        if not isinstance(arch.head, SuperResolutionHead) or arch.head.scale != self.scale:
            raise DataError(f"the data is for scale {self.scale}, the network for another")
        return self.source.held_out(arch), Likeness(self.scale)


class _Leaves(Embedded[Pixels]):
    def __init__(self, options: TaskOptions) -> None:
        super().__init__(options, ("leaves",))
        self.scale, self.normalisation = options.scale, options.normalisation or AS_SHARES

    def draw(self, index: int, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
        return draw_leaves(size, rng, SHARE * self.difficulty)[0]

    def held_out(self, arch: Arch) -> Dataset[Any]:
        return self.remember(arch.resolution, self._pair, self.normalisation)

    def _pair(self, index: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        large = (size[0] * self.scale, size[1] * self.scale)
        return pair(self.read_held_out(index, large), self.scale)


class _LargeFiles(Folder[Path, Pixels]):
    """Large pictures; each tenth is held out where there are no splits."""

    def __init__(self, folder: Path, options: TaskOptions) -> None:
        seen = options.normalisation or AS_SHARES
        train, self._held_out = (
            LargePictures(folder, options.scale, normalisation=seen, split=split)
            for split in ("train", "val")
        )
        files, held_out = separate(train.samples, self._held_out.samples, key=lambda path: path)
        super().__init__(folder, files, held_out, options.num_train)
        self._held_out.samples = held_out
        self.notes = tuple(dict.fromkeys(train.notes + self._held_out.notes))

    def load(self, file: Path) -> Pixels:
        return np.asarray(read_rgb(file))

    def held_out(self, arch: Arch) -> Dataset[Any]:
        return self._held_out


class Likeness:
    """PSNR and SSIM as the field reports them, means over pictures with standard errors.

    On luma (BT.601, 16 to 235) of 8-bit pictures, without a border of `scale` pixels.
    """

    def __init__(self, scale: int) -> None:
        self.scale = scale
        self.psnr_db: list[float] = []
        self.ssim: list[float] = []

    def update(self, pictures: Tensor, large: Tensor) -> None:
        """Count a batch: (B, 3, H, W) in 0..1, any floating dtype, and (B, 3, H, W), uint8."""
        if pictures.shape != large.shape:
            raise ValueError(f"{tuple(pictures.shape)} is compared with {tuple(large.shape)}")
        pixels = (pictures.double().clamp(0, 1) * 255).round()
        border = slice(self.scale, -self.scale)
        a, b = (luma(x)[:, border, border] for x in (pixels, large.to(pixels.device)))
        self.psnr_db += psnr(a, b).tolist()
        self.ssim += ssim(a, b).tolist()

    def compute(self) -> dict[str, float]:
        """Return psnr_db and ssim, each with `_stderr` if there are two pictures or more."""
        figures = {}
        for name, values in (("psnr_db", self.psnr_db), ("ssim", self.ssim)):
            x = torch.tensor(values, dtype=torch.float64)
            figures[name] = float(x.mean())
            if len(x) > 1:
                figures[f"{name}_stderr"] = float(x.std()) / math.sqrt(len(x))
        return figures


def random_part(pixels: Pixels, size: tuple[int, int], rng: np.random.Generator) -> Pixels:
    """Return a part of `size` (H, W) at a random place; a smaller picture is mirrored at its edges.

    Of a picture of `size` it is all, and nothing is drawn from `rng`.
    """
    if pixels.shape[:2] == size:
        return pixels
    lacking = [max(0, a - b) for a, b in zip(size, pixels.shape[:2], strict=True)]
    if any(lacking):
        pixels = np.pad(pixels, [(0, lacking[0]), (0, lacking[1]), (0, 0)], "symmetric")
    top, left = (
        int(rng.integers(there - wanted + 1))
        for there, wanted in zip(pixels.shape[:2], size, strict=True)
    )
    return pixels[top : top + size[0], left : left + size[1]]


def as_shares(pixels: Tensor) -> Tensor:
    """Return 8-bit pixels in 0..1, float32."""
    return pixels.float() / 255


def pair(large: Pixels, scale: int) -> tuple[Tensor, Tensor]:
    """Return a picture, (s H, s W, 3), reduced, (3, H, W), and itself, (3, s H, s W), uint8."""
    small = to_tensor(reduce(Image.fromarray(large), scale))
    return small, torch.from_numpy(large).permute(2, 0, 1).contiguous()


def crop_to_multiple(picture: Image.Image, scale: int) -> Image.Image:
    """Return the top left part, with sides that `scale` divides."""
    height, width = hw(picture)
    return picture.crop((0, 0, width - width % scale, height - height % scale))


def reduce(large: Image.Image, scale: int) -> Image.Image:
    """Return a picture with its sides divided by `scale`, bicubic and antialiased."""
    size = (large.width // scale, large.height // scale)
    return large.resize(size, Image.Resampling.BICUBIC)


def luma(pixels: Tensor) -> Tensor:
    """Turn RGB, (..., 3, H, W) in 0..255, into luma, (..., H, W) in 16..235, not rounded.

    Source: ITU-R BT.601; the same as MATLAB's rgb2ycbcr before it rounds.
    """
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64, device=pixels.device)
    return 16 + (pixels.double() * weights.view(3, 1, 1)).sum(-3) / 255


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Compare (B, H, W) in 0..255; return (B,), in dB, no more than 100."""
    error = (a - b).square().mean((-2, -1))
    decibels: Tensor = 10 * torch.log10(255**2 / error)
    return decibels.clamp(max=MAX_DB)


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Compare (B, H, W) in 0..255, float64; return (B,), means over all whole windows.

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
    """Return Gaussian means over all whole windows of (B, H, W): (B, H - 10, W - 10)."""
    offset = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    weights = torch.exp(-0.5 * (offset / SIGMA) ** 2)
    weights = weights / weights.sum()
    x = F.conv2d(x[:, None], weights.view(1, 1, WINDOW, 1))
    return F.conv2d(x, weights.view(1, 1, 1, WINDOW))[:, 0]
