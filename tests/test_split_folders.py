"""Folders that are splits, in whatever spelling, and classes that are only named like one."""

import json

import numpy as np
import pytest

from results.errors import DataError
from supernet.pictures import Normalisation
from supernet.tasks.annotated_pictures import AnnotatedPictures
from supernet.tasks.classification import ClassFolders, ClassificationTask, Preparation
from supernet.tasks.labelled_pictures import LabelledPictures
from supernet.tasks.options import TaskOptions
from supernet.tasks.promptable import PromptableTask
from supernet.tasks.segmentation import SegmentationTask
from supernet.tasks.split_folders import split_named
from supernet.tasks.super_resolution import LargePictures, SuperResolutionTask
from tests.test_tasks import noise, save

HALVES = Normalisation((0.5,) * 3, (0.5,) * 3)


def tree(root, names, classes=("a", "b"), number=2):
    for name in names:
        for label in classes:
            for i in range(number):
                save(root / name / label / f"{i}.png", noise(4, 4))
    return root


def classes_of(folder, split="val", **options):
    return ClassFolders(folder, Preparation((8, 8), 1.0, HALVES), split=split, **options)


def masked(root, names, number=3):
    for name in names:
        for i in range(number):
            save(root / "images" / name / f"{i}.png", noise(4, 4))
            save(
                root / "masks" / name / f"{i}.png", np.array([[0, 1], [1, 0]] * 2).astype(np.uint8)
            )
    return root


@pytest.mark.parametrize(
    ("names", "split"),
    [
        ("train Train TRAIN training trainset train2017 train_data Training-Set", "train"),
        ("val Val valid VALID validation dev Valid_Set val2014 eval evaluation", "val"),
        ("test Testing test_set TestData", "test"),
        ("trains value valley valve devil tests tester test1 trained 2017", None),
    ],
)
def test_names_of_splits(names, split):
    assert {split_named(name) for name in names.split()} == {split}
    assert split_named("Training Data") == "train"


class TestClassFolders:
    @pytest.mark.parametrize(
        ("names", "train", "val"),
        [
            (["Train", "Val"], "Train", "Val"),
            (["train", "valid"], "train", "valid"),
            (["train", "valid", "test"], "train", "valid"),
            (["training", "validation", "testing"], "training", "validation"),
            (["TRAIN", "DEV"], "TRAIN", "DEV"),
            (["training_set", "valid_set", "documents"], "training_set", "valid_set"),
        ],
    )
    def test_other_names_are_splits_which_is_said(self, tmp_path, names, train, val):
        tree(tmp_path, names)
        task = ClassificationTask(TaskOptions("classification", tmp_path))
        assert task.num_classes == 2
        assert {path.parents[1].name for path in task.source.files_trained_on()} == {train}
        assert {path.parents[1].name for path in task.source.files_held_out()} == {val}
        said = "\n".join(task.source.check_labels())
        for what, name in (("training", train), ("held-out", val)):
            line = f"{what} pictures are those in {tmp_path.name}/{name}/"
            assert (line in said) == (name not in ("train", "validation"))
        assert len(classes_of(tmp_path)) == 4

    def test_nothing_is_said_of_the_usual_names(self, tmp_path):
        tree(tmp_path, ["train", "val", "test"])
        assert classes_of(tmp_path).notes == classes_of(tmp_path, "train").notes == ()

    def test_of_two_of_a_split_the_one_taken_is_said(self, tmp_path):
        tree(tmp_path, ["val", "Validation"])
        data = classes_of(tmp_path)
        assert data.root.name == "val"
        assert data.notes == (
            f"held-out pictures are those in {tmp_path.name}/val/; Validation/ is passed over",
        )

    @pytest.mark.parametrize(
        "names", [["training", "testing"], ["train", "test"], ["Train", "Test"], ["Test"]]
    )
    def test_without_one_to_hold_out_that_is_said(self, tmp_path, names):
        tree(tmp_path, names)
        with pytest.raises(DataError, match=rf"has no val/.*give --data {tmp_path}/{names[-1]}"):
            classes_of(tmp_path)
        with pytest.raises(DataError, match=r"has no (val|train)/"):
            ClassificationTask(TaskOptions("classification", tmp_path))

    @pytest.mark.parametrize("name", ["val", "train", "test", "Val", "dev", "validation"])
    @pytest.mark.parametrize("within", ["", "val"])
    def test_a_class_may_be_called_like_a_split(self, tmp_path, name, within):
        tree(tmp_path / "x", [within], ["bus", "car", name])
        assert classes_of(tmp_path / "x").classes == tuple(sorted(("bus", "car", name)))
        if not within:
            task = ClassificationTask(TaskOptions("classification", tmp_path / "x"))
            assert task.num_classes == 3
            assert task.source.check_labels() == ()

    @pytest.mark.parametrize("name", ["Train", "testing", "dev"])
    def test_also_one_that_holds_folders(self, tmp_path, name):
        tree(tmp_path, ["bus", name], ["new", "old"])
        assert set(classes_of(tmp_path).classes) == {"bus", name}

    def test_splits_further_down_are_named(self, tmp_path):
        tree(tmp_path / "flowers", ["train", "valid"])
        with pytest.raises(DataError, match=r"has the splits .*give --data .*/flowers$"):
            classes_of(tmp_path)

    def test_splits_of_names_that_nobody_knows_are_said(self, tmp_path):
        tree(tmp_path, ["fold1", "fold2"])
        (note,) = classes_of(tmp_path).notes
        assert "all 2 class folders" in note
        assert "hold a/, b/" in note

    def test_splits_within_classes_are_said(self, tmp_path):
        tree(tmp_path, ["cat", "dog"], ["train", "val"])
        (note,) = classes_of(tmp_path).notes
        assert "holds train/, val/, whose pictures are taken alike" in note


