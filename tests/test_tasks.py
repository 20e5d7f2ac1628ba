"""Readers of pictures and labels, and metrics, against slow twins and other programs."""

import io
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from matplotlib.path import Path as Outline
from PIL import Image, ImageOps
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from results.errors import DataError, UserError
from supernet import pictures
from supernet.pictures import read_indices, read_rgb, resize_and_crop, resize_bicubic
from supernet.rle import encode
from supernet.spaces import get_space
from supernet.tasks import loop
from supernet.tasks.annotated_pictures import AnnotatedPictures, box_of, fill_polygons
from supernet.tasks.choose import training_task
from supernet.tasks.classification import ClassFolders, Preparation, TopAccuracy
from supernet.tasks.labelled_pictures import (
    CITYSCAPES,
    LabelledPictures,
    input_size,
    to_classes,
)
from supernet.tasks.loop import core_for_readers, evaluate, read_batches
from supernet.tasks.options import TaskOptions
from supernet.tasks.promptable import BoxIoU
from supernet.tasks.segmentation import MeanIoU, classes_of
from supernet.tasks.super_resolution import LargePictures, Likeness, luma, psnr, reduce, ssim
from tests.conftest import ROOT

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
NORMALISATION = pictures.Normalisation(MEAN, STD)
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def noise(height, width, seed=0):
    rng = np.random.default_rng([seed, height, width])
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height, width, seed=0):
    """A picture with structure at several scales, unlike noise."""
    picture = Image.fromarray(noise(6, 8, seed)).resize((width, height), Image.Resampling.BICUBIC)
    grain = noise(height, width, seed + 1).astype(int) // 8 - 16
    return (np.array(picture).astype(int) + grain).clip(0, 255).astype(np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    picture.save(path, **options)
    return path


class TestPictures:
    def test_grey_of_16_bits_is_scaled(self, tmp_path):
        grey = np.array([[0, 257, 65535], [128 * 257, 300, 65000]], dtype=np.uint16)
        read = np.array(read_rgb(save(tmp_path / "a.png", grey)))
        assert read.tolist() == [[[round(v / 257)] * 3 for v in row] for row in grey.tolist()]

    def test_palette_is_looked_up_and_its_transparency_is_white(self, tmp_path):
        picture = Image.fromarray(np.array([[0, 1, 2]], dtype=np.uint8), "P")
        picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
        path = save(tmp_path / "a.png", picture, transparency=1)
        assert np.array(read_rgb(path)).tolist() == [[[255, 0, 0], [255, 255, 255], [0, 0, 255]]]
        assert read_indices(path).tolist() == [[0, 1, 2]]

    def test_transparency_is_seen_on_white(self, tmp_path):
        rgba = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [0, 0, 0, 51]]], dtype=np.uint8)
        read = np.array(read_rgb(save(tmp_path / "a.png", rgba)))
        assert read.tolist() == [[[10, 20, 30], [255, 255, 255], [204, 204, 204]]]

    def test_cmyk_and_grey_become_rgb(self, tmp_path):
        ink = Image.new("CMYK", (8, 8), (0, 255, 255, 0))  # red
        red = np.array(read_rgb(save(tmp_path / "a.jpg", ink, quality=95)))
        assert np.abs(red.astype(int) - [255, 0, 0]).max() < 8
        grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
        read = np.array(read_rgb(save(tmp_path / "b.png", grey)))
        assert (read == grey[..., None]).all()

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_cameras_held_sideways(self, tmp_path, orientation):
        picture = Image.fromarray(noise(5, 7))
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / "a.png", picture, exif=exif)
        with Image.open(path) as stored:
            expected = np.array(ImageOps.exif_transpose(stored))
        assert (np.array(read_rgb(path)) == expected).all()
        assert (np.array(read_rgb(path, (5, 7))).shape[:2]) == (5, 7)  # as the labels are
        with pytest.raises(DataError, match=r"a\.png is .*, its labels are 6x7"):
            read_rgb(path, (6, 7))

    def test_damaged_metadata_does_not_hide_a_sound_picture(self, tmp_path):
        path = save(tmp_path / "a.png", noise(5, 7), exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
        assert (np.array(read_rgb(path)) == noise(5, 7)).all()

    def test_a_cut_or_empty_file_is_named(self, tmp_path):
        path = save(tmp_path / "a.jpg", noise(64, 64))
        path.write_bytes(path.read_bytes()[:-800])
        with pytest.raises(DataError, match=r"cannot read picture .*a\.jpg: .*truncated"):
            read_rgb(path)
        path.write_bytes(b"")
        with pytest.raises(DataError, match=r"a\.jpg: not a picture, or damaged"):
            read_rgb(path)
        with pytest.raises(DataError, match=r"b\.jpg: No such file"):
            read_rgb(tmp_path / "b.jpg")
        with pytest.raises(DataError, match=r"cannot read mask .*a\.jpg"):
            read_indices(path)

    def test_floating_point_pixels_are_refused(self, tmp_path):
        path = save(tmp_path / "a.tiff", np.ones((4, 4), dtype=np.float32))
        with pytest.raises(DataError, match="floating-point"):
            read_rgb(path)

    @pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
    @settings(
        max_examples=40,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.function_scoped_fixture],
    )
    @given(data=st.data())
    def test_damage_anywhere_gives_a_picture_or_one_error(self, tmp_path, kind, data):
        buffer = io.BytesIO()
        Image.fromarray(noise(9, 11)).save(buffer, kind)
        content = bytearray(buffer.getvalue())
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(content) - 1))
            content[place] = data.draw(st.integers(0, 255))
        path = tmp_path / "a.png"
        path.write_bytes(content[: data.draw(st.integers(1, len(content)))])
        for read in (read_rgb, read_indices):
            try:
                read(path)
            except DataError as error:
                assert "a.png" in str(error)  # noqa: PT017

    def test_masks_in_colour_are_refused(self, tmp_path):
        path = save(tmp_path / "a.png", noise(4, 4))
        with pytest.raises(DataError, match=r"a\.png holds colours \(mode RGB\)"):
            read_indices(path)

    @pytest.mark.parametrize(
        ("size", "side", "crop_pct", "resized"),
        [  # (height, width); the shorter side is ceil(side / crop_pct), the longer int(...)
            ((375, 500), 224, 0.95, (236, 314)),
            ((500, 375), 224, 0.95, (314, 236)),
            ((500, 333), 224, 1.0, (336, 224)),
            ((64, 64), 48, 0.875, (55, 55)),
            ((30, 41), 32, 1.0, (32, 43)),
        ],
    )
    def test_official_preparation_by_hand(self, size, side, crop_pct, resized):
        picture = Image.fromarray(smooth(*size))
        large = picture.resize(resized[::-1], Image.Resampling.BICUBIC)
        top = round((resized[0] - side) / 2.0)
        left = round((resized[1] - side) / 2.0)
        expected = np.array(large)[top : top + side, left : left + side]
        found = np.array(resize_and_crop(picture, (side, side), crop_pct))
        assert (found == expected).all()

    @given(st.tuples(*[st.integers(1, 90)] * 4), st.sampled_from([0.875, 0.95, 1.0]))
    def test_any_picture_is_cropped_to_any_size_without_a_margin(self, sides, crop_pct):
        picture = Image.new("RGB", sides[:2], "white")
        found = resize_and_crop(picture, sides[2:], crop_pct)
        assert (found.height, found.width) == sides[2:]
        assert np.array(found).min() == 255

    @pytest.mark.parametrize(
        ("size", "channel"),
        [  # OpenCV 5.0.0: cv2.resize(x, size[::-1], interpolation=cv2.INTER_CUBIC)[..., 0]
            (
                (6, 7),
                [
                    [0, 47, 162, 240, 111, 102, 193],
                    [9, 84, 137, 111, 83, 149, 240],
                    [43, 134, 125, 0, 79, 174, 209],
                    [68, 157, 155, 38, 129, 121, 37],
                    [103, 191, 192, 78, 171, 129, 6],
                    [124, 212, 213, 99, 190, 161, 53],
                ],
            ),
            ((2, 3), [[53, 111, 186], [155, 78, 79]]),
        ],
    )
    def test_resizing_is_opencvs(self, size, channel):
        x = (np.arange(60).reshape(4, 5, 3) * 37 % 256).astype(np.uint8)
        found = resize_bicubic(x, size)[..., 0].astype(int)
        assert np.abs(found - channel).max() <= 1

    def test_normalising_by_hand(self):
        x = noise(3, 4)
        found = pictures.normalise(pictures.to_tensor(x), MEAN, STD)
        expected = (x / 255 - np.array(MEAN)) / np.array(STD)
        np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), expected, rtol=1e-5, atol=1e-6)


