"""From a picture and prompts to masks, and all masks of a picture, against `segment_anything`."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from results.errors import ImageError
from supernet.rle import encode
from supernet.sam.automatic_masks import (
    MaskRecord,
    MaskSettings,
    box_iou,
    boxes_of,
    crop_boxes,
    fill_small_holes,
    generate_masks,
    point_grid,
    remove_small_islands,
    stability_score,
    suppress,
    touches_crop_edge,
    without_small_regions,
)
from supernet.sam.model import Sam
from supernet.sam.predictor import Prediction, PromptablePredictor, prepare_image, resized
from tests.segment_anything_reference import segment_anything, slow_iou, slow_suppress
from tests.test_sam import tiny_sam

SIZES = [(37, 61), (1000, 333), (64, 64), (1, 1), (1, 3000), (3000, 1)]


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class RedChannel(nn.Module):
    arch = SimpleNamespace(resolution=(256, 256))

    def __init__(self) -> None:
        super().__init__()
        self.dtype_and_device = nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return x[:, :1]


class FakeSam(Sam):
    """A model whose masks are known.

    The embedding is the picture's red channel, 256 x 256. A click means the pixels that are
    about as red as the clicked one: three masks, of different tolerances and certainties.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.image_encoder = RedChannel()

    def decode(
        self, embedding, points=None, labels=None, boxes=None, masks=None, *, multimask=True
    ):
        assert (labels == 1).all()
        x, y = (points[:, 0] / 4).long().clamp(0, 255).unbind(1)
        red = embedding[0, 0]
        distance = (red - red[y, x][:, None, None]).abs()[:, None]
        tolerance = torch.tensor([0.1, 0.3, 0.9])[:, None, None]
        steepness = torch.tensor([400.0, 150.0, 20.0])[:, None, None]
        logits = (steepness * (tolerance - distance)).clamp(-20, 20)
        # between 0.8 and 1, and unlike for unlike masks
        scores = 0.8 + 0.2 * ((logits > 0).sum((-2, -1)) * 0.618 % 1)
        return logits, scores


@pytest.fixture(scope="module")
def predictor():
    return PromptablePredictor(tiny_sam())


@pytest.mark.parametrize("size", SIZES)
def test_masks_have_the_size_of_the_picture(predictor, size):
    height, width = size
    predictor.set_image(picture(*size))
    assert predictor.size == size
    prediction = predictor.predict([[width / 2, height / 2]], [1])
    assert prediction.masks.shape == (3, *size)
    assert prediction.masks.dtype == bool
    assert prediction.scores.shape == (3,)
    assert prediction.scores[prediction.best] == prediction.scores.max()
    assert prediction.low_res_logits.shape == (3, 256, 256)
    assert prediction.low_res_logits.dtype == prediction.scores.dtype == np.float32
    box = [0, 0, width - 1, height - 1]
    mask = prediction.low_res_logits[:1]
    single = predictor.predict([[0, 0]], [0], box, mask, multimask=False, return_logits=True)
    assert single.masks.shape == (1, *size)
    assert single.masks.dtype == np.float32


def test_several_boxes_equal_one_at_a_time(predictor):
    predictor.set_image(picture(37, 61))
    boxes = np.array([[0, 0, 30, 20], [10.5, 3, 60, 36], [5, 5, 6, 30]])
    together = predictor.predict(box=boxes, return_logits=True)
    assert together.masks.shape == (3, 3, 37, 61)
    for index, box in enumerate(boxes):
        alone = predictor.predict(box=box, return_logits=True)
        np.testing.assert_allclose(together.masks[index], alone.masks, rtol=1e-4, atol=1e-3)
        np.testing.assert_allclose(together.scores[index], alone.scores, rtol=1e-4, atol=1e-4)
    boolean = predictor.predict(box=boxes)
    assert np.array_equal(boolean.masks, together.masks > 0)