class TestMasks:
    @pytest.mark.parametrize(
        ("names", "train", "val"),
        [
            (["Train", "Val"], "Train", "Val"),
            (["train", "valid", "test"], "train", "valid"),
            (["training", "dev"], "training", "dev"),
            (["train", "test"], "train", "test"),
        ],
    )
    def test_own_folders(self, tmp_path, names, train, val):
        masked(tmp_path, names)
        for task in (
            SegmentationTask(TaskOptions("segmentation", tmp_path, num_classes=2)),
            PromptableTask(TaskOptions("promptable", tmp_path)),
        ):
            assert {path.parent.name for path in task.source.files_trained_on()} == {train}
            assert {path.parent.name for path in task.source.files_held_out()} == {val}
        notes = LabelledPictures(tmp_path, (8, 8), 2, HALVES).notes
        assert len(notes) == 1
        assert notes == AnnotatedPictures(tmp_path).notes
        assert val in notes[0] or "beside images/train/" in notes[0]
        assert len(LabelledPictures(tmp_path, (8, 8), 2, HALVES)) == 3

    def test_the_splits_of_masks_may_be_spelt_otherwise(self, tmp_path):
        masked(tmp_path, ["train", "val"])
        (tmp_path / "masks" / "val").rename(tmp_path / "masks" / "Valid")
        data = LabelledPictures(tmp_path, (8, 8), 2, HALVES)
        assert data.samples[0][1] == tmp_path / "masks/Valid/0.png"
        (tmp_path / "masks" / "Valid").rename(tmp_path / "masks" / "others")
        with pytest.raises(DataError, match=r"masks/val is missing"):
            LabelledPictures(tmp_path, (8, 8), 2, HALVES)

    def test_one_folder_of_another_name_is_no_split(self, tmp_path):
        masked(tmp_path, ["Dev", "Oslo"])
        assert len(LabelledPictures(tmp_path, (8, 8), 2, HALVES)) == 6

    def test_ade20k(self, tmp_path):
        masked(tmp_path, ["Training", "Valid"])
        (tmp_path / "masks").rename(tmp_path / "annotations")
        data = LabelledPictures(tmp_path, (8, 8), 150, HALVES)
        assert data.samples[0][0] == tmp_path / "images/Valid/0.png"
        assert data.notes == ("held-out pictures are those in images/Valid/",)


class TestLargePictures:
    @pytest.mark.parametrize(
        ("names", "val"), [(["Train", "Val"], "Val"), (["train", "test"], "test")]
    )
    def test_splits(self, tmp_path, names, val):
        tree(tmp_path, names)
        data = LargePictures(tmp_path, 2)
        assert {path.parents[1].name for path in data.samples} == {val}
        assert len(data.notes) == 1
        task = SuperResolutionTask(TaskOptions("super_resolution", tmp_path))
        assert {path.parents[1].name for path in task.source.files_held_out()} == {val}
        assert data.notes[0] in task.source.check_labels()

    @pytest.mark.parametrize("names", [["train"], ["Dev", "Oslo"], ["valid", "Oslo"]])
    def test_other_folders(self, tmp_path, names):
        tree(tmp_path, names)
        assert len(LargePictures(tmp_path, 2)) == (8 if "Oslo" in names and "Dev" in names else 4)


@pytest.mark.parametrize(
    "names", [("Train", "Val"), ("train", "dev"), ("instances_training", "instances_VALID")]
)
def test_files_of_coco(tmp_path, names):
    polygon = [[0, 0, 4, 0, 4, 4, 0, 4]]
    for name in names:
        folder = name.removeprefix("instances_")
        save(tmp_path / "images" / folder / f"{name}.png", noise(4, 4))
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"{name}.json").write_text(
            json.dumps(
                {
                    "images": [{"id": 1, "file_name": f"{name}.png", "width": 4, "height": 4}],
                    "annotations": [
                        {"id": 1, "image_id": 1, "segmentation": polygon, "bbox": [0, 0, 4, 4]}
                    ],
                }
            )
        )
    for split, name in zip(("train", "val"), names, strict=True):
        data = AnnotatedPictures(tmp_path, split=split)
        assert [path.stem for path, _ in data.samples] == [name]