def class_folders(folder, size=(64, 64), num_classes=3, **options):
    return ClassFolders(folder, Preparation(size, 1.0, NORMALISATION), num_classes, **options)


class TestClassification:
    @pytest.fixture
    def folder(self, tmp_path):
        for name, count in (("b", 2), ("a", 1), ("C", 3)):
            for number in range(count):
                save(tmp_path / "val" / name / f"{number}.JPEG", noise(70, 80, number))
        (tmp_path / "val" / ".hidden").mkdir()
        (tmp_path / "val" / "notes.txt").write_text("")
        (tmp_path / "val" / "a" / "._0.JPEG").write_text("")
        return tmp_path

    def test_classes_are_sorted_names(self, folder):
        for root in (folder, folder / "val"):
            data = class_folders(root)
            assert data.classes == ("C", "a", "b")
            assert [int(label) for _, label in data] == [0, 0, 0, 1, 2, 2]
            assert data[3][0].shape == (3, 64, 64)
            assert not data.is_imagenet

    def test_pictures_are_resized_cropped_and_normalised(self, folder):
        with Image.open(folder / "val" / "a" / "0.JPEG") as file:
            large = np.array(
                file.resize((math.ceil(64 / 70 * 80) - 1, 64), Image.Resampling.BICUBIC)
            )
        x = large[:, 4:68] / 255  # 73 columns; 4.5 is rounded to even
        expected = (x - np.array(MEAN)) / np.array(STD)
        found = class_folders(folder)[3][0].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    def test_another_split(self, folder):
        save(folder / "train" / "a" / "x.png", noise(8, 8))
        assert len(class_folders(folder, num_classes=1, split="train")) == 1
        assert len(class_folders(folder)) == 6

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ([], ["holds no labelled pictures", "DIR/CLASS/PICTURE", "found nothing"]),
            (["x.jpg", "y.jpg"], ["found 2 pictures and no class folders"]),
            (["a/notes.txt"], ["holds no labelled pictures", "found a/"]),
            (["train/a/x.jpg"], ["has no val/", "found train/"]),
            (["val/a/x.jpg", "val/b/x.jpg"], ["2 class folders", "3 classes", "of 2 classes"]),
        ],
    )
    def test_odd_folders(self, tmp_path, files, words):
        for name in files:
            save(tmp_path / name, noise(8, 8)) if name.endswith("jpg") else (
                (tmp_path / name).parent.mkdir(),
                (tmp_path / name).write_text(""),
            )
        with pytest.raises(DataError) as caught:
            class_folders(tmp_path)
        for word in words:
            assert word in str(caught.value)

    def test_a_missing_folder_names_the_nearest(self, tmp_path):
        (tmp_path / "imagenet").mkdir()
        with pytest.raises(DataError, match=r"no folder .*imagnet; did you mean 'imagenet'"):
            class_folders(tmp_path / "imagnet")
        (tmp_path / "file").write_text("")
        with pytest.raises(DataError, match="is a file"):
            class_folders(tmp_path / "file")

    @pytest.mark.parametrize("num_classes", [3, 12])
    def test_accuracy_is_its_definition(self, num_classes):
        generator = torch.Generator().manual_seed(0)
        metric, right = TopAccuracy(), {1: 0, 5: 0}
        for size in (40, 1, 79):
            logits = torch.randn(size, num_classes, generator=generator)
            labels = torch.randint(num_classes, (size,), generator=generator)
            metric.update(logits, labels)
            for scores, label in zip(logits.tolist(), labels.tolist(), strict=True):
                better = sum(score > scores[label] for score in scores)
                for k in right:
                    right[k] += better < k
        found = metric.compute()
        for k, hits in right.items():
            share = hits / 120
            assert found[f"top{k}"] == pytest.approx(100 * share)
            adjusted = (hits + 2) / 124
            assert found[f"top{k}_stderr"] == pytest.approx(
                100 * (adjusted * (1 - adjusted) / 124) ** 0.5
            )
        assert found["top1"] <= found["top5"]


