"""Clicks and boxes on a picture of any size to masks of that size.

B prompts, N points of a prompt, M masks of a prompt, H height, W width.

Source: Kirillov et al., Segment Anything, 2023, https://arxiv.org/abs/2304.02643; the
preparation of pictures as in https://github.com/mit-han-lab/efficientvit, efficientvit_sam.
"""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from torch import Tensor

from results.errors import ImageError
from supernet.pictures import Normalisation, normalise, to_tensor
from supernet.sam.model import BACKGROUND, FOREGROUND, FRAME, Sam
from supernet.weights.preprocessing import SAM_MEAN, SAM_STD, Preprocessing

SAM = Normalisation(SAM_MEAN, SAM_STD)
LOW_RESOLUTION = 256  # side of the decoder's masks, of the whole padded frame


@dataclass(frozen=True)
class Prediction:
    """Masks of one prompt; with several boxes every array has their number in front."""

    masks: NDArray[np.bool_] | NDArray[np.float32]  # (M, H, W); logits only if asked for
    scores: NDArray[np.float32]  # (M,), the IoU each is predicted to have
    low_res_logits: NDArray[np.float32]  # (M, 256, 256), each a `mask` for the next `predict`

    @property
    def best(self) -> int | NDArray[np.intp]:
        """Return the index of the best mask; with several boxes, that of each, (K,)."""
        best = self.scores.argmax(-1)
        return int(best) if self.scores.ndim == 1 else best


@dataclass(frozen=True)
class _Picture:
    embedding: Tensor  # (1, 256, 64, 64)
    size: tuple[int, int]  # H, W in pixels
    size_in_frame: tuple[int, int]  # the same, resized to a long side of FRAME


