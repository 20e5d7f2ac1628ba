"""SAM's prompt encoder and mask decoder as a runtime's own graph, see `supernet.sam`.

One picture and one prompt of a fixed number of points. Tensors keep their channels last, (1, N, C)
tokens and (1, T, C) cells of the image; how each operator is written is the graph's matter.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lut.builders.network import Format
from lut.builders.pipeline import Ends
from lut.builders.tokens import Tensor, TokenGraph
from lut.builders.weights import Array

EMBEDDING, POINTS, LABELS = "embedding", "points", "labels"  # inputs
MASKS, SCORES = "masks", "scores"  # outputs
CHANNELS, SIDE, FRAME = 256, 64, 1024  # of the embedding; side of the picture that points are in
LAYERS, HEADS = 2, 8
KINDS = 5  # of points: padding -1, background 0, foreground 1, corners of a box 2 and 3


def build_decoder(
    format: Format,
    state: Mapping[str, npt.NDArray[np.floating]],
    ends: Ends,
    *,
    eps: tuple[float, float],
    num_points: int,
    precision: str = "fp32",
) -> bytes:
    """Return the file of a decoder: from an image's embedding and a prompt to masks.

    Args:
        state: the state dict of a `supernet.sam.model.PromptDecoder`.
        ends: what the file says of itself.
        eps: of the transformer's normalisations, and of the one on the upscaled image.
        num_points: of the prompt.
        precision: fp32 or fp16; inputs and outputs are fp32.

    Returns:
        Inputs `embedding` (1, 256, 64, 64), in TFLite (1, 64, 64, 256); `points` (1, N, 2), x and
        y in pixels of a picture whose long side is 1024; `labels` (1, N): 1 foreground, 0
        background, 2 and 3 the corners of a box, -1 no point. Outputs `masks` (1, 4, 256, 256), in
        TFLite (1, 256, 256, 4), logits: for a prompt without doubt, and three for others; `scores`
        (1, 4), their predicted IoU.
    """
    graph = _graph_of(format, precision)
    decoder = _Decoder(graph, {name: np.asarray(own, np.float32) for name, own in state.items()})
    masks, scores = decoder.outputs(num_points, *eps)
    return graph.finish({MASKS: masks, SCORES: scores}, ends.description, ends.metadata)


def _graph_of(format: Format, precision: str) -> TokenGraph:
    if format == "onnx":
        from lut.builders.onnx_tokens import OnnxTokens

        return OnnxTokens(precision)
    from lut.builders.tflite_tokens import TfliteTokens

    return TfliteTokens(precision)


@dataclass(frozen=True)
class _Decoder:
    """The parts of the decoder, appended to a graph; names are those of the state dict."""

    graph: TokenGraph
    state: Mapping[str, Array]

    def outputs(self, num_points: int, eps: float, image_eps: float) -> tuple[Tensor, Tensor]:
        """Append everything and give masks and scores."""
        graph, state = self.graph, self.state
        image = graph.cells(EMBEDDING, CHANNELS, SIDE, SIDE)
        image = graph.combine(
            "add", image, graph.constant(state["prompt_encoder.no_mask_embed.weight"][0])
        )
        prompt = self._prompt(num_points)
        own = [state[f"mask_decoder.{name}.weight"] for name in ("iou_token", "mask_tokens")]
        num_masks = len(own[1])
        tokens = graph.concat([graph.constant(np.concatenate(own)[None]), prompt], 1)
        tokens, image = self._transformer(tokens, image, eps)
        filters = [
            self._perceptron(
                f"mask_decoder.output_hypernetworks_mlps.{number}",
                graph.slice(tokens, 1, 1 + number, 1),
            )
            for number in range(num_masks)
        ]
        masks = graph.maps(graph.concat(filters, 1), self._upscaled(image, image_eps), 4 * SIDE)
        first = graph.reshape(graph.slice(tokens, 1, 0, 1), 1, CHANNELS)
        return masks, self._perceptron("mask_decoder.iou_prediction_head", first)

    def _prompt(self, num_points: int) -> Tensor:
        """Embed the points of the prompt, (1, N, C)."""
        graph, state = self.graph, self.state
        points, labels = graph.input(POINTS, 1, num_points, 2), graph.input(LABELS, 1, num_points)
        # A coordinate names a pixel, its embedding the pixel's centre; from -1 to 1.
        places = graph.combine("mul", points, graph.exact(np.full(1, 2 / FRAME)))
        places = graph.combine("add", places, graph.exact(np.full(1, 1 / FRAME - 1)))
        name = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
        phase = graph.matmul(places, graph.exact(2 * np.pi * state[name].astype(np.float64)))
        positions = graph.concat([graph.apply("sin", phase), graph.apply("cos", phase)], 2)
        column = graph.reshape(labels, 1, num_points, 1)
        apart = graph.combine("sub", column, graph.exact(np.arange(KINDS) - 1.0))
        is_kind = graph.combine("sub", graph.exact(np.ones(1)), graph.apply("abs", apart))
        is_kind = graph.apply("relu", is_kind)  # one column of ones and zeros for each label
        is_point = graph.combine("sub", graph.exact(np.ones(1)), graph.slice(is_kind, 2, 0, 1))
        kinds = ["not_a_point_embed", *(f"point_embeddings.{n}" for n in range(KINDS - 1))]
        table = np.concatenate([state[f"prompt_encoder.{kind}.weight"] for kind in kinds])
        embedded = graph.matmul(is_kind, graph.exact(table))
        total = graph.combine("add", graph.combine("mul", positions, is_point), embedded)
        return graph.rounded(total)

    def _transformer(self, tokens: Tensor, image: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Relate tokens and image, see `supernet.sam.two_way.TwoWayTransformer`."""
        graph = self.graph
        placed = graph.constant(self._image_positions()[None])
        token_positions = tokens
        for layer in range(LAYERS):
            name = f"mask_decoder.transformer.layers.{layer}"
            if layer == 0:
                tokens = self._attention(f"{name}.self_attn", tokens, tokens, tokens)
            else:
                q = graph.combine("add", tokens, token_positions)
                attended = self._attention(f"{name}.self_attn", q, q, tokens)
                tokens = graph.combine("add", tokens, attended)
            tokens = self._norm(f"{name}.norm1", tokens, eps)
            q = graph.combine("add", tokens, token_positions)
            k = graph.combine("add", image, placed)
            attended = self._attention(f"{name}.cross_attn_token_to_image", q, k, image)
            tokens = self._norm(f"{name}.norm2", graph.combine("add", tokens, attended), eps)
            hidden = graph.apply("relu", self._linear(f"{name}.mlp.lin1", tokens))
            fed = self._linear(f"{name}.mlp.lin2", hidden)
            tokens = self._norm(f"{name}.norm3", graph.combine("add", tokens, fed), eps)
            q = graph.combine("add", tokens, token_positions)
            attended = self._attention(f"{name}.cross_attn_image_to_token", k, q, tokens)
            image = self._norm(f"{name}.norm4", graph.combine("add", image, attended), eps)
        q = graph.combine("add", tokens, token_positions)
        k = graph.combine("add", image, placed)
        last = "mask_decoder.transformer"
        attended = self._attention(f"{last}.final_attn_token_to_image", q, k, image)
        tokens = graph.combine("add", tokens, attended)
        return self._norm(f"{last}.norm_final_attn", tokens, eps), image

    def _attention(self, name: str, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Attend in heads; the division by sqrt(D) is in q's weights."""
        graph, state = self.graph, self.state
        inner = len(state[f"{name}.q_proj.weight"])
        dim = inner // HEADS
        share = np.float32(dim**-0.5)
        q, k, v = (
            self._heads(
                graph.linear(
                    x, scale * state[f"{name}.{part}.weight"], scale * state[f"{name}.{part}.bias"]
                ),
                dim,
            )
            for x, part, scale in (
                (queries, "q_proj", share),
                (keys, "k_proj", np.float32(1)),
                (values, "v_proj", np.float32(1)),
            )
        )
        weights = graph.apply("softmax", graph.matmul(q, k, transposed=True))
        out = graph.transpose(graph.matmul(weights, v), 0, 2, 1, 3)
        return self._linear(f"{name}.out_proj", graph.reshape(out, 1, -1, inner))

    def _heads(self, x: Tensor, dim: int) -> Tensor:
        """Order (1, N, heads D) as (1, heads, N, D)."""
        return self.graph.transpose(self.graph.reshape(x, 1, -1, HEADS, dim), 0, 2, 1, 3)

    def _upscaled(self, image: Tensor, eps: float) -> Tensor:
        """Enlarge the image fourfold, (1, T, C) -> (1, 16 T, C / 8)."""
        name = "mask_decoder.output_upscaling"
        image = self._twice(f"{name}.0", image, SIDE)
        image = self.graph.apply("gelu", self._norm(f"{name}.1", image, eps))
        return self.graph.apply("gelu", self._twice(f"{name}.3", image, 2 * SIDE))

    def _twice(self, name: str, image: Tensor, side: int) -> Tensor:
        """Append a transposed convolution of 2 x 2 at stride 2: each cell becomes four."""
        weight = self.state[f"{name}.weight"]  # (I, O, 2, 2)
        _, channels, *_ = weight.shape
        matrix = weight.transpose(2, 3, 1, 0).reshape(4 * channels, -1)
        x = self.graph.linear(
            image, np.ascontiguousarray(matrix), np.tile(self.state[f"{name}.bias"], 4)
        )
        x = self.graph.reshape(x, 1, side, side, 2, 2 * channels)
        x = self.graph.transpose(x, 0, 1, 3, 2, 4)
        return self.graph.reshape(x, 1, 4 * side**2, channels)

    def _perceptron(self, name: str, x: Tensor) -> Tensor:
        layers = sum(key.startswith(f"{name}.layers.") for key in self.state) // 2
        for number in range(layers):
            x = self._linear(f"{name}.layers.{number}", x)
            x = self.graph.apply("relu", x) if number < layers - 1 else x
        return x

    def _linear(self, name: str, x: Tensor) -> Tensor:
        return self.graph.linear(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"])

    def _norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        return self.graph.norm(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], eps)

    def _image_positions(self) -> Array:
        """Return the positions of the image's cells, (T, C)."""
        name = "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"
        centres = 2 * (np.arange(SIDE) + 0.5) / SIDE - 1
        y, x = np.meshgrid(centres, centres, indexing="ij")
        places = np.stack([x, y], axis=-1).reshape(-1, 2)
        phase = 2 * np.pi * (places @ self.state[name].astype(np.float64))
        return np.concatenate([np.sin(phase), np.cos(phase)], axis=1).astype(np.float32)