@pytest.mark.parametrize("size", [(37, 61), (1000, 333), (1024, 768), (1, 1)])
def test_prompts_reach_the_decoder_as_in_segment_anything(monkeypatch, size):
    """Coordinates in the 1024 frame, and logits back at the size of the picture."""
    reference = segment_anything()
    transform = reference.predictor.ResizeLongestSide(1024)
    predictor, seen = PromptablePredictor(FakeSam()), []
    low_res = torch.randn(1, 3, 256, 256)

    def decode(embedding, points, labels, boxes, masks, *, multimask):
        seen.extend([points, labels, boxes, masks])
        return low_res, torch.zeros(1, 3)

    monkeypatch.setattr(predictor.model, "decode", decode)
    predictor.set_image(picture(*size))
    inside = np.array(size[::-1])
    points, box = np.array([[3.25, 0.5], [1, 36]]).clip(0, inside), np.array([0, 0.5, 20, 30])
    mask = np.full((1, 256, 256), 0.5)
    prediction = predictor.predict(points, [1, 0], box, mask, return_logits=True)

    expected = transform.apply_coords(points, size), transform.apply_boxes(box, size)
    torch.testing.assert_close(seen[0], torch.from_numpy(expected[0])[None].float(), rtol=0, atol=0)
    assert seen[1].tolist() == [[1, 0]]
    torch.testing.assert_close(
        seen[2].flatten(1), torch.from_numpy(expected[1]).float(), rtol=0, atol=0
    )
    assert torch.equal(seen[3], torch.full((1, 1, 256, 256), 0.5))
    fake = SimpleNamespace(image_encoder=SimpleNamespace(img_size=1024))
    input_size = transform.get_preprocess_shape(*size, 1024)
    expected_masks = reference.modeling.Sam.postprocess_masks(fake, low_res, input_size, size)
    assert np.array_equal(prediction.masks, expected_masks[0].numpy())
    assert np.array_equal(prediction.low_res_logits, low_res[0].numpy())


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([512, 1024]))
@example(1024, 3, 512)  # exactly a pixel and a half
def test_resized_equals_segment_anything(height, width, side):
    transform = segment_anything().predictor.ResizeLongestSide
    expected = transform.get_preprocess_shape(height, width, side)
    assert resized(height, width, side) == tuple(max(1, length) for length in expected)


@pytest.mark.parametrize("size", [(37, 61), (300, 100), (64, 40)])
def test_preparation_of_a_picture(size):
    """Against PyTorch's own antialiased resize, which is not Pillow's."""
    image = picture(*size)
    x = prepare_image(image, 64)
    height, width = resized(size[0], size[1], 64)
    assert x.shape == (3, 64, 64)
    assert not x[:, height:].any()
    assert not x[:, :, width:].any()
    pixels = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True)[0]
    mean = torch.tensor([123.675, 116.28, 103.53])[:, None, None]
    std = torch.tensor([58.395, 57.12, 57.375])[:, None, None]
    difference = x[:, :height, :width] - (pixels - mean) / std
    assert difference.abs().max() < 1.01 / 57  # Pillow rounds to whole grey levels, twice


def test_half_precision():
    predictor = PromptablePredictor(tiny_sam().to(torch.bfloat16))
    predictor.set_image(picture(37, 61))
    prediction = predictor.predict(box=[3, 3, 30, 30])
    assert prediction.scores.dtype == np.float32
    assert prediction.masks.shape == (3, 37, 61)


def test_nothing_before_a_picture():
    predictor = PromptablePredictor(FakeSam())
    with pytest.raises(ImageError, match="call set_image first"):
        predictor.predict([[0, 0]], [1])
    predictor.set_image(picture(4, 4))
    with pytest.raises(ImageError, match="uint8"):
        predictor.set_image(picture(4, 4)[..., :2])
    with pytest.raises(ImageError, match="call set_image first"):
        predictor.predict([[0, 0]], [1])


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4, 3)),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        [[0, 0, 0]],
    ],
)
def test_refuses_what_is_no_picture(image):
    with pytest.raises(ImageError, match=r"got (float64|uint8|list)"):
        PromptablePredictor(FakeSam()).set_image(image)
    with pytest.raises(ImageError, match=r"got (float64|uint8|list)"):
        generate_masks(FakeSam(), image)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({}, "no prompt"),
        ({"points": [[1, 1]]}, "labels are missing"),
        ({"labels": [1]}, "points are missing"),
        ({"points": [[1, 1]], "labels": [2]}, "no label 2"),
        ({"points": [[1, 1]], "labels": [0.5]}, r"no label 0\.5"),
        ({"points": [[1, 1]], "labels": [-1]}, "no label -1"),
        ({"points": [[1, 1]], "labels": [1, 1]}, "1 points need labels of shape"),
        ({"points": [1, 1], "labels": [1, 1]}, r"points must have shape \(N, 2\)"),
        ({"points": np.zeros((0, 2)), "labels": []}, r"points must have shape \(N, 2\)"),
        ({"points": [[1, np.nan]], "labels": [1]}, "points must be finite"),
        ({"points": [["a", "b"]], "labels": [1]}, "points must be numbers"),
        ({"points": [[1, 1], [1]], "labels": [1, 1]}, "points must be numbers"),
        ({"box": [1, 2, 3]}, "a box must have shape"),
        ({"box": np.zeros((0, 4))}, "a box must have shape"),
        ({"box": [10, 10, 5, 20]}, "10, 10, 5, 20 is none"),
        ({"box": [[0, 0, 1, 1], [0, 9, 1, 1]]}, "0, 9, 1, 1 is none"),
        ({"box": [[0, 0, 1, 1]], "points": [[1, 1]], "labels": [1]}, "go with one box"),
        ({"mask": np.zeros((64, 64))}, "a mask prompt must be logits of shape"),
    ],
)
def test_refuses_impossible_prompts(prompt, message):
    predictor = PromptablePredictor(FakeSam())
    predictor.set_image(picture(20, 20))
    with pytest.raises(ImageError, match=message):
        predictor.predict(**prompt)


