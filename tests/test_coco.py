"""COCO's and SA-1B's annotations: turned pictures, sizes, ids, damage, and places of pictures."""

import json
import os
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from results.errors import DataError
from supernet.evaluation.folders import open_data
from supernet.official import named_arch
from supernet.rle import decode, encode
from supernet.tasks import annotated_pictures
from supernet.tasks.annotated_pictures import AnnotatedPictures
from supernet.tasks.options import TaskOptions
from supernet.tasks.promptable import BoxIoU, PromptableTask
from supernet.weights.header import read_header
from tests.conftest import ROOT
from tests.test_tasks import BoxFiller, noise, save

H, W = 40, 80  # of the picture as it is stored
Y0, X0, Y1, X1 = 5, 50, 15, 70  # of the object there
YELLOW = (250, 240, 30)


def turned(path, orientation):
    """A grey picture with a yellow object, tagged as a camera held sideways does."""
    pixels = np.full((H, W, 3), 40, np.uint8)
    pixels[Y0:Y1, X0:X1] = YELLOW
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(path, pixels, exif=exif)


def mask_upright(orientation):
    """Of the object, by Pillow's own turning."""
    mask = np.zeros((H, W), np.uint8)
    mask[Y0:Y1, X0:X1] = 255
    steps = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    steps |= {6: "ROTATE_270", 7: "TRANSVERSE", 8: "ROTATE_90"}
    image = Image.fromarray(mask)
    if orientation > 1:
        image = image.transpose(Image.Transpose[steps[orientation]])
    return np.asarray(image) > 0