class PromptablePredictor:
    """Segments what prompts point at: one `set_image`, then any number of `predict`s.

    Coordinates are x and y in pixels of the picture, (0, 0) the top left one.
    """

    def __init__(self, model: Sam) -> None:
        """Put `model` into evaluation mode."""
        self.model = model.eval()
        self._picture: _Picture | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Return (H, W) of the picture that is set. Raises ImageError if none is."""
        return self._current.size

    def set_image(self, image: NDArray[np.uint8]) -> None:
        """Embed a picture, RGB, (H, W, 3), uint8, of any size.

        Raises ImageError for another shape or dtype; then no picture is set.
        """
        self._picture = None
        check_image(image)
        parameter = next(self.model.parameters())
        height, width = image.shape[:2]
        with torch.inference_mode():
            pixels = prepare_image(image, self.model.arch.resolution[0], self._normalisation)
            embedding = self.model.image_encoder(pixels[None].to(parameter))
        self._picture = _Picture(embedding, (height, width), resized(height, width, FRAME))

    def predict(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask: ArrayLike | None = None,
        *,
        multimask: bool = True,
        return_logits: bool = False,
    ) -> Prediction:
        """Return masks of what points, box and mask together point at, or of each of several boxes.

        Args:
            points: (N, 2), x and y.
            labels: (N,), 1 for what belongs to the object, 0 for what does not.
            box: (4,), x and y of the top left and the bottom right corner; or (K, 4), K
                objects, then without points and mask.
            mask: (256, 256), logits of an earlier prediction to refine; or (1, 256, 256).
            multimask: three masks (whole, part, part of a part) instead of one. One suits
                prompts that leave no doubt: a box, or several points.
            return_logits: instead of boolean masks; a mask is where they exceed 0.

        Returns:
            M masks, M being 3 or 1; K times M for boxes of shape (K, 4).

        Raises:
            ImageError: no picture is set; there is no prompt; points and labels do not match;
                a shape, label, coordinate or box is impossible.
        """
        if points is None and labels is None and box is None and mask is None:
            raise ImageError("no prompt: give points with labels, a box or a mask")
        coords, kinds = _check_points(points, labels)
        boxes = None if box is None else _check_boxes(box)
        self._check_inside(coords, boxes)
        several = boxes is not None and boxes.ndim == 2
        if several and not (points is None and mask is None):
            raise ImageError("points or a mask go with one box of shape (4,), not with (K, 4)")
        low_res, scores = self.predict_batch(
            points=None if coords is None else torch.from_numpy(coords)[None],
            labels=None if kinds is None else torch.from_numpy(kinds)[None],
            boxes=None if boxes is None else torch.from_numpy(boxes.reshape(-1, 4)),
            masks=None if mask is None else torch.from_numpy(_check_mask(mask))[None],
            multimask=multimask,
        )
        # prompt by prompt: as logits, all masks of a large picture may not fit into memory
        masks = [
            (logits if return_logits else logits > 0).cpu().numpy()
            for logits in map(self.upscale, low_res)
        ]
        if several:
            return Prediction(np.stack(masks), scores.cpu().numpy(), low_res.cpu().numpy())
        return Prediction(masks[0], scores[0].cpu().numpy(), low_res[0].cpu().numpy())

    @torch.inference_mode()
    def predict_batch(
        self,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        boxes: Tensor | None = None,
        masks: Tensor | None = None,
        *,
        multimask: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Return masks of B prompts at once, on the model's device; `upscale` enlarges them.

        Args:
            points: (B, N, 2), x and y in pixels of the picture.
            labels: (B, N), 1 foreground, 0 background, -1 no point at all: prompts of fewer
                points are filled up with those.
            boxes: (B, 4), x and y of two corners in pixels of the picture.
            masks: (B, 1, 256, 256), logits.
            multimask: three masks a prompt instead of one.

        Returns:
            logits (B, M, 256, 256) of the padded frame and predicted IoUs (B, M), float32.

        Raises:
            ImageError: no picture is set.
        """
        picture = self._current
        device = picture.embedding.device
        logits, scores = self.model.decode(
            picture.embedding,
            None if points is None else self._to_frame(points).to(device),
            None if labels is None else labels.to(device),
            None if boxes is None else self._to_frame(boxes.reshape(-1, 2, 2)).to(device),
            None if masks is None else masks.to(device),
            multimask=multimask,
        )
        return logits.float(), scores.float()

    @torch.inference_mode()
    def upscale(self, low_res: Tensor) -> Tensor:
        """Enlarge logits to the picture's size, (..., 256, 256) -> (..., H, W).

        Raises ImageError if no picture is set.
        """
        picture = self._current
        flat = low_res.reshape(1, -1, *low_res.shape[-2:])
        flat = F.interpolate(flat, (FRAME, FRAME), mode="bilinear", align_corners=False)
        height, width = picture.size_in_frame
        flat = flat[..., :height, :width]
        flat = F.interpolate(flat, picture.size, mode="bilinear", align_corners=False)
        return flat.reshape(*low_res.shape[:-2], *picture.size)

    def _check_inside(
        self, points: NDArray[np.float64] | None, boxes: NDArray[np.float64] | None
    ) -> None:
        """Raise ImageError for points and boxes outside of the picture.

        Boxes may reach over the edge, as detectors' do, but not lie beyond it.
        """
        height, width = self._current.size
        where = f"the picture is {height} pixels high and {width} wide"
        if points is not None:
            outside = ((points < 0) | (points > (width, height))).any(axis=1)
            if outside.any():
                x, y = points[outside][0]
                raise ImageError(f"no point at x {x:g}, y {y:g}: {where}")
        if boxes is not None:
            ends = boxes.reshape(-1, 4)
            beyond = (ends[:, 2:] < 0) | (ends[:, :2] > (width, height))
            if beyond.any():
                raise ImageError(f"box {ends[beyond.any(axis=1)][0].tolist()} is outside: {where}")

    @property
    def _normalisation(self) -> Normalisation:
        """Return that of the image encoder's weights, where they tell it, else SAM's."""
        told = getattr(self.model.image_encoder, "preprocessing", None)
        return Normalisation(told.mean, told.std) if isinstance(told, Preprocessing) else SAM

    @property
    def _current(self) -> _Picture:
        if self._picture is None:
            raise ImageError("no picture is set; call set_image first")
        return self._picture

    def _to_frame(self, coords: Tensor) -> Tensor:
        """Scale (..., 2), x and y in pixels of the picture, to pixels of the frame, float32."""
        (height, width), (tall, wide) = self._current.size, self._current.size_in_frame
        ratio = torch.tensor([wide / width, tall / height], dtype=torch.float64)
        return (coords.cpu().double() * ratio).float()