def labelled(folder, resolution=(64, 64), num_classes=19, **options):
    return LabelledPictures(folder, resolution, num_classes, NORMALISATION, **options)


def slow_ious(pairs, num_classes):
    """Sets of pixels, class by class; None where nothing has the class."""
    ious = []
    for c in range(num_classes):
        hits = union = 0
        for said, true in pairs:
            for a, b in zip(said.flatten().tolist(), true.flatten().tolist(), strict=True):
                if b != 255:
                    hits += a == c and b == c
                    union += a == c or b == c
        ious.append(hits / union if union else None)
    return ious


def mean_of(values):
    seen = [value for value in values if value is not None]
    return sum(seen) / len(seen)


class TestSegmentation:
    def cityscapes(self, folder, name="labelIds", ids=None):
        stem = "aachen_000000_000019"
        save(folder / f"leftImg8bit/val/aachen/{stem}_leftImg8bit.png", smooth(40, 80))
        ids = np.arange(40 * 80).reshape(40, 80) % 34 if ids is None else ids
        mask = folder / f"gtFine/val/aachen/{stem}_gtFine_{name}.png"
        save(mask, np.asarray(ids, dtype=np.uint8))
        return mask

    def ade20k(self, folder):
        save(folder / "images/validation/ADE_val_1.jpg", smooth(50, 70))
        ids = np.arange(50 * 70, dtype=np.uint8).reshape(50, 70) % 151
        save(folder / "annotations/validation/ADE_val_1.png", ids)
        return ids

    def test_cityscapes_ids_become_the_19_classes(self, tmp_path):
        self.cityscapes(tmp_path)
        data = labelled(tmp_path, (64, 128))
        picture, mask = data[0]
        assert picture.shape == (3, 64, 128)
        ids = (np.arange(40 * 80).reshape(40, 80) % 34).tolist()
        order = list(CITYSCAPES.values())
        expected = [[order.index(i) if i in order else 255 for i in row] for row in ids]
        assert mask.tolist() == expected
        assert (data.class_names[0], data.class_names[11], data.class_names[18]) == (
            "road",
            "person",
            "bicycle",
        )

    def test_cityscapes_train_ids_are_taken_as_they_are(self, tmp_path):
        self.cityscapes(tmp_path, "labelTrainIds", np.full((40, 80), 255))
        assert (labelled(tmp_path)[0][1] == 255).all()
        mask = self.cityscapes(tmp_path, "labelTrainIds", np.full((40, 80), 18))
        assert (labelled(tmp_path)[0][1] == 18).all()
        self.cityscapes(tmp_path, "labelTrainIds", np.full((40, 80), 19))
        with pytest.raises(DataError, match=r"labelTrainIds\.png holds label 19, of 19 classes"):
            labelled(tmp_path)[0]
        mask.unlink()
        with pytest.raises(
            DataError, match=r"aachen_000000_000019 has no mask: .*labelIds.*missing"
        ):
            labelled(tmp_path)

    def test_ade20k_starts_at_one(self, tmp_path):
        ids = self.ade20k(tmp_path)
        picture, mask = labelled(tmp_path, (64, 64), 150)[0]
        assert picture.shape == (3, 64, 96)  # 70 / 50 * 64 = 89.6
        assert (mask[torch.from_numpy(ids == 0)] == 255).all()
        assert (mask.numpy()[ids > 0] == ids[ids > 0] - 1).all()
        save(tmp_path / "annotations/validation/ADE_val_1.png", np.full((50, 70), 151, np.uint8))
        with pytest.raises(
            DataError, match=r"holds label 151, of 150 classes; labels are 1 and up"
        ):
            labelled(tmp_path, (64, 64), 150)[0]

    def test_the_picture_is_resized_as_opencv_does_and_the_mask_is_not(self, tmp_path):
        self.ade20k(tmp_path)
        path = tmp_path / "images/validation/ADE_val_1.jpg"
        x = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None].float()
        x = torch.nn.functional.interpolate(x, (64, 96), mode="bicubic").round().clamp(0, 255)
        x = (x[0] / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        picture, mask = labelled(tmp_path, (64, 64), 150)[0]
        torch.testing.assert_close(picture, x)
        assert mask.shape == (50, 70)

    @pytest.mark.parametrize("kind", ["P", "L", "I;16"])
    def test_own_folders_with_masks_of_indices(self, tmp_path, kind):
        indices = np.array([[0, 1, 2], [2, 255, 0]])
        mask = Image.fromarray(indices.astype(np.uint16 if kind == "I;16" else np.uint8))
        if kind == "P":
            mask = mask.convert("P")
            mask.putpalette(list(range(255, -1, -1)) * 3)
        save(tmp_path / "images/sub/x.jpeg", noise(2, 3))
        save(tmp_path / "masks/sub/x.png", mask)
        assert labelled(tmp_path, num_classes=3)[0][1].tolist() == indices.tolist()
        with pytest.raises(DataError, match="holds label 2, of 2 classes"):
            labelled(tmp_path, num_classes=2)[0]

    def test_values_beyond_a_byte_are_no_labels(self):
        with pytest.raises(DataError, match="label 300, of 19"):
            to_classes(np.array([[3, 300]]), "folder", Path("m.png"), 19)

    @pytest.mark.parametrize(
        ("files", "words"),
        [
            ({}, ["no known layout", "found nothing", "images/ with masks/"]),
            ({"a.png": (4, 4)}, ["no known layout", "found a.png"]),
            (
                {"images/a.png": (4, 4), "masks/b.png": (4, 4)},
                ["a.png has no mask", "a.png is miss"],
            ),
            ({"images/t.txt": None, "masks/b.png": (4, 4)}, ["holds no pictures", "found images/"]),
            ({"images/a.png": (4, 4), "masks/a.png": (4, 5)}, ["is 4x4", "its labels are 4x5"]),
            ({"images/a.png": (4, 4), "annotations/a.png": (4, 4)}, ["images/validation is miss"]),
            (
                {"leftImg8bit/val/x/a.png": (4, 4), "gtFine/val/x/a.png": (4, 4)},
                ["holds no pictures", "*_leftImg8bit.png"],
            ),
        ],
    )
    def test_odd_folders(self, tmp_path, files, words):
        for name, size in files.items():
            if size is None:
                (tmp_path / name).parent.mkdir()
                (tmp_path / name).write_text("")
            else:
                save(tmp_path / name, np.zeros(size, dtype=np.uint8))
        with pytest.raises(DataError) as caught:
            labelled(tmp_path)[0]
        for word in words:
            assert word in str(caught.value)

    def test_a_network_for_another_number_of_classes(self, tmp_path):
        self.ade20k(tmp_path)
        with pytest.raises(DataError, match="150 classes, the network tells 19 apart"):
            labelled(tmp_path)

    @given(st.integers(30, 900), st.integers(30, 900), st.sampled_from([384, 480, 512]))
    def test_sizes_are_the_official_ones(self, h, w, crop_size):
        if h < w:
            th, tw = crop_size, math.ceil(w / h * crop_size / 32) * 32
        else:
            th, tw = math.ceil(h / w * crop_size / 32) * 32, crop_size
        assert input_size((h, w), (crop_size, crop_size)) == (th, tw)
        assert input_size((h, w), (1024, 2048)) == (1024, 2048)

    def test_logits_are_enlarged_before_they_are_compared(self):
        logits = torch.randn(5, 4, 6, generator=torch.Generator().manual_seed(0))
        large = torch.nn.functional.interpolate(logits[None], (30, 47), mode="bicubic")[0]
        assert torch.equal(classes_of(logits, (30, 47)), large.argmax(0))
        assert torch.equal(classes_of(logits, (4, 6)), logits.argmax(0))
        assert not torch.equal(
            classes_of(logits, (8, 12)),
            logits.argmax(0).repeat_interleave(2, 0).repeat_interleave(2, 1),
        )

    def test_large_masks_are_compared_in_parts(self, monkeypatch):
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(2, 20, 7, 9, generator=generator)
        masks = torch.randint(0, 21, (2, 61, 50), generator=generator).to(torch.int16)
        masks[masks == 20] = 255
        metrics = []
        for large in (2**24, 1000):
            monkeypatch.setattr("supernet.tasks.segmentation.LARGE", large)
            metrics.append(MeanIoU(list(map(str, range(20)))))
            metrics[-1].update(logits, masks)
        assert torch.equal(metrics[0].confusion, metrics[1].confusion)
        assert metrics[0].compute() == metrics[1].compute()

    def test_a_hand_counted_matrix(self):
        metric = MeanIoU(["road", "traffic light", "sky", "never"])
        metric.update_classes(torch.tensor([[0, 0, 1, 2]]), torch.tensor([[0, 0, 1, 255]]))
        metric.update_classes(torch.tensor([[1, 0], [0, 0]]), torch.tensor([[0, 0], [0, 0]]))
        assert metric.confusion.tolist() == [[5, 1, 0, 0], [0, 1, 0, 0], [0] * 4, [0] * 4]
        found = metric.compute()
        assert found["iou_road"] == pytest.approx(100 * 5 / 6)
        assert found["iou_traffic_light"] == pytest.approx(100 * 1 / 2)
        assert found["miou"] == pytest.approx(100 * (5 / 6 + 1 / 2) / 2)
        assert found["pixel_accuracy"] == pytest.approx(100 * 6 / 7)
        assert "iou_sky" not in found
        assert "iou_never" not in found

    @settings(max_examples=25, deadline=None)
    @given(st.integers(0, 10**6), st.integers(2, 4), st.integers(2, 5))
    def test_metric_is_its_definition(self, seed, num_classes, pictures_):
        rng = np.random.default_rng(seed)
        metric, pairs = MeanIoU(list(map(str, range(num_classes)))), []
        for _ in range(pictures_):
            size = tuple(rng.integers(1, 6, 2))
            said, true = rng.integers(0, num_classes, (2, *size))
            true[rng.random(size) < 0.2] = 255
            true.flat[0] = said.flat[0]  # at least one labelled pixel
            pairs.append((said, true))
            logits = torch.nn.functional.one_hot(torch.from_numpy(said), num_classes)
            metric.update(logits.permute(2, 0, 1)[None].half(), torch.from_numpy(true)[None])
        found = metric.compute()
        ious = slow_ious(pairs, num_classes)
        assert found["miou"] == pytest.approx(100 * mean_of(ious))
        assert [found.get(f"iou_{c}") for c in range(num_classes)] == [
            None if value is None else pytest.approx(100 * value) for value in ious
        ]
        without = [
            mean_of(slow_ious(pairs[:i] + pairs[i + 1 :], num_classes)) for i in range(len(pairs))
        ]
        variance = (
            (len(pairs) - 1)
            / len(pairs)
            * sum((x - sum(without) / len(without)) ** 2 for x in without)
        )
        assert found["miou_stderr"] == pytest.approx(100 * variance**0.5, abs=1e-9)

    def test_masks_without_a_label_measure_nothing(self):
        metric = MeanIoU(["a", "b"])
        metric.update_classes(torch.zeros(2, 2, dtype=torch.int64), torch.full((2, 2), 255))
        with pytest.raises(DataError, match="no pixel of 1 masks has a label"):
            metric.compute()


class TestSuperResolution:
    def test_small_pictures_are_made_by_pillow_from_whole_multiples(self, tmp_path):
        save(tmp_path / "a/b/x.png", smooth(61, 83))
        small, large = LargePictures(tmp_path, 4)[0]
        assert large.shape == (3, 60, 80)
        assert (large.permute(1, 2, 0).numpy() == smooth(61, 83)[:60, :80]).all()
        expected = Image.fromarray(smooth(61, 83)[:60, :80]).resize(
            (20, 15), Image.Resampling.BICUBIC
        )
        np.testing.assert_allclose(
            small.permute(1, 2, 0).numpy(), np.array(expected) / 255, rtol=1e-6
        )

    def test_reduction_averages_and_does_not_skip(self):
        stripes = np.zeros((32, 32, 3), dtype=np.uint8)
        stripes[:, ::2] = 255
        inner = np.array(reduce(Image.fromarray(stripes), 2))[4:-4, 4:-4]
        assert np.abs(inner.astype(int) - 127).max() <= 2

    def test_div2k_gives_its_validation_pictures(self, tmp_path):
        save(tmp_path / "DIV2K_valid_HR/0801.png", smooth(30, 30))
        save(tmp_path / "DIV2K_train_HR/0001.png", smooth(30, 30))
        assert [p.name for p in LargePictures(tmp_path, 2).samples] == ["0801.png"]
        assert [p.name for p in LargePictures(tmp_path, 2, split="train").samples] == ["0001.png"]

    def test_odd_folders(self, tmp_path):
        with pytest.raises(DataError, match="holds no pictures; expected large pictures"):
            LargePictures(tmp_path, 2)
        save(tmp_path / "x.png", noise(40, 18))
        with pytest.raises(DataError, match=r"x\.png is too small: 40x16, and 19 pixels a side"):
            LargePictures(tmp_path, 4)[0]

    def test_luma_is_scikit_images(self):
        x = noise(20, 30)
        found = luma(torch.from_numpy(x).permute(2, 0, 1))
        np.testing.assert_allclose(found.numpy(), rgb2ycbcr(x)[..., 0], atol=1e-9)

    @pytest.mark.parametrize("size", [(11, 11), (40, 57)])
    def test_psnr_and_ssim_are_scikit_images(self, size):
        a, b = (rgb2ycbcr(smooth(size[0], size[1], seed))[..., 0] for seed in (0, 3))
        b = 0.8 * a + 0.2 * b
        x, y = (torch.from_numpy(plane)[None] for plane in (a, b))
        expected = peak_signal_noise_ratio(a, b, data_range=255)
        assert psnr(x, y).item() == pytest.approx(expected, rel=1e-12)
        expected = structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
        )
        assert ssim(x, y).item() == pytest.approx(expected, rel=1e-9)

    def test_metric_by_hand(self):
        metric, found = Likeness(3), []
        for seed in range(3):
            true = smooth(36, 45, seed)
            said = true / 255 + np.random.default_rng(seed).normal(0, 0.05, true.shape)
            metric.update(
                torch.from_numpy(said).permute(2, 0, 1)[None].float(),
                torch.from_numpy(true).permute(2, 0, 1)[None],
            )
            rounded = (said.astype(np.float32).clip(0, 1) * 255).round()
            a, b = (rgb2ycbcr(x.astype(np.uint8))[3:-3, 3:-3, 0] for x in (true, rounded))
            found.append(peak_signal_noise_ratio(a, b, data_range=255))
        result = metric.compute()
        assert result["psnr_db"] == pytest.approx(np.mean(found), rel=1e-9)
        assert result["psnr_db_stderr"] == pytest.approx(np.std(found, ddof=1) / 3**0.5)
        assert 0 < result["ssim"] < 1

    def test_equal_pictures_have_a_finite_figure(self):
        metric = Likeness(2)
        x = torch.from_numpy(noise(20, 20)).permute(2, 0, 1)[None]
        metric.update(x / 255, x)
        assert metric.compute() == {"psnr_db": 100.0, "ssim": pytest.approx(1)}
        with pytest.raises(ValueError, match="is compared with"):
            metric.update(x[..., 1:] / 255, x)