corners = st.tuples(*[st.integers(0, 12)] * 4).map(
    lambda c: [min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])]
)


@given(
    st.lists(st.tuples(corners, st.sampled_from([0.1, 0.5, 0.9])), min_size=1, max_size=15),
    st.sampled_from([0.0, 0.3, 0.7, 1.0]),
)
def test_suppression_equals_its_slow_twin(boxes_and_scores, max_iou):
    boxes = torch.tensor([box for box, _ in boxes_and_scores], dtype=torch.float32)
    scores = torch.tensor([score for _, score in boxes_and_scores])
    assert suppress(boxes, scores, max_iou) == slow_suppress(boxes, scores, max_iou)
    ious = box_iou(boxes[0], boxes).nan_to_num(0).tolist()
    assert ious == pytest.approx([slow_iou(boxes[0].tolist(), b.tolist()) for b in boxes])


def test_stability_is_the_iou_of_two_thresholds():
    logits = torch.randn(4, 30, 50) * 3
    logits[3] = -5
    for offset in (0.5, 1.0):
        high, low = logits > offset, logits > -offset
        for index, score in enumerate(stability_score(logits, offset).tolist()):
            union = int((high[index] | low[index]).sum())
            expected = int((high[index] & low[index]).sum()) / union if union else 0
            assert score == pytest.approx(expected)


def test_boxes_hold_the_first_and_the_last_pixel():
    masks = torch.rand(20, 9, 13, generator=torch.Generator().manual_seed(0)) > 0.97
    masks[0] = False
    masks[1] = True
    for mask, box in zip(masks, boxes_of(masks).tolist(), strict=True):
        y, x = mask.numpy().nonzero()
        assert box == ([x.min(), y.min(), x.max(), y.max()] if len(x) else [0, 0, 0, 0])


def test_small_regions():
    mask = np.zeros((12, 12), bool)
    mask[1:8, 1:8] = True
    mask[2, 2] = mask[5:7, 4:7] = False  # holes of 1 and 6 pixels
    mask[10, 0:3] = mask[9, 3] = True  # an island of 4, connected diagonally
    filled = fill_small_holes(mask, 6)
    assert filled[2, 2]
    assert not filled[5:7, 4:7].any()
    assert filled.sum() == mask.sum() + 1
    assert np.array_equal(remove_small_islands(mask, 4), mask)
    assert np.array_equal(remove_small_islands(mask, 5), mask & (np.arange(12) < 9)[:, None])
    largest = remove_small_islands(mask, 1000)
    assert np.array_equal(largest, mask & (np.arange(12) < 9)[:, None])
    assert not remove_small_islands(np.zeros((3, 3), bool), 5).any()
    assert fill_small_holes(np.zeros((3, 3), bool), 10).all()


def test_grids_crops_and_edges_equal_segment_anything():
    amg = segment_anything().automatic_mask_generator
    amg_utils = segment_anything().utils.amg
    for per_side in (1, 2, 7, 32):
        np.testing.assert_allclose(point_grid(per_side), amg_utils.build_point_grid(per_side))
    for size in ((100, 200), (333, 57), (1000, 1000)):
        boxes, layers = amg.generate_crop_boxes(size, 3, 512 / 1500)
        ours = crop_boxes(*size, 3, 512 / 1500)
        assert ours == [(tuple(box), n) for box, n in zip(boxes, layers, strict=True)]
        generator = torch.Generator().manual_seed(0)
        for box, _ in ours:
            left, top, right, bottom = box
            inside = torch.rand(50, 2, 2, generator=generator).sort(1).values.flatten(1)
            inside *= torch.tensor([right - left, bottom - top] * 2)
            expected = amg.is_box_near_crop_edge(inside, box, [0, 0, size[1], size[0]])
            whole = inside + torch.tensor([left, top, left, top])
            assert torch.equal(touches_crop_edge(whole, box, size), expected)


