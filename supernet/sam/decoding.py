"""SAM's decoder as one module of plain tensors, as files of it are."""

from torch import Tensor, nn

from supernet.sam.model import PromptDecoder


class Decoding(nn.Module):
    """Decodes prompts that are points alone: clicks, corners of a box and padding.

    All in float32, whatever the decoder's own precision is.
    """

    def __init__(self, decoder: PromptDecoder) -> None:
        super().__init__()
        self.prompt_encoder, self.mask_decoder = decoder.prompt_encoder, decoder.mask_decoder

    def forward(self, embedding: Tensor, points: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return masks and what they are worth.

        Args:
            embedding: of the image, (1, 256, 64, 64).
            points: (1, N, 2), x and y in pixels of a picture whose long side is 1024.
            labels: (1, N), 1 foreground, 0 background, 2 and 3 a box's corners, -1 no point. A
                prompt without a box ends in one of -1, as SAM was trained.

        Returns:
            mask logits (1, 4, 256, 256), for a prompt without doubt and three for others, and
            predicted IoUs (1, 4).
        """
        tokens = self.prompt_encoder.embed(points, labels.long())
        masks, scores = self.mask_decoder(
            embedding.to(tokens.dtype),
            self.prompt_encoder.image_positions(),
            tokens,
            self.prompt_encoder.without_mask(),
            multimask=None,
        )
        return masks.float(), scores.float()