class BoxFiller:
    """Fills the box, less `margin` on the left; of three masks the middle one scores best."""

    def __init__(self, margin=0):
        self.margin = margin

    def set_image(self, image):
        self.size = image.shape[:2]

    def predict(self, *, box, multimask):
        x0, y0, x1, y1 = np.asarray(box).astype(int)
        masks = np.zeros((3, *self.size), dtype=bool)
        masks[0] = True
        masks[1, y0:y1, x0 + self.margin : x1] = True
        assert multimask
        self.masks, self.scores = masks, np.array([0.1, 0.9, 0.3], dtype=np.float32)
        return self


def rectangle(x0, y0, x1, y1, size=(60, 90)):
    mask = np.zeros(size, dtype=bool)
    mask[y0:y1, x0:x1] = True
    return mask


def sa1b(folder, masks, name="sa_1", size=(60, 90), **fields):
    save(folder / f"{name}.jpg", noise(*size))
    annotations = [
        {"id": i, "segmentation": encode(mask), "area": int(mask.sum()), **fields}
        for i, mask in enumerate(masks)
    ]
    (folder / f"{name}.json").write_text(json.dumps({"image": {}, "annotations": annotations}))


def coco(folder, annotations, name="instances_val2017"):
    save(folder / "val2017/0001.jpg", noise(60, 90))
    path = folder / "annotations" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    for annotation in annotations:
        annotation["image_id"] = 7
    images = [{"id": 7, "file_name": "0001.jpg"}]
    path.write_text(json.dumps({"images": images, "annotations": annotations}))