def test_no_crop_of_a_tiny_picture_is_empty():
    for box, _ in crop_boxes(1, 3, 3, 512 / 1500):
        assert box[0] < box[2]
        assert box[1] < box[3]


def waves(height, width):
    """A picture of smooth regions, with a little noise for small islands."""
    y, x = np.mgrid[:height, :width] / 40
    red = np.sin(x) + np.cos(1.7 * y) + np.sin(0.6 * x * y)
    noise = np.random.default_rng(0).normal(0, 0.05, red.shape)
    grey = np.clip(128 + 40 * (red + noise), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=2)


class ReferencePredictor:
    """What segment_anything's generator asks of its predictor, answered by ours."""

    device = torch.device("cpu")
    model = SimpleNamespace(mask_threshold=0.0)

    def __init__(self) -> None:
        self.ours = PromptablePredictor(FakeSam())
        self.transform = self
        self.set_image = self.ours.set_image

    def apply_coords(self, points, size):
        return points

    def reset_image(self):
        pass

    def predict_torch(self, points, labels, multimask_output, return_logits):
        low_res, scores = self.ours.predict_batch(points, labels, multimask=multimask_output)
        return self.ours.upscale(low_res), scores, low_res


LOOSE = MaskSettings(
    points_per_side=6,
    points_per_batch=7,
    min_predicted_iou=0.85,
    min_stability=0.8,
    max_box_iou=0.8,
)


@pytest.mark.parametrize(
    "settings",
    [
        LOOSE,
        replace(LOOSE, min_predicted_iou=0, min_stability=0),
        replace(LOOSE, crop_layers=1, crop_points_divisor=2),
        replace(LOOSE, points_per_side=3, crop_layers=2, crop_max_box_iou=0.5),
    ],
    ids=["plain", "unfiltered", "crops", "two layers"],
)
def test_all_masks_equal_segment_anything(monkeypatch, settings):
    image = waves(120, 170)
    monkeypatch.setattr(
        ReferencePredictor.model, "image_encoder", SimpleNamespace(img_size=1024), raising=False
    )
    reference = segment_anything().SamAutomaticMaskGenerator(
        ReferencePredictor.model,
        points_per_side=settings.points_per_side,
        points_per_batch=settings.points_per_batch,
        pred_iou_thresh=settings.min_predicted_iou,
        stability_score_thresh=settings.min_stability,
        stability_score_offset=settings.stability_offset,
        box_nms_thresh=settings.max_box_iou,
        crop_n_layers=settings.crop_layers,
        crop_nms_thresh=settings.crop_max_box_iou,
        crop_n_points_downscale_factor=settings.crop_points_divisor,
    )
    reference.predictor = ReferencePredictor()
    expected = reference.generate(image)
    records = generate_masks(FakeSam(), image, settings)
    assert len(records) == len(expected) > 3
    for record, annotation in zip(records, expected, strict=True):
        assert np.array_equal(record.mask, annotation["segmentation"])
        assert record.area == annotation["area"] == record.mask.sum()
        assert list(record.box_xywh) == annotation["bbox"]
        assert list(record.crop_box) == annotation["crop_box"]
        assert [record.point] == [pytest.approx(tuple(p)) for p in annotation["point_coords"]]
        assert record.predicted_iou == annotation["predicted_iou"]
        assert record.stability_score == annotation["stability_score"]


def test_every_filter_drops_masks():
    image = waves(120, 170)
    open_to_all = replace(LOOSE, min_predicted_iou=0, min_stability=0, max_box_iou=1.0)
    number = len(generate_masks(FakeSam(), image, open_to_all))
    assert number == 6 * 6 * 3
    for stricter in (
        replace(open_to_all, min_predicted_iou=0.9),
        replace(open_to_all, min_stability=0.9),
        replace(open_to_all, max_box_iou=0.5),
    ):
        assert 0 < len(generate_masks(FakeSam(), image, stricter)) < number


def test_known_rectangles_are_found():
    """Three flat rectangles, by clicks of which some hit the ground between them."""
    image = np.zeros((256, 200, 3), np.uint8)
    rectangles = {(10, 20, 60, 110): 80, (100, 30, 180, 70): 150, (40, 150, 160, 240): 220}
    for (x0, y0, x1, y1), red in rectangles.items():
        image[y0:y1, x0:x1] = red
    settings = MaskSettings(points_per_side=8, min_predicted_iou=0, max_box_iou=0.7)
    found = generate_masks(FakeSam(), image, settings)
    for x0, y0, x1, y1 in rectangles:
        expected = np.zeros(image.shape[:2], bool)
        expected[y0:y1, x0:x1] = True
        matches = [record for record in found if np.array_equal(record.mask, expected)]
        assert len(matches) == 1
        (record,) = matches
        assert record.box_xywh == (x0, y0, x1 - x0 - 1, y1 - y0 - 1)
        assert record.area == (x1 - x0) * (y1 - y0)
        assert expected[int(record.point[1]), int(record.point[0])]
        assert record.crop_box == (0, 0, 200, 256)