def annotation(mask, kind="polygon", **fields):
    """Of a mask that is a rectangle."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    x0, y0, x1, y1 = (int(n) for n in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    drawn = [[x0, y0, x1, y0, x1, y1, x0, y1]] if kind == "polygon" else encode(mask)
    return {
        "id": 1,
        "image_id": 1,
        "segmentation": drawn,
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": int(mask.sum()),
    } | fields


def write(folder, annotations, *, images=None, name="a.png", size=None, text=None):
    image = {"id": 1, "file_name": name}
    if size is not None:
        image |= {"height": size[0], "width": size[1]}
    path = folder / "annotations" / "instances_val.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    data = {"images": images or [image], "annotations": annotations}
    path.write_text(text if text is not None else json.dumps(data))
    return path


def is_yellow(picture):
    return np.abs(picture.pixels.astype(int) - YELLOW).max(-1) < 30


class TestTurned:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("side", ["stored", "upright"])
    @pytest.mark.parametrize("kind", ["polygon", "run lengths"])
    def test_objects_lie_where_they_were_drawn(self, tmp_path, orientation, side, kind):
        turned(tmp_path / "images" / "a.png", orientation)
        mask = mask_upright(1 if side == "stored" else orientation)
        write(tmp_path, [annotation(mask, kind)], size=mask.shape)
        picture = AnnotatedPictures(tmp_path)[0]
        tells = mask_upright(orientation).shape != (H, W)
        assert picture.is_assumed == (orientation > 1 and not tells)
        if side == "stored" and not tells and orientation > 1:
            return  # nothing tells: that is said
        (instance,) = picture.instances
        assert (instance.decode() == is_yellow(picture)).all()
        x0, y0, x1, y1 = (int(n) for n in instance.box)
        assert is_yellow(picture)[y0:y1, x0:x1].all()
        assert picture.damaged == ()

    @pytest.mark.parametrize("told", [{"width": W, "height": H}, {"width": str(W), "height": 40.0}])
    def test_sizes_as_tools_write_them(self, tmp_path, told):
        turned(tmp_path / "images" / "a.png", 6)
        image = {"id": 1, "file_name": "a.png", **told}
        write(tmp_path, [annotation(mask_upright(1))], images=[image])
        picture = AnnotatedPictures(tmp_path)[0]
        assert picture.pixels.shape[:2] == (H, W)

    @pytest.mark.parametrize("told", [0, -1, None, [], 40.5, 10**9, 10**400, "nan", "inf", "wide"])
    def test_sizes_that_are_none_are_not_told(self, tmp_path, told):
        turned(tmp_path / "images" / "a.png", 6)
        image = {"id": 1, "file_name": "a.png", "width": told, "height": told}
        write(tmp_path, [annotation(mask_upright(6))], images=[image])
        data = AnnotatedPictures(tmp_path)
        assert data.notes == ()
        (instance,) = data[0].instances
        assert (instance.decode() == is_yellow(data[0])).all()
        assert data[0].is_assumed

    def test_polygons_go_where_run_lengths_tell(self, tmp_path):
        turned(tmp_path / "images" / "a.png", 8)
        both = [annotation(mask_upright(1)), annotation(mask_upright(1), "run lengths", id=2)]
        write(tmp_path, both)
        picture = AnnotatedPictures(tmp_path)[0]
        assert len(picture.instances) == 2
        assert all((i.decode() == is_yellow(picture)).all() for i in picture.instances)

    @pytest.mark.parametrize("orientation", [3, 6])
    def test_what_is_assumed_is_counted(self, tmp_path, orientation):
        turned(tmp_path / "images" / "a.png", orientation)
        write(tmp_path, [annotation(mask_upright(orientation))])
        metric = BoxIoU()
        metric.update(BoxFiller(), AnnotatedPictures(tmp_path)[0])
        found = metric.compute()
        assert (found["miou"], found["objects_assumed_upright"]) == (100, 1)

    def test_sa1b(self, tmp_path):
        mask = mask_upright(1)
        turned(tmp_path / "sa_1.png", 6)
        data = {"image": {"width": W, "height": H}, "annotations": [annotation(mask)]}
        (tmp_path / "sa_1.json").write_text(json.dumps(data))
        picture = AnnotatedPictures(tmp_path)[0]
        assert (picture.instances[0].decode() == is_yellow(picture)).all()


class TestSizes:
    def test_a_picture_that_was_resized_is_left_out_and_counted(self, tmp_path):
        mask = mask_upright(1)
        for name in "ab":
            turned(tmp_path / "images" / f"{name}.png", 1)
        sizes = {1: (H, W), 2: (2 * H, 2 * W)}
        images = [
            {"id": n, "file_name": f"{'_ab'[n]}.png", "height": size[0], "width": size[1]}
            for n, size in sizes.items()
        ]
        write(tmp_path, [annotation(mask, image_id=n) for n in sizes], images=images)
        metric, data = BoxIoU(), AnnotatedPictures(tmp_path)
        metric.update(BoxFiller(), data[1])
        with pytest.raises(DataError, match=r"1 are damaged, .*is 40x80 .*, its labels are 80x160"):
            metric.compute()
        metric.update(BoxFiller(), data[0])
        found = metric.compute()
        assert (found["objects"], found["objects_damaged"]) == (1, 1)

    def test_polygons_of_another_size_than_fitting_run_lengths_cost_themselves(self, tmp_path):
        turned(tmp_path / "images" / "a.png", 1)
        both = [annotation(mask_upright(1)), annotation(mask_upright(1), "run lengths", id=2)]
        write(tmp_path, both, size=(2 * H, 2 * W))
        picture = AnnotatedPictures(tmp_path)[0]
        assert len(picture.instances) == 1
        (told,) = picture.damaged
        assert "annotation 1 is damaged: made on a picture of (80, 160), and this is (40" in told

    @pytest.mark.parametrize("told", [0, 0.0, -1, None])
    def test_an_area_that_is_not_told_is_that_of_the_mask(self, tmp_path, told):
        turned(tmp_path / "images" / "a.png", 1)
        mask = mask_upright(1)
        write(tmp_path, [annotation(mask, area=told), annotation(mask, area=7)], size=(H, W))
        picture = AnnotatedPictures(tmp_path)[0]
        assert [instance.area for instance in picture.instances] == [mask.sum(), 7]

    def test_run_lengths_of_another_size_cost_one_object(self, tmp_path):
        turned(tmp_path / "images" / "a.png", 1)
        other = {"size": [100_000, 100_000], "counts": [10**10]}
        bad = annotation(mask_upright(1), segmentation=other)
        write(tmp_path, [bad, annotation(mask_upright(1))], size=(H, W))
        data = AnnotatedPictures(tmp_path)
        assert "1 of 2 objects are damaged" in data.notes[0]
        assert len(data[0].instances) == 1
        with pytest.raises(DataError, match="larger than any picture"):
            decode(other)


GOOD = annotation(mask_upright(1), id=2)
BAD = {
    "odd polygon": {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
    "no polygon": {"segmentation": []},
    "text": {"segmentation": [["1", 2, 3, 4, 5, 6]]},
    "flat": {"segmentation": [1, 2, 3, 4, 5, 6]},
    "outside": {"segmentation": [[200, 5, 220, 5, 220, 15]]},
    "not a number": {"segmentation": [[1, 2, float("nan"), 4, 5, 6]]},
    "infinite box": {"bbox": [float("inf"), 2, 3, 4]},
    "large": {"segmentation": [[1, 2, 1e300, 4, 5, 6]]},
    "short counts": {"segmentation": {"size": [H, W], "counts": [1]}},
    "negative": {"segmentation": {"size": [H, W], "counts": [-1, 3201]}},
    "huge counts": {"segmentation": {"size": [H, W], "counts": [10**30]}},
    "box outside": {"bbox": [500, 5, 10, 10]},
    "negative box": {"bbox": [70, 15, -20, -10]},
    "deep": {"segmentation": json.loads("[" * 200 + "]" * 200)},
}


class TestDamage:
    @pytest.mark.parametrize("kind", BAD)
    def test_costs_one_object_and_is_said(self, tmp_path, kind):
        turned(tmp_path / "images" / "a.png", 1)
        write(tmp_path, [annotation(mask_upright(1)) | BAD[kind], GOOD], size=(H, W))
        data = AnnotatedPictures(tmp_path)
        (note,) = data.notes
        assert note.startswith("1 of 2 objects are damaged, the first: ")
        assert "annotation 1" in note
        metric = BoxIoU()
        metric.update(BoxFiller(), data[0])
        found = metric.compute()
        assert (found["miou"], found["objects"], found["objects_damaged"]) == (100, 1, 1)

    @pytest.mark.parametrize("kind", BAD)
    def test_of_all_objects_is_refused(self, tmp_path, kind):
        turned(tmp_path / "images" / "a.png", 1)
        write(tmp_path, [annotation(mask_upright(1)) | BAD[kind]], size=(H, W))
        with pytest.raises(
            DataError, match=r"1 of 1 objects are damaged, the first: .*annotation 1"
        ):
            AnnotatedPictures(tmp_path)

    @pytest.mark.parametrize("area", [7, None])
    def test_of_an_object_without_box_and_pixel_shows_with_its_picture(self, tmp_path, area):
        turned(tmp_path / "images" / "a.png", 1)
        empty = {"segmentation": encode(np.zeros((H, W), bool)), "bbox": None, "area": area}
        write(tmp_path, [annotation(mask_upright(1)) | empty, GOOD], size=(H, W))
        picture = AnnotatedPictures(tmp_path)[0]
        assert len(picture.instances) == 1
        (told,) = picture.damaged
        assert "annotation 1 is damaged: it has neither a bbox nor a pixel" in told


BOXES = {  # of the object above, as other tools write them, and what is said
    "corners": ([X0, Y0, X1, Y1], "is it x0, y0, x1, y1"),
    "centre": ([(X0 + X1) / 2, (Y0 + Y1) / 2, X1 - X0, Y1 - Y0], "is it the centre, width and"),
    "y first": ([Y0, X0, Y1 - Y0, X1 - X0], "is it y, x, height, width"),
    "corners, y first": ([Y0, X0, Y1, X1], "is it y0, x0, y1, x1"),
    "shares": ([X0 / W, Y0 / H, (X1 - X0) / W, (Y1 - Y0) / H], "are coordinates from 0 to 1"),
    "nothing": ([0, 0, 0, 0], "which is at x 50 to 70 and y 5 to 15"),
    "a point": ([X0, Y0, 0, 0], "is not around its mask"),
    "elsewhere": ([2, 20, 20, 10], "is not around its mask"),
}
SHARES = [[X0 / W, Y0 / H, X1 / W, Y0 / H, X1 / W, Y1 / H, X0 / W, Y1 / H]]


class TestUnits:
    @pytest.mark.parametrize("kind", ["polygon", "run lengths"])
    @pytest.mark.parametrize("box", BOXES)
    def test_a_box_that_is_not_around_its_mask_is_damaged(self, tmp_path, box, kind):
        turned(tmp_path / "images" / "a.png", 1)
        bbox, reason = BOXES[box]
        bad = annotation(mask_upright(1), kind, bbox=bbox)
        write(tmp_path, [bad, GOOD], size=(H, W))
        data = AnnotatedPictures(tmp_path)
        (note,) = data.notes
        assert note.startswith("1 of 2 objects are damaged, the first: ")
        assert reason in note
        metric = BoxIoU()
        metric.update(BoxFiller(), data[0])
        found = metric.compute()
        assert (found["miou"], found["objects"], found["objects_damaged"]) == (100, 1, 1)

    @pytest.mark.parametrize("size", [(H, W), None])
    @pytest.mark.parametrize("box", [[X0 / W, 0.1, 0.2, 0.3], [X0, Y0, X1 - X0, Y1 - Y0], None])
    @pytest.mark.parametrize("area", [200, 0.06, None])
    def test_polygons_from_0_to_1_are_damaged(self, tmp_path, size, box, area):
        turned(tmp_path / "images" / "a.png", 1)
        bad = annotation(mask_upright(1), segmentation=SHARES, bbox=box, area=area)
        write(tmp_path, [bad, GOOD], size=size)
        picture = AnnotatedPictures(tmp_path)[0]
        assert len(picture.instances) == 1
        (reason,) = picture.damaged
        assert "annotation 1 is damaged: it has no pixel; are coordinates from 0 to 1?" in reason

    @pytest.mark.parametrize("nothing", [[[50, 5, 70, 5, 60, 5]], [[50.6, 5, 50.9, 5, 50.9, 15]]])
    def test_an_object_without_a_pixel_is_damaged(self, tmp_path, nothing):
        turned(tmp_path / "images" / "a.png", 1)
        x, y = nothing[0][::2], nothing[0][1::2]
        box = [min(x), min(y), max(x) - min(x), max(y) - min(y)]
        bad = annotation(mask_upright(1), segmentation=nothing, bbox=box)
        write(tmp_path, [bad, GOOD], size=(H, W))
        (reason,) = AnnotatedPictures(tmp_path)[0].damaged
        assert reason.endswith("annotation 1 is damaged: it has no pixel")

    @pytest.mark.parametrize("kind", ["polygon", "run lengths"])
    @pytest.mark.parametrize("area", [0.02, 0.999, 1e-9])
    def test_an_area_in_other_units_is_that_of_the_mask(self, tmp_path, area, kind):
        turned(tmp_path / "images" / "a.png", 1)
        mask = mask_upright(1)
        write(tmp_path, [annotation(mask, kind, area=area), GOOD], size=(H, W))
        picture = AnnotatedPictures(tmp_path)[0]
        assert [instance.area for instance in picture.instances] == [mask.sum()] * 2
        assert picture.damaged == ()

    @pytest.mark.parametrize("kind", ["polygon", "run lengths"])
    @pytest.mark.parametrize(
        "off",
        [(0.4, -0.3, 0.3, 0.5), (1, 1, -2, -2), (0, 0, -1, -1), (-1, 0, 2, 1), (-5, -2, 10, 4)],
    )
    def test_boxes_that_are_not_exact_are_taken(self, tmp_path, off, kind):
        turned(tmp_path / "images" / "a.png", 1)
        sound = annotation(mask_upright(1), kind)
        sound["bbox"] = [a + b for a, b in zip(sound["bbox"], off, strict=True)]
        write(tmp_path, [sound], size=(H, W))
        data = AnnotatedPictures(tmp_path)
        assert (data.notes, data[0].damaged, len(data[0].instances)) == ((), (), 1)

    @pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3)])
    @pytest.mark.parametrize("less", [0, 1])
    def test_so_are_those_of_few_pixels(self, tmp_path, size, less):
        turned(tmp_path / "images" / "a.png", 1)
        mask = np.zeros((H, W), bool)
        mask[20 : 20 + size[0], 30 : 30 + size[1]] = True
        sound = annotation(mask, "run lengths")
        sound["bbox"] = [30, 20, size[1] - less, size[0] - less]
        write(tmp_path, [sound], size=(H, W))
        assert len(AnnotatedPictures(tmp_path)[0].instances) == 1

    @pytest.mark.parametrize("cut", [True, False])
    def test_so_are_those_of_objects_that_the_edge_cuts(self, tmp_path, cut):
        turned(tmp_path / "images" / "a.png", 1)
        x0, y0, x1, y1 = 70, 30, 200, 90  # of 80 x 40
        box = [x0, y0, W - x0, H - y0] if cut else [x0, y0, x1 - x0, y1 - y0]
        drawn = [[x0, y0, x1, y0, x1, y1, x0, y1], [300, 30, 310, 30, 310, 40]]
        sound = annotation(mask_upright(1), segmentation=drawn, bbox=box)
        if not cut:
            sound["segmentation"] = drawn[:1]
        write(tmp_path, [sound], size=(H, W))
        data = AnnotatedPictures(tmp_path)
        assert (data.notes, len(data[0].instances)) == ((), 1)

    def test_so_is_that_of_a_whole_crowd(self, tmp_path):
        turned(tmp_path / "images" / "a.png", 1)
        mask = mask_upright(1)
        mask[35:, :5] = True
        crowd = annotation(mask, "run lengths", iscrowd=1)
        crowd["segmentation"] = encode(mask, compressed=False)
        crowd["bbox"] = [0, Y0, X1, H - Y0]
        write(tmp_path, [crowd], size=(H, W))
        assert len(AnnotatedPictures(tmp_path)[0].instances) == 1


class TestDamageInSa1b:
    @staticmethod
    def write(folder, number, *objects):
        turned(folder / f"sa_{number}.png", 1)
        data = {"image": {"width": W, "height": H}, "annotations": objects}
        (folder / f"sa_{number}.json").write_text(json.dumps(data))

    @pytest.mark.parametrize("kind", BAD)
    def test_is_counted_before_a_training(self, tmp_path, kind):
        for number in range(3):
            self.write(tmp_path, number, GOOD, annotation(mask_upright(1)) | BAD[kind])
        task = PromptableTask(TaskOptions("promptable", data=tmp_path))
        (note,) = task.source.check_files()
        held_out = len(task.source.files_held_out())
        assert note.startswith(f"{3 - held_out} of {2 * (3 - held_out)} objects are damaged, ")
        assert note.endswith("; they are left out")
        assert "annotation 1" in note

    def test_of_all_objects_is_refused(self, tmp_path):
        for number in range(3):
            self.write(tmp_path, number, BAD["outside"])
        task = PromptableTask(TaskOptions("promptable", data=tmp_path))
        with pytest.raises(DataError, match=r"(\d) of \1 objects are damaged, the first"):
            task.source.check_files()

    def test_of_very_many_files_some_are_read(self, tmp_path, monkeypatch):
        for number in range(9):
            self.write(tmp_path, number, GOOD, annotation(mask_upright(1)) | BAD["outside"])
        monkeypatch.setattr(annotated_pictures, "LOOKED", 3)
        data = AnnotatedPictures(tmp_path)
        (note,) = data.check_objects()
        assert note.startswith("in 3 of 9 files, 3 of 6 objects are damaged, the first: ")

    def test_sound_objects_need_no_line(self, tmp_path):
        self.write(tmp_path, 1, GOOD)
        assert AnnotatedPictures(tmp_path).check_objects() == ()


class TestIds:
    @pytest.mark.parametrize("ids", [(1, "1"), ("1", 1), (1.0, 1), ("a", "a")])
    def test_may_be_numbers_or_texts(self, tmp_path, ids):
        turned(tmp_path / "images" / "a.png", 1)
        images = [{"id": ids[0], "file_name": "a.png", "width": W, "height": H}]
        write(tmp_path, [GOOD | {"image_id": ids[1]}], images=images)
        data = AnnotatedPictures(tmp_path)
        assert len(data[0].instances) == 1
        assert data.notes == ()

    def test_objects_of_no_picture_are_passed_over_and_counted(self, tmp_path):
        turned(tmp_path / "images" / "a.png", 1)
        orphans = [GOOD | {"image_id": 77}, GOOD | {"image_id": None}, 3, {"id": 5}]
        path = write(tmp_path, [*orphans, GOOD], size=(H, W))
        data = AnnotatedPictures(tmp_path)
        assert data.notes == (
            f"4 of 5 objects in {path} are of no picture that it names, and are passed over",
        )
        assert len(data[0].instances) == 1
        write(tmp_path, orphans)
        with pytest.raises(DataError, match=r"none of 4 objects in .* is of a picture"):
            AnnotatedPictures(tmp_path)

    @pytest.mark.parametrize("ids", [(1, 1), (1, "1")])
    def test_two_pictures_of_one_id_are_refused(self, tmp_path, ids):
        turned(tmp_path / "images" / "a.png", 1)
        images = [{"id": number, "file_name": "a.png"} for number in ids]
        write(tmp_path, [GOOD], images=images)
        with pytest.raises(DataError, match="two pictures of id"):
            AnnotatedPictures(tmp_path)

    def test_notes_reach_a_training(self, tmp_path):
        turned(tmp_path / "images" / "a.png", 1)
        turned(tmp_path / "images" / "b.png", 1)
        images = [{"id": n, "file_name": f"{n}.png"} for n in "ab"]
        objects = [GOOD | {"image_id": n} for n in ("a", "b", "c")]
        write(tmp_path, objects, images=images)
        task = PromptableTask(TaskOptions("promptable", data=tmp_path))
        assert ["1 of 3 objects" in note for note in task.source.notes] == [True]


class TestPlaces:
    @pytest.mark.parametrize(
        "name", ["../../x.png", "{outside}", "a/../../../x.png", "..\\..\\x.png"]
    )
    def test_outside_the_folder_are_refused(self, tmp_path, name):
        outside = turned(tmp_path / "x.png", 1)
        folder = tmp_path / "data"
        (folder / "images").mkdir(parents=True)
        write(folder, [GOOD], name=name.format(outside=outside))
        with pytest.raises(DataError, match=r"x\.png.*, which is outside .*data; put it inside"):
            AnnotatedPictures(folder)

    @pytest.mark.parametrize("name", ["../images/a.png", "{inside}", "./a.png", "sub/../a.png"])
    def test_inside_are_found_however_they_are_written(self, tmp_path, name):
        inside = turned(tmp_path / "images" / "a.png", 1)
        write(tmp_path, [GOOD], name=name.format(inside=inside))
        assert len(AnnotatedPictures(tmp_path)[0].instances) == 1

    def test_links_in_the_folder_are_the_users(self, tmp_path):
        turned(tmp_path / "store" / "a.png", 1)
        folder = tmp_path / "data"
        folder.mkdir()
        (folder / "images").symlink_to(tmp_path / "store")
        write(folder, [GOOD])
        assert len(AnnotatedPictures(folder)[0].instances) == 1

    @pytest.mark.parametrize("name", ["x" * 5000 + ".png", "a\0.png"])
    def test_names_that_no_file_has_are_missing(self, tmp_path, name):
        (tmp_path / "images").mkdir()
        write(tmp_path, [GOOD], name=name)
        with pytest.raises(DataError, match="which is in none of"):
            AnnotatedPictures(tmp_path)

    def listing(self, folder, names):
        images = [{"id": i, "file_name": name} for i, name in enumerate(names)]
        return write(folder, [GOOD | {"image_id": i} for i in range(len(names))], images=images)

    def test_missing_pictures_are_passed_over_and_counted(self, tmp_path):
        turned(tmp_path / "images" / "a.png", 1)
        path = self.listing(tmp_path, ["x.png", "a.png", "y.png"])
        data = AnnotatedPictures(tmp_path)
        assert [picture.name for picture, _ in data.samples] == ["a.png"]
        (note,) = data.notes
        assert note.startswith(f"2 of 3 pictures that {path} names are missing, as 'x.png' in ")
        (tmp_path / "images" / "a.png").unlink()
        with pytest.raises(DataError, match=r"names picture x\.png, which is in none of"):
            AnnotatedPictures(tmp_path)

    @pytest.mark.parametrize("name", ["train2017/a.png", "C\\up\\a.png"])
    def test_are_found_by_the_name_without_folders(self, tmp_path, name):
        turned(tmp_path / "images" / "a.png", 1)
        self.listing(tmp_path, [name])
        data = AnnotatedPictures(tmp_path)
        assert (len(data), data.notes) == (1, ())

    @pytest.mark.parametrize(
        ("name", "file"),
        [
            ("\u00e9.png", "e\u0301.png"),
            ("e\u0301.png", "\u00e9.png"),
            ("A.PNG", "a.png"),
            ("a.png", "A.png"),
            ("a%20b.png", "a b.png"),
            ("sub/%C3%A9.PNG", "sub/e\u0301.png"),
        ],
    )
    def test_are_found_where_names_are_spelt_otherwise(self, tmp_path, name, file):
        turned(tmp_path / "images" / file, 1)
        turned(tmp_path / "images" / "x.png", 1)
        self.listing(tmp_path, [name, "x.png"])
        data = AnnotatedPictures(tmp_path)
        assert [str(path.relative_to(tmp_path / "images")) for path, _ in data.samples] == [
            *(file, "x.png")
        ]
        (note,) = data.notes
        assert note.startswith("1 of 2 pictures that ")
        assert "spelt otherwise there: " in note

    @pytest.mark.parametrize(
        ("names", "files"),
        [
            (["A.png", "b.png"], ["a.png", "a.PNG", "b.png"]),  # two that it may be
            (["A.png", "a.png"], ["a.png"]),  # another's own
            (["A.png", "a.PNG", "b.png"], ["a.png", "b.png"]),  # of two that it may be
        ],
    )
    def test_are_not_guessed(self, tmp_path, names, files):
        for file in files:
            turned(tmp_path / "images" / file, 1)
        self.listing(tmp_path, names)
        data = AnnotatedPictures(tmp_path)
        assert len(data) == 1
        (note,) = data.notes
        assert " pictures that " in note
        assert "are missing, as 'A.png' in " in note

    def test_that_are_missing_name_the_nearest(self, tmp_path):
        turned(tmp_path / "images" / "street_0001.png", 1)
        self.listing(tmp_path, ["street_001.png"])
        with pytest.raises(DataError, match=r"which is in none of .*; did you mean 'street_0001"):
            AnnotatedPictures(tmp_path)

    def test_one_picture_is_not_taken_for_two_of_its_name(self, tmp_path):
        turned(tmp_path / "images" / "a.png", 1)
        self.listing(tmp_path, ["x/a.png", "y/a.png"])
        with pytest.raises(DataError, match="which is in none of"):
            AnnotatedPictures(tmp_path)

    def test_apples_copies_are_no_annotations(self, tmp_path):
        turned(tmp_path / "images" / "a.png", 1)
        path = write(tmp_path, [GOOD])
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\26\7")
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())  # as Windows' editors save it
        assert len(AnnotatedPictures(tmp_path)) == 1
        (path.parent / f"._{path.name}").rename(path.parent / "._labels.json")
        path.rename(path.parent / "labels.json")  # the only one, so of any name
        assert len(AnnotatedPictures(tmp_path)) == 1

    @pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
    def test_annotations_in_utf_16_are_read(self, tmp_path, encoding):
        turned(tmp_path / "images" / "ä.png", 1)
        path = write(tmp_path, [GOOD], name="ä.png")
        path.write_text(path.read_text(), encoding=encoding)
        assert len(AnnotatedPictures(tmp_path)[0].instances) == 1

    @pytest.mark.parametrize(
        "text", ["[" * 100_000, '{"images": 10000000000000000000000}', "", "[]"]
    )
    def test_other_files_end_in_one_line(self, tmp_path, text):
        write(tmp_path, [], text=text)
        with pytest.raises(DataError, match=r"instances_val\.json"):
            AnnotatedPictures(tmp_path)


PEAK = """
import sys
from pathlib import Path
import numpy as np
from results.errors import DataError
from supernet.pictures import read_indices, read_rgb
from supernet.tasks.annotated_pictures import AnnotatedPictures
folder = Path(sys.argv[1])
{body}
# not getrusage, which goes on from what the process that started this one held
print(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""


def peak_mb(folder, body):
    """Of a process that runs `body`, libraries included."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PEAK.format(body=body), str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1]) // 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="has no such figure")
class TestMemory:
    def test_of_run_lengths_that_claim_a_huge_mask(self, tmp_path):
        turned(tmp_path / "images" / "a.png", 1)
        bad = annotation(mask_upright(1), segmentation={"size": [10**5, 10**5], "counts": [10**10]})
        write(tmp_path, [bad, GOOD])
        body = "assert len(AnnotatedPictures(folder)[0].instances) == 1"
        assert peak_mb(tmp_path, body) < 600

    def test_of_a_large_mask(self, tmp_path):
        Image.new("L", (13_300, 13_300), 3).save(tmp_path / "m.png", compress_level=1)
        body = (
            "mask = read_indices(folder / 'm.png')\n"
            "assert mask.shape == (13300, 13300) and mask.dtype == np.uint8 and mask[-1, -1] == 3"
        )
        assert peak_mb(tmp_path, body) < 1000

    def test_of_180_megapixels(self, tmp_path):
        Image.new("L", (15_000, 12_000), 77).save(tmp_path / "x.png", compress_level=1)
        body = (
            "picture = read_rgb(folder / 'x.png')\n"
            "assert picture.size == (3750, 3000) and picture.getpixel((3749, 2999)) == (77,) * 3"
        )
        assert peak_mb(tmp_path, body) < 1000

    def test_of_a_large_jpeg(self, tmp_path):
        Image.new("RGB", (12_000, 10_000), YELLOW).save(tmp_path / "x.jpg")
        body = (
            "picture = read_rgb(folder / 'x.jpg')\n"
            "assert picture.size == (3000, 2500) and picture.getpixel((2999, 2499))[2] < 40"
        )
        assert peak_mb(tmp_path, body) < 700

    def test_of_16_bits(self, tmp_path):
        Image.new("I;16", (13_300, 13_300), 257 * 5).save(tmp_path / "x.png", compress_level=1)
        body = "assert read_rgb(folder / 'x.png').getpixel((9, 9)) == (5, 5, 5)"
        assert peak_mb(tmp_path, body) < 1000

    def test_a_bomb_is_refused_by_its_header(self, tmp_path):
        path = Path(save(tmp_path / "x.png", noise(4, 4)))
        data = bytearray(path.read_bytes())
        data[16:24] = (60_000).to_bytes(4, "big") * 2  # of IHDR, whose checksum follows
        data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
        path.write_bytes(data)
        body = (
            "for read in (read_rgb, read_indices):\n"
            "    try:\n        read(folder / 'x.png')\n        raise SystemExit('read')\n"
            "    except DataError as error:\n"
            "        assert 'more than 200 megapixels; scale it down' in str(error), error"
        )
        assert peak_mb(tmp_path, body) < 400


def test_notes_reach_an_evaluation(tmp_path):
    save(tmp_path / "data" / "a.png", noise(H, W))
    bad = annotation(mask_upright(1), id=2, segmentation=[[1, 2, 3]])
    write(tmp_path / "data", [annotation(mask_upright(1)), bad], size=(H, W))
    weights = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(1)}, weights)
    opened = open_data(named_arch("sam_l0"), read_header(weights), tmp_path / "data")
    assert ["1 of 2 objects" in note for note in opened.notes] == [True]