def resized(height: int, width: int, side: int) -> tuple[int, int]:
    """Return (height, width) scaled to a long side of `side` pixels, halves up, 1 at least."""
    scale = side / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def prepare_image(
    image: NDArray[np.uint8], side: int, normalisation: Normalisation = SAM
) -> Tensor:
    """Return what the image encoder reads, (3, side, side), float32.

    The picture, (H, W, 3), is resized to a long side of `side` (bilinear, antialiased),
    normalised, and padded with zeros below or on the right.
    """
    height, width = resized(image.shape[0], image.shape[1], side)
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    x = normalise(to_tensor(picture), *normalisation)
    return F.pad(x, (0, side - width, 0, side - height))


def check_image(image: NDArray[np.uint8]) -> None:
    """Raise ImageError unless `image` is a picture, RGB, (H, W, 3), uint8."""
    if not isinstance(image, np.ndarray):
        raise ImageError(f"a picture must be a NumPy array, got {type(image).__name__}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ImageError(
            "a picture must be uint8 of shape (height, width, 3), "
            f"got {image.dtype} of {image.shape}"
        )


def _numbers(name: str, values: ArrayLike) -> NDArray[np.float64]:
    try:
        numbers = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise ImageError(f"{name} must be numbers, got {str(values)[:80]}") from None
    if not np.isfinite(numbers).all():
        raise ImageError(f"{name} must be finite")
    return numbers


def _check_points(
    points: ArrayLike | None, labels: ArrayLike | None
) -> tuple[NDArray[np.float64] | None, NDArray[np.int64] | None]:
    if points is None and labels is None:
        return None, None
    if points is None or labels is None:
        missing = "labels" if labels is None else "points"
        raise ImageError(f"{missing} are missing: every point needs a label, 1 or 0")
    coords, kinds = _numbers("points", points), _numbers("labels", labels)
    if coords.ndim != 2 or coords.shape[1] != 2 or not len(coords):
        raise ImageError(f"points must have shape (N, 2), x and y, got {coords.shape}")
    if kinds.shape != coords.shape[:1]:
        raise ImageError(
            f"{len(coords)} points need labels of shape ({len(coords)},), got {kinds.shape}"
        )
    wrong = kinds[(kinds != FOREGROUND) & (kinds != BACKGROUND)]
    if wrong.size:
        raise ImageError(f"no label {wrong[0]:g}; 1 is foreground, 0 background")
    return coords, kinds.astype(np.int64)


def _check_boxes(box: ArrayLike) -> NDArray[np.float64]:
    boxes = _numbers("a box", box)
    if boxes.ndim not in (1, 2) or boxes.shape[-1] != 4 or not boxes.size:
        raise ImageError(f"a box must have shape (4,), several boxes (K, 4), got {boxes.shape}")
    reverse = (boxes[..., :2] > boxes[..., 2:]).any(axis=-1)
    if reverse.any():
        x0, y0, x1, y1 = boxes[reverse][0] if boxes.ndim == 2 else boxes
        raise ImageError(
            f"a box is x0, y0, x1, y1 of two corners; {x0:g}, {y0:g}, {x1:g}, {y1:g} is none"
        )
    return boxes


def _check_mask(mask: ArrayLike) -> NDArray[np.float32]:
    logits = _numbers("a mask", mask)
    logits = logits[None] if logits.ndim == 2 else logits
    expected = (1, LOW_RESOLUTION, LOW_RESOLUTION)
    if logits.shape != expected:
        raise ImageError(f"a mask prompt must be logits of shape {expected}, got {logits.shape}")
    return logits.astype(np.float32)
