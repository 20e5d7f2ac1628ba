"""A network from pictures as they are stored to classes, as one module."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.weights.preprocessing import Preprocessing


class Pipeline(nn.Module):
    """Normalisation of uint8 pictures where asked for, the network, and what reads its logits.

    Pictures and results are float32, whatever the network's own precision is. (B, 3, H, W)
    becomes what the network gives; with `softmax` probabilities, with `argmax` indices of
    classes, (B,) or (B, H, W), int64.
    """

    scale: Tensor
    shift: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        pixels: Preprocessing | None = None,
        head: str = "logits",
        size: tuple[int, int] | None = None,
    ) -> None:
        """Wrap a network.

        Args:
            pixels: how uint8 pictures are normalised; None: they come normalised, as float32.
            head: logits, softmax or argmax.
            size: that a map of logits is enlarged to, bicubic as segmentation is evaluated.
        """
        super().__init__()
        self.network, self.head, self.size = network, head, size
        self.is_uint8 = pixels is not None
        mean, std = (pixels.mean, pixels.std) if pixels else ((0.0,) * 3, (1.0,) * 3)
        spread = 255 * torch.tensor(std, dtype=torch.float64).view(1, 3, 1, 1)
        centre = 255 * torch.tensor(mean, dtype=torch.float64).view(1, 3, 1, 1)
        self.register_buffer("scale", (1 / spread).float())
        self.register_buffer("shift", (-centre / spread).float())

    def forward(self, pictures: Tensor) -> Tensor:
        """Return what the class says of pictures, uint8 or float32."""
        return self.finish(self.logits(pictures))

    def logits(self, pictures: Tensor) -> Tensor:
        """Return what the network gives, float32."""
        x = pictures.float() * self.scale + self.shift if self.is_uint8 else pictures
        dtype = next(self.network.parameters()).dtype
        return self.network(x.to(dtype)).float()  # type: ignore[no-any-return]

    def enlarged(self, logits: Tensor) -> Tensor:
        """Return a map of logits at `size`, where there is one."""
        if self.size is None:
            return logits
        return F.interpolate(logits, size=self.size, mode="bicubic", align_corners=False)

    def finish(self, logits: Tensor) -> Tensor:
        """Return what `head` makes of the network's logits."""
        x = self.enlarged(logits)
        if self.head == "softmax":
            return x.softmax(1)
        return x.argmax(1) if self.head == "argmax" else x