class TestPromptable:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 10**6))
    def test_polygons_are_filled_where_matplotlib_says(self, seed):
        rng = np.random.default_rng(seed)
        h, w = (int(n) for n in rng.integers(5, 40, 2))
        angles = np.sort(rng.random(int(rng.integers(3, 12)))) * 2 * np.pi
        radii = 0.2 + 0.5 * rng.random(len(angles))  # beyond the picture, too
        corners = np.stack(
            [w * (0.5 + radii * np.cos(angles)), h * (0.5 + radii * np.sin(angles))], axis=1
        )
        rows, columns = np.mgrid[:h, :w] + 0.5
        centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
        inside = Outline(np.vstack([corners, corners[:1]])).contains_points(centres)
        assert (fill_polygons([corners.ravel()], (h, w)) == inside.reshape(h, w)).all()

    def test_polygons_by_hand(self):
        square = [2, 1, 5, 1, 5, 4, 2, 4]
        assert (fill_polygons([square], (6, 8)) == rectangle(2, 1, 5, 4, (6, 8))).all()
        two = fill_polygons([square, [4, 3, 7, 3, 7, 6, 4, 6]], (6, 8))
        assert two.sum() == 9 + 9 - 1
        # pycocotools 2.0.11 counts 108 pixels
        odd = fill_polygons([[3.2, 1.1, 17.6, 4.3, 12.4, 13.8, 5.5, 11.2]], (16, 20))
        assert abs(int(odd.sum()) - 108) <= 2
        for wrong in ([1, 2, 3, 4], [1, 2, 3, 4, 5, 6, 7], [1, 2, 3, 4, math.nan, 6]):
            with pytest.raises(ValueError, match="even number of coordinates"):
                fill_polygons([wrong], (6, 8))

    @pytest.mark.parametrize("official", [False, True])
    def test_sa1b(self, tmp_path, official):
        masks = [rectangle(5, 6, 30, 20), rectangle(40, 30, 90, 60) ^ rectangle(50, 40, 60, 50)]
        boxes = [(5, 6, 30, 20), (40, 30, 90, 60)]
        sa1b(tmp_path, masks)
        file = tmp_path / "sa_1.json"
        data = json.loads(file.read_text())
        for annotation, (x0, y0, x1, y1) in zip(data["annotations"], boxes, strict=True):
            annotation["bbox"] = [x0, y0, x1 - x0 - 1, y1 - y0 - 1]  # to the last pixel, as there
        file.write_text(json.dumps(data))
        if official:  # images/ and masks/, as the official training code has it
            for name, file in (("images", "sa_1.jpg"), ("masks", "sa_1.json")):
                (tmp_path / name).mkdir()
                (tmp_path / file).rename(tmp_path / name / file)
        data = AnnotatedPictures(tmp_path)
        assert data.layout == "sa1b"
        picture = data[0]
        assert picture.pixels.shape == (60, 90, 3)
        found = [instance.box for instance in picture.instances]
        assert found == [(x0, y0, x1 - 1, y1 - 1) for x0, y0, x1, y1 in boxes]
        for instance, mask in zip(picture.instances, masks, strict=True):
            assert (instance.decode() == mask).all()
            assert instance.area == mask.sum()

    def test_coco_with_polygons_and_run_lengths(self, tmp_path):
        mask = rectangle(3, 4, 9, 10)
        coco(
            tmp_path,
            [
                {"id": 1, "segmentation": [[3, 4, 9, 4, 9, 10, 3, 10]], "bbox": [3, 4, 6, 6]},
                {"id": 2, "segmentation": encode(mask, compressed=False), "area": 36, "iscrowd": 1},
                {"id": 3, "segmentation": [[0, 0, 1, 1, 2, 0]], "area": 0.4, "bbox": [0, 0, 2, 1]},
            ],
        )
        (tmp_path / "annotations/captions_val2017.json").write_text("{}")
        (tmp_path / "annotations/instances_train2017.json").write_text("{}")
        data = AnnotatedPictures(tmp_path)
        assert data.layout == "coco"
        instances = data[0].instances
        assert len(instances) == 2  # the third has less than a pixel
        for instance in instances:
            assert instance.box == (3, 4, 9, 10)
            assert instance.area == 36
            assert (instance.decode() == mask).all()

    def test_numbered_masks(self, tmp_path):
        numbers = (rectangle(5, 6, 30, 20) * 2 + rectangle(40, 30, 80, 55) * 700).astype(np.uint16)
        save(tmp_path / "images/x.jpg", noise(60, 90))
        save(tmp_path / "masks/x.png", numbers)
        (picture,) = (AnnotatedPictures(tmp_path)[0],)
        assert [i.box for i in picture.instances] == [(5, 6, 30, 20), (40, 30, 80, 55)]
        assert [i.area for i in picture.instances] == [25 * 14, 40 * 25]
        assert (picture.instances[1].decode() == (numbers == 700)).all()

    def test_iou_of_boxes_by_hand(self, tmp_path):
        masks = [[rectangle(5, 6, 25, 16), rectangle(40, 10, 90, 60)], [rectangle(0, 0, 80, 50)]]
        for number, of_picture in enumerate(masks):
            sa1b(tmp_path, of_picture, f"sa_{number}")
        data, metric = AnnotatedPictures(tmp_path), BoxIoU()
        for picture in (data[0], data[1]):
            metric.update(BoxFiller(margin=10), picture)
        found = metric.compute()
        ious = [10 / 20, 40 / 50, 70 / 80]
        assert found["miou"] == pytest.approx(100 * sum(ious) / 3)
        assert found["miou_small"] == pytest.approx(50)
        assert found["miou_medium"] == pytest.approx(100 * (0.8 + 0.875) / 2)
        assert "miou_large" not in found
        assert (found["objects"], found["objects_small"]) == (3, 1)
        mean = sum(ious) / 3  # the ratio of two sums over two pictures
        residuals = (ious[0] + ious[1] - 2 * mean) ** 2 + (ious[2] - mean) ** 2
        assert found["miou_stderr"] == pytest.approx(100 * (2 * residuals) ** 0.5 / 3)
        assert "miou_small_stderr" not in found

    @pytest.mark.parametrize(
        ("sides", "name"),
        [((31, 33), "small"), ((32, 32), "medium"), ((95, 97), "medium"), ((96, 96), "large")],
    )
    def test_sizes_are_cocos(self, tmp_path, sides, name):
        sa1b(tmp_path, [rectangle(0, 0, sides[0], sides[1], (100, 100))], size=(100, 100))
        metric = BoxIoU()
        metric.update(BoxFiller(), AnnotatedPictures(tmp_path)[0])
        assert metric.compute() == {
            "miou": 100,
            "objects": 1,
            f"miou_{name}": 100,
            f"objects_{name}": 1,
        }

    def test_one_object_a_picture_has_the_standard_error_of_a_mean(self, tmp_path):
        for number in range(4):
            sa1b(tmp_path, [rectangle(0, 0, 30 + 10 * number, 50)], f"sa_{number}")
        metric = BoxIoU()
        for picture in map(AnnotatedPictures(tmp_path).__getitem__, range(4)):
            metric.update(BoxFiller(margin=10), picture)
        ious = [1 - 10 / (30 + 10 * n) for n in range(4)]
        expected = 100 * np.std(ious, ddof=1) / 2
        assert metric.compute()["miou_stderr"] == pytest.approx(expected)

    def test_nothing_to_segment(self, tmp_path):
        sa1b(tmp_path, [])
        metric = BoxIoU()
        metric.update(BoxFiller(), AnnotatedPictures(tmp_path)[0])
        with pytest.raises(DataError, match="none of 1 pictures has an object"):
            metric.compute()

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"segmentation": {"size": [60, 90], "counts": [1]}}, "annotation 0 is damaged"),
            ({"segmentation": {"size": [60, 90]}}, "annotation 0 is damaged"),
            ({"segmentation": 3}, "annotation 0 is damaged"),
            ({"segmentation": []}, "it has no segmentation"),
            ({"segmentation": [[1, 2]]}, "a polygon has an even number"),
            ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "a polygon has an even number"),
            ({"segmentation": [[1, 2, 3, 4, 5, math.nan]]}, "annotation 0 is damaged"),
            ({"segmentation": [[100, 2, 110, 2, 110, 9]]}, "outside the picture"),
            (
                {"segmentation": {"size": [9, 9], "counts": [81]}},
                r"a mask of \(9, 9\) on a picture",
            ),
            ({"bbox": [1, 2, 3]}, "bbox"),
            ({"bbox": [1, 2, -3, 4]}, "bbox is"),
            ({"bbox": [100, 2, 3, 4]}, "not around its mask"),
            ({"bbox": ["a", 2, 3, 4]}, "bbox"),
            ({"area": "big"}, "area"),
        ],
    )
    def test_a_damaged_annotation_is_left_out_and_counted(self, tmp_path, fields, words):
        sa1b(tmp_path, [rectangle(1, 2, 3, 4)], **fields)
        metric = BoxIoU()
        metric.update(BoxFiller(), AnnotatedPictures(tmp_path)[0])
        with pytest.raises(DataError, match=f"has an object; 1 are damaged, .*{words}") as caught:
            metric.compute()
        assert "sa_1" in str(caught.value)
        sa1b(tmp_path, [rectangle(1, 2, 43, 34)], "sa_2")
        metric.update(BoxFiller(), AnnotatedPictures(tmp_path)[1])
        found = metric.compute()
        assert (found["miou"], found["objects"], found["objects_damaged"]) == (100, 1, 1)

    def test_annotations_that_are_no_objects(self, tmp_path):
        sa1b(tmp_path, [])
        for text, words in (
            ("[]", r"sa_1\.json: damaged, or of another layout"),
            ('{"annotations": 3}', "another layout"),
            ("{", "not JSON"),
        ):
            (tmp_path / "sa_1.json").write_text(text)
            with pytest.raises(DataError, match=words):
                AnnotatedPictures(tmp_path)[0]
        (tmp_path / "sa_1.json").write_text('{"annotations": [3]}')
        assert "annotation ? is damaged" in AnnotatedPictures(tmp_path)[0].damaged[0]
        (tmp_path / "sa_1.json").unlink()
        with pytest.raises(DataError, match=r"has no annotations: .*sa_1\.json is missing"):
            AnnotatedPictures(tmp_path)

    def test_odd_coco_folders(self, tmp_path):
        with pytest.raises(DataError, match="no known layout"):
            AnnotatedPictures(tmp_path)
        (tmp_path / "annotations").mkdir()
        with pytest.raises(DataError, match=r"must hold one instances_val.*found nothing"):
            AnnotatedPictures(tmp_path)
        coco(tmp_path, [])
        (tmp_path / "val2017/0001.jpg").unlink()
        with pytest.raises(DataError, match=r"names picture 0001\.jpg, which is in none of"):
            AnnotatedPictures(tmp_path)
        (tmp_path / "annotations/instances_val2017.json").write_text('{"images": [{}]}')
        with pytest.raises(DataError, match=r"val2017\.json: damaged, or of another layout"):
            AnnotatedPictures(tmp_path)

    def test_boxes_around_masks(self):
        assert box_of(rectangle(3, 4, 9, 10)) == (3, 4, 9, 10)


