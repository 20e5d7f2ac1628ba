"""How one training sample is drawn: which picture, and how it may vary."""

from dataclasses import dataclass, replace

import numpy as np

from results.errors import UserError


@dataclass(frozen=True, slots=True)
class Draw:
    """One variation of one picture: what a batch sampler hands to a data set.

    A sample is a function of its `Draw` alone, so that any number of processes reads the same
    pictures, and a run goes on from the exact step.
    """

    index: int  # of the picture, 0 to num_train - 1
    epoch: int
    size: tuple[int, int]  # (height, width) that the network sees
    seed: int

    def rng(self) -> np.random.Generator:
        """Return the source of all randomness of this variation, the same at every size."""
        return np.random.default_rng((self.seed, self.epoch, self.index))


@dataclass(frozen=True)
class Augment:
    """How training pictures vary. A share or strength of 0 turns a part off.

    The defaults are the official recipe of family b; that of l erases 0.2 of the pictures.

    Classification reads all fields, dense tasks those that move labels along: `crop_scale`,
    `flip`, `photometric`; super-resolution turns and flips if `flip`.
    """

    crop_scale: tuple[float, float] = (0.08, 1.0)  # share of the picture's area
    flip: bool = True
    rand_augment: int = 1  # operations a picture
    magnitude: int = 3  # of these, 0 to 10, give or take 1
    erasing: float = 0.0  # share of pictures with a rectangle of noise
    mixup: float = 0.1  # the beta distribution's parameter; half the batches, if cutmix is on
    cutmix: float = 0.1
    label_smoothing: float = 0.1
    scale_jitter: tuple[float, float] = (0.5, 2.0)  # of segmentation, before the crop
    photometric: float = 0.4  # largest relative change of brightness, contrast and saturation

    def __post_init__(self) -> None:
        for name in ("erasing", "label_smoothing", "photometric"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name} must be from 0 to 1, not {getattr(self, name)}")
        if not 0 < self.crop_scale[0] <= self.crop_scale[1] <= 1:
            raise UserError(f"crop_scale must be two shares, ascending, not {self.crop_scale}")
        if not 0 < self.scale_jitter[0] <= self.scale_jitter[1]:
            raise UserError(f"scale_jitter must be two factors, ascending: {self.scale_jitter}")
        for name, most in (("rand_augment", 10), ("magnitude", 10), ("mixup", 10), ("cutmix", 10)):
            if not 0 <= getattr(self, name) <= most:
                raise UserError(f"{name} must be from 0 to {most}, not {getattr(self, name)}")


PLAIN = Augment((1.0, 1.0), False, 0, 0, 0.0, 0.0, 0.0, 0.0, (1.0, 1.0), 0.0)
# Poses vary as they are drawn; crops would enlarge what held-out pictures show small, and cut off
# the lamp that classes of cells depend on.
EMBEDDED = replace(PLAIN, flip=True, photometric=0.2)