def test_small_regions_are_removed_and_what_becomes_equal_is_dropped():
    image = waves(120, 170)
    before = generate_masks(FakeSam(), image, LOOSE)
    after = generate_masks(FakeSam(), image, replace(LOOSE, min_region_area=30))
    assert 0 < len(after) <= len(before)
    by_click = {(record.point, record.predicted_iou): record for record in before}
    changed = 0
    for record in after:
        original = by_click[record.point, record.predicted_iou].mask
        cleaned = remove_small_islands(fill_small_holes(original, 30), 30)
        assert np.array_equal(record.mask, cleaned)
        box = boxes_of(torch.from_numpy(cleaned)[None])[0].tolist()
        x, y, width, height = record.box_xywh
        assert [x, y, x + width, y + height] == box
        changed += not np.array_equal(original, cleaned)
    assert changed


def test_of_masks_that_become_equal_the_clean_one_is_kept():
    clean, frayed, other = np.zeros((3, 40, 40), bool)
    clean[5:15, 5:15] = other[25:35, 25:35] = True
    frayed |= clean
    frayed[38, 38] = other[0, 0] = True
    records = [
        MaskRecord(encode(mask), box, predicted_iou, 1.0, (10.0, 10.0), (0, 0, 40, 40))
        for mask, box, predicted_iou in [
            (frayed, (5, 5, 33, 33), 0.9),
            (clean, (5, 5, 9, 9), 0.8),
            (other, (0, 0, 34, 34), 0.7),
        ]
    ]
    kept = without_small_regions(records, 2, 0.7)
    assert kept[0] == records[1]
    assert len(kept) == 2
    assert kept[1].box_xywh == (25, 25, 9, 9)
    assert kept[1].area == 100
    assert len(without_small_regions(records, 2, 1.0)) == 3


def test_full_size_logits_exist_for_few_masks_at_a_time(monkeypatch):
    sizes = []
    upscale = PromptablePredictor.upscale

    def counted(self, low_res):
        sizes.append(len(low_res))
        return upscale(self, low_res)

    monkeypatch.setattr(PromptablePredictor, "upscale", counted)
    image, settings = waves(120, 170), replace(LOOSE, points_per_batch=36, min_predicted_iou=0)
    whole = generate_masks(FakeSam(), image, settings)
    assert max(sizes) == 16
    monkeypatch.setattr("supernet.sam.automatic_masks.MAX_PIXELS", 1)
    one_by_one = generate_masks(FakeSam(), image, settings)
    assert max(sizes[-36 * 3 :]) == 1
    assert whole == one_by_one


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("points_per_side", 0),
        ("points_per_batch", 0),
        ("crop_layers", -1),
        ("crop_points_divisor", 0),
        ("min_region_area", -1),
        ("stability_offset", -1.0),
        ("crop_overlap", 1.0),
    ],
)
def test_refuses_impossible_settings(name, value):
    with pytest.raises(ImageError, match=f"{name}={value} must"):
        MaskSettings(**{name: value})


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ({"points": [(6000, 40)], "labels": [1]}, "no point at x 6000, y 40: the picture is 30"),
        ({"points": [(-5, 40)], "labels": [1]}, "40 wide"),
        ({"box": (100, 100, 200, 200)}, "is outside"),
    ],
)
def test_prompts_beside_the_picture_are_refused(prompt, words):
    predictor = PromptablePredictor(FakeSam())
    predictor.set_image(picture(30, 40))
    with pytest.raises(ImageError, match=words):
        predictor.predict(**prompt)


def test_the_best_mask_of_each_of_several_boxes():
    scores = np.array([[0.1, 0.2, 0.3], [0.4, 0.9, 0.5]], dtype=np.float32)
    masks = np.zeros((2, 3, 4, 4), dtype=bool)
    low_res = np.zeros((2, 3, 256, 256), dtype=np.float32)
    assert np.array_equal(Prediction(masks, scores, low_res).best, [2, 1])
    assert Prediction(masks[0], scores[0], low_res[0]).best == 2