class TestLoop:
    class Numbers(torch.utils.data.Dataset[tuple[torch.Tensor, torch.Tensor]]):
        """Ones of several shapes, times the index; a damaged one at `damaged`."""

        def __init__(self, damaged=None):
            self.damaged = damaged

        def __len__(self):
            return 7

        def __getitem__(self, index):
            if index == self.damaged:
                raise DataError(f"picture {index} is damaged")
            return torch.full((1, 2 + index // 3), float(index)), torch.tensor(index)

    class Gathered:
        def __init__(self):
            self.outputs, self.targets = [], []

        def update(self, output, target):
            self.outputs.append(output)
            self.targets += target.tolist()

    @forks
    def test_processes_change_nothing(self):
        read = [
            [[(x.tolist(), y.item()) for x, y in batch] for batch in batches]
            for batches in (
                read_batches(self.Numbers(), batch_size=2, workers=workers)
                for workers in (0, 2, None)
            )
        ]
        assert read[0] == read[1] == read[2]
        assert [len(batch) for batch in read[0]] == [2, 2, 2, 1]
        assert [y for batch in read[0] for _, y in batch] == list(range(7))

    @pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
    def test_few_files_may_be_open(self):
        code = """
import resource, torch
from supernet.tasks.loop import read_batches
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 128))
class Pictures(torch.utils.data.Dataset):
    def __len__(self):
        return 900
    def __getitem__(self, index):
        return torch.full((3, 2), float(index)), torch.tensor(index)
batches = list(read_batches(Pictures(), batch_size=300, workers=1))
assert [len(batch) for batch in batches] == [300] * 3
found = [(float(x.mean()), int(y)) for batch in batches for x, y in batch]
assert found == [(float(i), i) for i in range(900)], found[:5]
"""
        command = [sys.executable, "-W", "ignore", "-c", code]
        subprocess.run(command, cwd=ROOT, check=True, timeout=120)

    def test_pictures_for_statistics_are_read_by_as_many_processes(self, monkeypatch):
        asked = []

        def reading(data, **settings):
            asked.append(settings["workers"])
            return read_batches(data, **settings)

        monkeypatch.setattr("supernet.tasks.task.read_batches", reading)
        task = training_task(TaskOptions("classification", num_train=8))
        arch = get_space("tiny", num_classes=12).sample(random.Random(0))
        assert len(list(task.recalibration_batches(arch, 4, 2, 0, 0))) == 2
        assert asked == [0]

    @forks
    @pytest.mark.parametrize("workers", [0, 2])
    def test_errors_stay_one_line(self, workers):
        with pytest.raises(DataError) as caught:
            list(read_batches(self.Numbers(damaged=4), batch_size=2, workers=workers))
        assert str(caught.value) == "picture 4 is damaged"

    def run(self, forward, metric, *, dtype=torch.float32, done=print):
        batches = read_batches(self.Numbers(), batch_size=4, workers=0)
        device = torch.device("cpu")
        evaluate(forward, batches, metric, device=device, dtype=dtype, done=done)

    def test_pictures_of_one_shape_run_together(self):
        metric, shapes = self.Gathered(), []
        counts: list[int] = []

        def forward(x):
            shapes.append(tuple(x.shape))
            assert x.dtype == torch.float16
            return 2 * x

        self.run(forward, metric, dtype=torch.float16, done=counts.append)
        assert shapes == [(3, 1, 2), (1, 1, 3), (2, 1, 3), (1, 1, 4)]
        assert metric.targets == list(range(7))
        assert [x for o in metric.outputs for x in o[:, 0, 0].tolist()] == [2 * i for i in range(7)]
        assert {o.dtype for o in metric.outputs} == {torch.float32}
        assert counts == [4, 7]

    def test_what_is_not_finite_ends_it(self):
        with pytest.raises(UserError, match=r"not finite in torch.float32 for pictures 4 to 4"):
            self.run(lambda x: x / (x - 3), self.Gathered())


@pytest.mark.parametrize(
    ("cores", "workers", "environment", "expected"),
    [
        (4, None, {}, 3),
        (2, 2, {}, 1),
        (1, None, {}, 1),
        (8, None, {}, 4),  # never more than there are
        (2, 0, {}, 4),
        (2, None, {"OMP_NUM_THREADS": "4"}, 4),
    ],
)
def test_a_core_is_left_to_the_processes_that_read(
    monkeypatch, cores, workers, environment, expected
):
    monkeypatch.delenv("OMP_NUM_THREADS")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(loop, "num_cores", lambda: cores)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with core_for_readers(workers):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
