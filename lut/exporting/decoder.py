"""The decoder of a promptable network as a file of its own, beside its image encoder."""

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from lut.builders.pipeline import Ends
from lut.builders.prompts import (
    CHANNELS,
    EMBEDDING,
    FRAME,
    LABELS,
    MASKS,
    POINTS,
    SCORES,
    SIDE,
    build_decoder,
)
from lut.exporting.check import Difference, Example
from lut.exporting.job import Job, Runner, Tensors

if TYPE_CHECKING:
    from torch import nn

    from supernet.sam.model import PromptDecoder


@dataclass(frozen=True)
class DecoderJob(Job):
    """A decoder in one format and precision, for one picture and one prompt."""

    num_points: int = 2

    @property
    def decoder(self) -> "PromptDecoder":
        """Return the decoder's module."""
        assert self.network.decoder is not None
        return self.network.decoder

    @property
    def part(self) -> str:
        """Return which part of the network it is."""
        return "decoder"

    def built(self, format: Literal["onnx", "tflite"]) -> bytes:
        """Return the file as our builder makes it."""
        decoder = self.decoder
        names = ("prompt_encoder.", "mask_decoder.")
        state = {n: t.numpy() for n, t in decoder.state_dict().items() if n.startswith(names)}
        mask_decoder = decoder.mask_decoder
        eps = mask_decoder.transformer.norm_final_attn.eps, mask_decoder.upscaling_norm.eps
        with np.errstate(over="ignore"):  # what leaves float16 is found when the file is checked
            return build_decoder(
                format,
                state,
                Ends(description=self.description, metadata=self.metadata),
                eps=eps,
                num_points=self.num_points,
                precision=self.form.precision,
            )

    def module(self, *, half: bool = False) -> "nn.Module":
        """Return the same as one PyTorch module, in float16 if `half`."""
        from supernet.sam.decoding import Decoding

        decoder = self.decoder
        return Decoding(copy.deepcopy(decoder).half() if half else decoder).eval()

    @property
    def example(self) -> Tensors:
        """Return inputs of zeros."""
        return {
            EMBEDDING: np.zeros((1, CHANNELS, SIDE, SIDE), np.float32),
            POINTS: np.zeros((1, self.num_points, 2), np.float32),
            LABELS: np.zeros((1, self.num_points), np.float32),
        }

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the outputs."""
        return MASKS, SCORES

    def difference(self, run: Runner, examples: list[Example], seed: int) -> Difference:
        """Run a file on the embeddings of pictures, with random prompts, and compare with PyTorch.

        Args:
            examples: of the image encoder.
        """
        import torch

        module, rng, far = self.module(), np.random.default_rng(seed), 0.0
        embeddings = np.concatenate([example.logits for example in examples])
        for number, embedding in enumerate(embeddings):
            inputs = {EMBEDDING: embedding[None], **self._prompt(rng, is_box=bool(number % 2))}
            with torch.no_grad():
                expected = module(*(torch.from_numpy(own) for own in inputs.values()))
            found = run(inputs)
            for name, own in zip(self.outputs, expected, strict=True):
                if found[name].shape != own.shape or not np.isfinite(found[name]).all():
                    return Difference(None, None, len(embeddings))
                largest = float(own.abs().max())
                far = max(far, float(np.abs(found[name] - own.numpy()).max()) / largest)
        return Difference(far, None, len(embeddings))

    def _prompt(self, rng: np.random.Generator, *, is_box: bool) -> Tensors:
        """Draw clicks, and a box or the padding that stands for none."""
        count = self.num_points
        points = rng.uniform(0, FRAME, (1, count, 2)).astype(np.float32)
        labels = rng.integers(0, 2, (1, count)).astype(np.float32)
        if is_box and count > 1:
            points[0, -2:] = np.sort(points[0, -2:], axis=0)
            labels[0, -2:] = 2, 3
        else:
            labels[0, -1] = -1
        return {POINTS: points, LABELS: labels}
