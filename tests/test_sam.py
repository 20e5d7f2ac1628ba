"""SAM's prompt encoder and mask decoder against `segment_anything`, on random weights."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from supernet.sam.model import MaskDecoder, PromptEncoder, RandomFourierPositions, Sam
from supernet.sam.two_way import Attention
from tests.segment_anything_reference import segment_anything

SIZE, FRAME = (12, 20), (192, 320)  # small, and not square
PROMPTS = [kinds for kinds in product([True, False], repeat=3) if any(kinds)]


def name_of(kinds):
    names = ("points", "boxes", "masks")
    return "+".join(name for name, given in zip(names, kinds, strict=True) if given)


class DoubleTorch:
    """What the reference calls torch, where it would round positions to float32."""

    float = float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


def shaken(module, seed=0):
    """With no weight left at 0 or 1, so that swapped norms show."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor += 0.03 * torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
    return module.eval()


def reference_parts(embedding_size=(64, 64), frame=(1024, 1024)):
    """As the official code builds them for EfficientViT-SAM."""
    modeling = segment_anything().modeling
    transformer = modeling.TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    prompt_encoder = modeling.PromptEncoder(
        embed_dim=256,
        image_embedding_size=embedding_size,
        input_image_size=frame,
        mask_in_chans=16,
    )
    mask_decoder = modeling.MaskDecoder(transformer_dim=256, transformer=transformer)
    return prompt_encoder.eval(), mask_decoder.eval()


def prompts(kinds, dtype, num_prompts=3, size=SIZE, frame=FRAME):
    """Points, labels, boxes and masks, or None where `kinds` leaves them out."""
    generator = torch.Generator().manual_seed(1)
    height, width = frame
    places = torch.rand(num_prompts, 4, 2, generator=generator, dtype=dtype)
    places = places * torch.tensor([width, height])
    labels = torch.tensor([[1, 0], [0, -1], [1, 1]])[:num_prompts]
    masks = torch.randn(num_prompts, 1, 4 * size[0], 4 * size[1], generator=generator, dtype=dtype)
    with_points, with_boxes, with_masks = kinds
    return (
        places[:, :2] if with_points else None,
        labels if with_points else None,
        places[:, 2:].flatten(1) if with_boxes else None,
        masks if with_masks else None,
    )


def relative_difference(ours, reference):
    assert ours.shape == reference.shape
    if not reference.numel():
        return 0.0
    return ((ours - reference).abs().max() / reference.abs().max()).item()


@pytest.fixture(scope="module")
def parts():
    """Ours, with the eps of the reference."""
    torch.manual_seed(0)
    encoder = PromptEncoder(embedding_size=SIZE, frame=FRAME)
    return shaken(encoder, 0), shaken(MaskDecoder(eps=1e-5), 1)


@pytest.mark.parametrize("kinds", PROMPTS, ids=name_of)
@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_equals_segment_anything(parts, monkeypatch, dtype, most, kinds):
    ours, reference = parts, reference_parts(SIZE, FRAME)
    if dtype == torch.float64:
        monkeypatch.setattr(segment_anything().modeling.prompt_encoder, "torch", DoubleTorch())
    for our_part, reference_part in zip(ours, reference, strict=True):
        reference_part.load_state_dict(our_part.state_dict())
        our_part.to(dtype)
        reference_part.to(dtype)
    points, labels, boxes, masks = prompts(kinds, dtype)
    embedding = torch.randn(1, 256, *SIZE, generator=torch.Generator().manual_seed(2), dtype=dtype)
    with torch.no_grad():
        tokens, dense = ours[0](points, labels, boxes, masks)
        expected_tokens, expected_dense = reference[0](
            points=None if points is None else (points, labels), boxes=boxes, masks=masks
        )
        positions, expected_positions = ours[0].image_positions(), reference[0].get_dense_pe()
        assert relative_difference(tokens, expected_tokens) <= most
        assert relative_difference(dense.expand_as(expected_dense), expected_dense) <= most
        assert relative_difference(positions, expected_positions) <= most
        for multimask in (True, False):
            results = ours[1](embedding, positions, tokens, dense, multimask=multimask)
            expected = reference[1](
                image_embeddings=embedding,
                image_pe=expected_positions,
                sparse_prompt_embeddings=expected_tokens,
                dense_prompt_embeddings=expected_dense,
                multimask_output=multimask,
            )
            assert results[0].shape == (3, 3 if multimask else 1, 4 * SIZE[0], 4 * SIZE[1])
            for result, value in zip(results, expected, strict=True):
                assert result.dtype == dtype
                assert relative_difference(result, value) <= most


def tiny_sam(resolution=64):
    """A whole one but for its image encoder."""
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.AdaptiveAvgPool2d(64), nn.Conv2d(3, 256, 1))
    encoder.arch = SimpleNamespace(resolution=(resolution,) * 2)  # type: ignore[assignment]
    return shaken(Sam(encoder))


@pytest.fixture(scope="module")
def sam():
    return tiny_sam()


def test_default_sizes_are_the_published_ones(sam):
    encoder, decoder = reference_parts()
    for ours, reference in ((sam.prompt_encoder, encoder), (sam.mask_decoder, decoder)):
        reference.load_state_dict(ours.state_dict())
        shapes = {name: tensor.shape for name, tensor in ours.state_dict().items()}
        assert shapes == {name: tensor.shape for name, tensor in reference.state_dict().items()}
    for block in decoder.modules():
        if isinstance(block, nn.LayerNorm):
            block.eps = 1e-6  # which the official code sets in the whole of EfficientViT-SAM
    points, labels, boxes, masks = prompts(
        (True, True, True), torch.float32, 1, (64, 64), (1024,) * 2
    )
    embedding = torch.randn(1, 256, 64, 64)
    with torch.no_grad():
        results = sam.decode(embedding, points, labels, boxes, masks)
        tokens, dense = encoder(points=(points, labels), boxes=boxes, masks=masks)
        expected = decoder(embedding, encoder.get_dense_pe(), tokens, dense, True)
    for result, value in zip(results, expected, strict=True):
        assert relative_difference(result, value) <= 1e-5


def test_number_of_parameters():
    # counted in segment_anything 1.0
    assert sum(p.numel() for p in PromptEncoder().parameters()) == 6_220
    assert sum(p.numel() for p in MaskDecoder().parameters()) == 4_058_340


def test_all_norms_use_the_eps_of_efficientvit_sam(sam):
    norms = [m for m in sam.modules() if isinstance(m, nn.LayerNorm)]
    assert len(norms) == 2 * 4 + 1 + 3
    assert {norm.eps for norm in norms} == {1e-6}


def test_a_prompt_does_not_depend_on_the_others(parts):
    encoder, decoder = (part.float() for part in parts)
    points, labels, boxes, masks = prompts((True, True, True), torch.float32)
    embedding, positions = torch.randn(1, 256, *SIZE), encoder.image_positions()
    with torch.no_grad():
        together = decoder(embedding, positions, *encoder(points, labels, boxes, masks))
        for i in range(3):
            one = slice(i, i + 1)
            alone = encoder(points[one], labels[one], boxes[one], masks[one])
            for all_of_them, mine in zip(
                together, decoder(embedding, positions, *alone), strict=True
            ):
                assert relative_difference(all_of_them[one], mine) <= 1e-5


def test_each_prompt_may_have_an_image_of_its_own(parts):
    encoder, decoder = (part.float() for part in parts)
    embeddings, positions = torch.randn(3, 256, *SIZE), encoder.image_positions()
    tokens, dense = encoder(boxes=prompts((False, True, False), torch.float32)[2])
    with torch.no_grad():
        together = decoder(embeddings, positions, tokens, dense)
        for i in range(3):
            one = slice(i, i + 1)
            alone = decoder(embeddings[one], positions, tokens[one], dense)
            for all_of_them, mine in zip(together, alone, strict=True):
                assert relative_difference(all_of_them[one], mine) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(sam, dtype):
    half = tiny_sam().to(dtype)
    points, labels = torch.tensor([[[500.25, 300.5]]]), torch.tensor([[1]])
    images = torch.randn(1, 3, 64, 64)
    frequencies = half.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
    with torch.no_grad():
        results = half(images.to(dtype), points, labels)
        for result, value in zip(results, sam(images, points, labels), strict=True):
            assert result.dtype == dtype
            assert relative_difference(result.float(), value) < 16 * torch.finfo(dtype).eps
    assert torch.equal(frequencies, sam.prompt_encoder.pe_layer.positional_encoding_gaussian_matrix)


def test_frequencies_follow_to_more_precision_and_to_other_devices():
    positions = RandomFourierPositions(8)
    assert positions.double().positional_encoding_gaussian_matrix.dtype == torch.float64
    moved = RandomFourierPositions(8).to("meta", torch.float16)
    assert moved.positional_encoding_gaussian_matrix.device.type == "meta"


def test_every_weight_is_used(parts):
    encoder, decoder = (part.float() for part in parts)
    total = torch.zeros(())
    for kinds in ((True, False, True), (False, True, False)):
        tokens, dense = encoder(*prompts(kinds, torch.float32))
        for multimask in (True, False):
            logits, scores = decoder(
                torch.ones(1, 256, *SIZE),
                encoder.image_positions(),
                tokens,
                dense,
                multimask=multimask,
            )
            total = total + logits.square().sum() + scores.square().sum()
    total.backward()
    for part in (encoder, decoder):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.any(), name
            parameter.grad = None


def test_points_and_labels_go_together(parts):
    with pytest.raises(ValueError, match="go together"):
        parts[0](points=torch.zeros(1, 1, 2))


def test_heads_must_divide_the_channels():
    with pytest.raises(ValueError, match="num_heads=3 does not divide 16"):
        Attention(32, 3, downsample=2)
