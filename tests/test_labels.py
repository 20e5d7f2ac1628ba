"""What the masks of a folder hold, all together: what is said of them, and what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from nas.front import Candidate, Front
from results.console import main
from results.errors import DataError
from supernet.arch import Arch
from supernet.evaluate import Evaluate
from supernet.model import build
from supernet.official import named_arch
from supernet.pictures import Normalisation
from supernet.tasks.labelled_pictures import CITYSCAPES, LabelledPictures
from supernet.tasks.look import check_headers, check_pictures, sides_for, typical_size
from supernet.train import Train
from supernet.training.plan import plan_training
from supernet.weights.files import save_weights

NORMALISATION = Normalisation((0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
SIDE = 32


def blocks(*values, side=SIDE, dtype=np.uint8):
    """(side, side): a stripe of each value, from the top."""
    rows = np.array_split(np.arange(side), len(values))
    stripes = [np.full((len(r), side), v, dtype) for r, v in zip(rows, values, strict=True)]
    return np.concatenate(stripes)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(path)


def picture(path, side=SIDE):
    rng = np.random.default_rng(sum(path.name.encode()))
    save(path, rng.integers(0, 256, (side, side, 3), dtype=np.uint8))


def side_of(mask):
    return np.asarray(mask).shape[0]


def own(folder, masks, split=""):
    """images/ and masks/, perhaps with splits."""
    for number, mask in enumerate(masks):
        picture(folder / "images" / split / f"{number}.jpg", side_of(mask))
        save(folder / "masks" / split / f"{number}.png", mask)
    return folder


def cityscapes(folder, masks, kind="labelIds"):
    for number, mask in enumerate(masks):
        stem = f"ulm_{number:06}_000019"
        picture(folder / f"leftImg8bit/val/ulm/{stem}_leftImg8bit.png", side_of(mask))
        save(folder / f"gtFine/val/ulm/{stem}_gtFine_{kind}.png", mask)
    return folder


def ade20k(folder, masks):
    for number, mask in enumerate(masks):
        picture(folder / f"images/validation/{number}.jpg", side_of(mask))
        save(folder / f"annotations/validation/{number}.png", mask)
    return folder


def look(folder, num_classes, **options):
    found = LabelledPictures(folder, (64, 64), num_classes, NORMALISATION)
    return found.check_labels(**options)


class TestOwnMasks:
    def test_sound_masks_are_not_remarked_on(self, tmp_path):
        assert look(own(tmp_path, [blocks(0, 1, 2)] * 3), 3) == ()

    def test_a_border_that_is_ignored_is_not_remarked_on(self, tmp_path):
        masks = [blocks(0, 1, 0, 0, 255), blocks(1, 0, 0, 0), blocks(0, 0, 1, 255)]
        assert look(own(tmp_path, masks), 2) == ()

    @pytest.mark.parametrize(
        ("values", "num_classes"), [((0, 255), 2), ((255,), 2), ((1, 255), 2), ((0, 255), 3)]
    )
    def test_white_is_no_class(self, tmp_path, values, num_classes):
        folder = own(tmp_path, [blocks(*values)] * 6)
        with pytest.raises(DataError, match="255 is the label of none") as caught:
            look(folder, num_classes)
        last = "0 and 1" if num_classes == 2 else "0 to 2"
        assert str(caught.value).endswith(f"Store the classes as {last}")
        assert "no pixel" in str(caught.value)

    def test_one_bit_is_0_and_1(self, tmp_path):
        mask = Image.fromarray(blocks(0, 255)).convert("1")
        assert look(own(tmp_path, [mask] * 2), 2) == ()

    def test_palettes_are_indices(self, tmp_path):
        mask = Image.fromarray(blocks(0, 1, 2)).convert("P")
        mask.putpalette([255, 255, 255, 0, 0, 0, 9, 9, 9])
        assert look(own(tmp_path, [mask] * 2), 3) == ()

    @pytest.mark.parametrize(
        ("values", "num_classes", "says"),
        [
            ((0, 128, 255), 3, "holds label 128, of 3 classes; .* 0, 128 and 255; store the 3"),
            ((0, 128), 2, "holds label 128, of 2 classes; .* store the 2 classes as 0 to 1"),
            ((1, 2, 3), 3, "holds label 3, of 3 classes; .* store the 3 classes as 0 to 2"),
            ((0, 1, 2, 3), 3, "holds label 3, .* there may be 4 classes, which --num-classes"),
            (tuple(range(0, 256, 2)), 2, "holds label 2, .* resize masks without interpolation"),
            ((0, 1, 7), 2, "holds label 7, of 2 classes; labels are 0 and up, 255 for none"),
            ((0, 1, 254), 2, "holds label 254, .* holds 0, 1 and 254; where 254 is none, store"),
            ((0, 1, 2, 3, 200), 4, "; where 200 is none, store the label of none as 255$"),
        ],
    )
    def test_values_of_no_class(self, tmp_path, values, num_classes, says):
        folder = own(tmp_path, [blocks(*values[:2], side=256), blocks(*values, side=256)])
        with pytest.raises(DataError, match=says):
            look(folder, num_classes)

    def test_16_bits(self, tmp_path):
        masks = [blocks(0, 1, dtype=np.uint16), blocks(0, 1, 300, 999, dtype=np.uint16)]
        with pytest.raises(DataError, match=r"1\.png holds label 300, .* 0, 1, 300 and 999$"):
            look(own(tmp_path, masks), 2)
        folder = own(tmp_path / "scaled", [blocks(0, 257, dtype=np.uint16)])
        with pytest.raises(DataError, match=r"holds label 257, .* 0 and 257; store the 2 classes"):
            look(folder, 2)
        folder = own(tmp_path / "both", [blocks(0, 1, 254, 257, dtype=np.uint16)])
        with pytest.raises(DataError, match=r"holds label 254, .* 0, 1, 254 and 257$"):
            look(folder, 2)
        many = own(tmp_path / "many", [blocks(*range(301), side=301, dtype=np.uint16)])
        with pytest.raises(DataError, match=r"store classes as 0 to N - 1$"):
            plan_training(replace(QUICK, data=many))
        assert look(own(tmp_path / "sound", [blocks(0, 1, dtype=np.uint16)]), 2) == ()

    def test_a_class_without_a_pixel_is_named(self, tmp_path):
        (note,) = look(own(tmp_path, [blocks(0, 2)] * 6), 4)
        assert note.startswith("2 of 4 classes have no pixel in 6 masks: '1', '3'; ")
        found = LabelledPictures(
            tmp_path, (64, 64), 4, NORMALISATION, names=("sky", "sea", "sand", "ship")
        )
        assert "'sea', 'ship'" in found.check_labels()[0]

    def test_255_beside_a_missing_class_is_told(self, tmp_path):
        notes = look(own(tmp_path, [blocks(0, 1, 255)] * 3), 3)
        assert "1 of 3 classes has no pixel in 3 masks: '2'" in notes[0]
        assert "255 counts as none: " in notes[1]
        assert "in 3 of 3 masks" in notes[1]

    def test_one_class_alone_tells_nothing(self, tmp_path):
        folder = own(tmp_path, [blocks(1)] * 3)
        with pytest.raises(DataError, match=r"all labelled pixels of 3 masks .* of class '1'"):
            look(folder, 2)
        with pytest.raises(DataError, match="one class alone tells nothing"):
            look(own(tmp_path / "one", [blocks(0, 255)]), 1)

    def test_a_class_stored_in_two_ways(self, tmp_path):
        masks = [blocks(0, 1)] * 3 + [blocks(0, 255)] * 3
        (note,) = look(own(tmp_path, masks), 2)
        assert "in 3 of 6 masks, of which none holds 1: is it the same class" in note

    def test_all_masks_count_whatever_the_limit(self, tmp_path):
        masks = [blocks(0, 1)] * 4 + [blocks(0, 1, 2)] + [blocks(0, 1, 9)]
        folder = own(tmp_path, masks)
        with pytest.raises(DataError, match=r"5\.png holds label 9"):
            look(folder, 3, limit=1)
        save(folder / "masks" / "5.png", blocks(0, 1))
        (note,) = look(folder, 3, limit=1)
        assert note == "1 of 3 classes has no pixel where --limit 1 looks: '2'"
        save(folder / "masks" / "0.png", blocks(1))
        with pytest.raises(DataError, match="--limit 1 takes show class '1' alone"):
            look(folder, 3, limit=1)

    def test_of_another_size_than_their_pictures(self, tmp_path):
        folder = own(tmp_path, [blocks(0, 1)] * 3)
        save(folder / "masks" / "1.png", blocks(0, 1, side=30))
        with pytest.raises(DataError) as caught:
            look(folder, 2, limit=1)
        assert f"{folder}/images/1.jpg is 32x32 (height x width), its mask" in str(caught.value)
        assert f"{folder}/masks/1.png 30x30; 1 of 3 masks are of another" in str(caught.value)

    @pytest.mark.parametrize("name", ["0.jpg", "0.png"])
    @pytest.mark.parametrize(
        ("orientation", "sideways", "fits"),
        [(1, False, True), (1, True, False), (3, True, False), (6, False, True), (6, True, True)],
    )
    def test_are_of_a_turned_picture_or_of_the_stored_one(
        self, tmp_path, name, orientation, sideways, fits
    ):
        exif = Image.Exif()
        exif[0x0112] = orientation
        (tmp_path / "images").mkdir()
        Image.new("RGB", (64, 32)).save(tmp_path / "images" / name, exif=exif)
        mask = np.concatenate([blocks(0, 1), blocks(0, 1)], axis=1)  # 32x64
        save(tmp_path / "masks" / "0.png", np.ascontiguousarray(mask.T) if sideways else mask)
        if fits:
            assert look(tmp_path, 2) == ()
        else:
            with pytest.raises(DataError, match=r"is 32x64 .* 64x32; 1 of 1 masks"):
                look(tmp_path, 2)

    def test_a_damaged_mask_is_named(self, tmp_path):
        folder = own(tmp_path, [blocks(0, 1)] * 3)
        (folder / "masks" / "1.png").write_bytes(b"no mask")
        with pytest.raises(DataError, match=r"masks/1\.png"):
            look(folder, 2)


class TestCityscapes:
    def test_label_ids(self, tmp_path):
        notes = look(cityscapes(tmp_path, [blocks(*range(34), side=34)]), 19)
        assert notes == ()

    @pytest.mark.parametrize(
        "values", [(0, 1, 2, 8, 10, 13, 255), tuple(range(19)), (0, 2, 10), (255, 0, 13)]
    )
    def test_train_ids_under_the_name_of_label_ids(self, tmp_path, values):
        folder = cityscapes(tmp_path, [blocks(*values), blocks(*values[:2])])
        with pytest.raises(
            DataError,
            match=r"look like train ids: if they are, name the files .*labelTrainIds\.png",
        ):
            look(folder, 19)

    def test_label_ids_under_the_name_of_train_ids(self, tmp_path):
        folder = cityscapes(tmp_path, [blocks(7, 8), blocks(7, 26, 33)], "labelTrainIds")
        with pytest.raises(DataError, match=r"look like label ids: name .*labelIds\.png"):
            look(folder, 19)

    def test_few_label_ids_are_told_of(self, tmp_path):
        notes = look(cityscapes(tmp_path, [blocks(7, 8, 11)] * 2), 19)
        assert "no mask of" in notes[0]
        assert "above 18" in notes[0]
        assert f"{len(CITYSCAPES) - 3} of 19 classes have no pixel in 2 masks" in notes[1]

    def test_both_kinds_in_one_folder(self, tmp_path):
        cityscapes(tmp_path, [blocks(7, 8, 26)] * 3)
        mask = tmp_path / "gtFine/val/ulm/ulm_000001_000019_gtFine_labelIds.png"
        mask.unlink()
        save(mask.with_name(mask.name.replace("labelIds", "labelTrainIds")), blocks(0, 18, 255))
        (note,) = look(tmp_path, 19)
        assert note.startswith("15 of 19 classes have no pixel in 3 masks")


class TestAde20k:
    def test_as_published(self, tmp_path):
        masks = [blocks(*range(0, 76), side=151), blocks(*range(76, 151), side=151)]
        assert look(ade20k(tmp_path, masks), 150) == ()
        rare = look(ade20k(tmp_path / "few", [blocks(0, 1, 3)]), 150)
        assert rare[1].startswith("148 of 150 classes have no pixel in 1 masks")

    @pytest.mark.parametrize("values", [(0, 1, 2, 3), (1, 2), tuple(range(150))])
    def test_own_classes_are_told_how_they_are_read(self, tmp_path, values):
        (note, *_) = look(ade20k(tmp_path, [blocks(*values, side=150)]), 150)
        assert note == (
            f"annotations of {tmp_path} hold no 150: labels 1 and up count from 0 and 0 is none, "
            "as ADE20K's; where class 0 is one of yours, move them to masks/ beside images/"
        )

    def test_1_taken_off_already(self, tmp_path):
        masks = [blocks(*range(0, 150), 255, side=151)]
        with pytest.raises(DataError, match="1 was taken off them already"):
            look(ade20k(tmp_path, masks), 150)

    def test_none_as_255_without_a_shift_is_told(self, tmp_path):
        notes = look(ade20k(tmp_path, [blocks(1, 3, 255)]), 150)
        assert "they are read as published, 1 and up" in notes[0]
        both = look(ade20k(tmp_path / "all", [blocks(1, 150, 255)]), 150)
        assert len(both) == 1  # with 150 nothing was taken off

    def test_twice(self, tmp_path):
        """0 became 255, and then 254."""
        with pytest.raises(DataError, match="holds label 254"):
            look(ade20k(tmp_path, [blocks(0, 3, 254, 255)]), 150)


def segmenter(path, num_classes, resolution=64, **metadata):
    torch.manual_seed(0)
    arch = named_arch(
        "b0",
        task="segmentation",
        dataset="cityscapes",
        resolution=(resolution, resolution),
        num_classes=num_classes,
    )
    save_weights(build(arch), path, **metadata)
    return path


QUICK = Train(
    task="segmentation",
    arch="b0",
    resolution=("64",),
    steps=1,
    batch_size=2,
    workers=0,
    augment="plain",
    quiet=True,
)


class TestCommands:
    def test_an_untrained_network_gets_no_100(self, tmp_path, fails):
        folder = own(tmp_path / "data", [blocks(0, 255)] * 6)
        weights = segmenter(tmp_path / "w.safetensors", 2)
        flags = ["--data", folder, "--workers", 0]
        said = fails(Evaluate, "supernet.evaluate", "--weights", weights, *flags)
        assert "hold 0 and 255 alone" in said
        command = ["--task", "segmentation", "--arch", "b0", "--num-classes", 2, *flags]
        said = fails(
            Train, "supernet.train", *command, "--out", tmp_path / "run", "--batch-size", 2
        )
        assert "training masks" in said
        assert not (tmp_path / "run").exists()

    def test_what_is_odd_is_in_the_report_and_in_json(self, tmp_path, capsys):
        folder = own(tmp_path / "data", [blocks(0, 1)] * 3)
        weights = segmenter(tmp_path / "w.safetensors", 3)
        flags = list(map(str, ["--data", folder, "--weights", weights, "--workers", 0]))
        main(Evaluate, "supernet.evaluate", flags)
        assert "note: 1 of 3 classes has no pixel in 3 masks: '2'" in capsys.readouterr().out
        main(Evaluate, "supernet.evaluate", [*flags, "--json"])
        assert "'2'" in json.loads(capsys.readouterr().out)["notes"][0]

    def test_a_size_far_from_the_pictures_is_told(self, tmp_path, capsys):
        folder = own(tmp_path / "data", [blocks(0, 1)] * 2)
        weights = segmenter(tmp_path / "w.safetensors", 2, resolution=128)
        flags = ["--data", folder, "--weights", weights, "--workers", 0, "--json"]
        main(Evaluate, "supernet.evaluate", list(map(str, flags)))
        (note,) = json.loads(capsys.readouterr().out)["notes"]
        assert note.startswith("pictures are about 32x32 px and are shown at 128x128 px")

    def test_a_damaged_held_out_picture_is_found_before_the_first_step(self, tmp_path):
        masks = [blocks(0, 1)] * 4
        folder = own(own(tmp_path / "data", masks, "train"), masks, "val")
        damaged = folder / "images" / "val" / "3.jpg"
        damaged.write_bytes(damaged.read_bytes()[:-200])
        command = replace(QUICK, data=folder, num_classes=2, out=tmp_path / "run")
        with pytest.raises(DataError, match=r"val/3\.jpg"):
            command.run()
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("split", ["train", "val"])
    def test_of_all_pictures_headers_and_sizes_are_read_before(self, tmp_path, split):
        masks = [blocks(0, 1)] * 4
        folder = own(own(tmp_path / "data", masks, "train"), masks, "val")
        wrong = folder / "images" / split / "2.jpg"
        sound = wrong.read_bytes()
        command = replace(QUICK, data=folder, num_classes=2, out=tmp_path / "run")
        wrong.write_bytes(b"no picture")
        with pytest.raises(DataError, match=rf"cannot read picture .*{split}/2\.jpg"):
            command.run()
        wrong.write_bytes(sound)
        picture(wrong, 48)
        with pytest.raises(DataError, match=rf"{split}/2\.jpg is 48x48 .*{split}/2\.png 32x32"):
            command.run()
        assert not (tmp_path / "run").exists()

    def test_ctrl_c_says_how_to_go_on(self, tmp_path, monkeypatch, capsys):
        from supernet.training.trainer import Trainer

        step = Trainer.step
        count: list[int] = []

        def interrupted(self, batches):
            if count:
                raise KeyboardInterrupt
            count.append(1)
            return step(self, batches)

        folder = own(tmp_path / "data", [blocks(0, 1)] * 11)
        run = tmp_path / "a run"
        flags = ["--task", "segmentation", "--arch", "b0", "--resolution", 64, "--data", folder]
        flags += ["--num-classes", 2, "--steps", 2, "--batch-size", 2, "--workers", 0]
        flags += ["--checkpoint-every", 1, "--out", run, "--quiet"]
        monkeypatch.setattr(Trainer, "step", interrupted)
        with pytest.raises(SystemExit) as caught:
            main(Train, "supernet.train", list(map(str, flags)))
        assert caught.value.code == 130
        said = capsys.readouterr().err
        assert said == f"interrupted; go on: python -m supernet.train --resume '{run}'\n"
        monkeypatch.setattr(Trainer, "step", step)
        Train(resume=run, quiet=True).run()
        assert (run / "model.safetensors").exists()


class TestSizes:
    @pytest.mark.parametrize("side", [20, 64, 100, 200, 375, 512, 1000, 1024, 5000])
    def test_sides_are_near_those_of_the_pictures(self, side):
        sides = sides_for((side, 2 * side))
        assert list(sides) == sorted(set(sides))
        assert all(s % 32 == 0 and 64 <= s <= 1024 for s in sides)
        assert abs(sides[-1] - min(max(side, 64), 1024)) <= 16

    def test_a_few_headers_tell_the_size(self, tmp_path):
        for number, side in enumerate([20, 30, 30, 30, 90]):
            picture(tmp_path / f"{number}.png", side)
        assert typical_size(sorted(tmp_path.iterdir())) == (30, 30)

    def big(self, folder, side=200):
        for number in range(11):
            picture(folder / "images" / f"{number}.png", side)
            save(folder / "masks" / f"{number}.png", blocks(0, 1, 2, side=side))
        return folder

    def test_own_pictures_are_not_trained_at_the_sizes_of_cityscapes(self, tmp_path):
        folder = self.big(tmp_path / "data")
        command = replace(QUICK, resolution=(), data=folder, num_classes=3)
        space = replace(command, arch=None, space="tiny")
        found = plan_training(space)
        assert found.resolutions == ((96, 96), (160, 160), (192, 192))
        assert found.evaluated_subnets["largest"].resolution == (192, 192)
        assert (
            "about 200x200 px, and are trained at 96, 160, 192 px; --resolution" in found.notes[0]
        )
        alone = plan_training(command)
        assert alone.evaluated_subnets["arch"].resolution == (192, 192)
        assert plan_training(replace(space, resolution=("64",))).resolutions == ((64, 64),)
        assert plan_training(replace(space, freeze=("resolution=512x1024",))).resolutions == ()

    def test_a_network_of_a_run_brings_its_classes_and_size(self, tmp_path):
        folder, path = self.big(tmp_path / "data"), tmp_path / "arch.json"
        arch = named_arch("b0", task="segmentation", dataset="cityscapes", num_classes=3)
        path.write_text(replace(arch, resolution=(96, 96)).to_json())
        with pytest.raises(DataError, match="add --num-classes 3, as its masks hold 0 to 2"):
            plan_training(replace(QUICK, data=folder))
        run = tmp_path / "run"
        run.mkdir()
        network = Candidate(Arch.from_json(path.read_text()), 1.0, 0.1, 60.0, 0.5, 1.0, 1.0, 1.0)
        Front((network,), {}, [(1.0, 60.0)], "Bench", "mIoU", "measured", "published").write(run)
        for name in (path, f"{run}#0"):
            found = plan_training(
                replace(QUICK, arch=str(name), resolution=(), data=folder, task=None)
            )
            assert found.task.num_classes == 3
            assert found.arch is not None
            assert found.arch.resolution == (96, 96)
            assert found.notes == (f"3 classes, as {name} has",)

    def test_first_weights_bring_their_classes(self, tmp_path):
        folder = self.big(tmp_path / "data")
        init = segmenter(tmp_path / "w.safetensors", 3)
        found = plan_training(replace(QUICK, data=folder, init=init))
        assert found.task.num_classes == 3

    def test_many_large_pictures_are_decoded_in_part(self, tmp_path, monkeypatch):
        for number in range(10):
            picture(tmp_path / f"{number}.jpg")
        paths = sorted(tmp_path.iterdir())
        assert check_pictures(paths) == ()
        assert check_pictures([]) == ()
        monkeypatch.setattr("supernet.tasks.look.DECODED", 2 * SIDE**2)
        (note,) = check_pictures(paths)
        assert note.startswith("of 10 held-out pictures, whose headers are sound, 2 were decoded")
        paths[1].write_bytes(b"no picture")  # its header is read, too
        with pytest.raises(DataError, match=r"1\.jpg"):
            check_pictures(paths)


def test_of_very_many_pictures_some_headers_are_read(tmp_path, monkeypatch):
    for number in range(5):
        picture(tmp_path / f"{number}.jpg")
    paths = sorted(tmp_path.iterdir())
    assert check_headers(paths) == check_headers([]) == ()
    monkeypatch.setattr("supernet.tasks.look.HEADERS", 3)
    assert check_headers(paths) == ("of 5 pictures to train on, the headers of 3 were read",)


def test_published_figures_are_not_called_those_of_own_classes():
    from predictors.accuracy import load_prior, published

    prior = load_prior("cityscapes")
    own_classes = published("cityscapes", 3)
    assert published("cityscapes", 19) is published("cityscapes", None) is prior
    assert own_classes.metric == f"{prior.metric}, not of your 3 classes"
    arch = named_arch("b1", task="segmentation", dataset="cityscapes", num_classes=3)
    assert own_classes.predict(arch) == prior.predict(arch)
    assert own_classes.to_dict() == prior.to_dict()  # runs of before go on
    assert "not on your 3 classes" in own_classes.describe()


def test_a_network_of_own_classes_is_not_given_the_accuracy_of_published_ones(capsys):
    from nas.predict import Predict

    flags = ["--device", "orin", "--arch", "b0", "--task", "segmentation", "--json"]
    metrics = []
    for more in ([], ["--num-classes", "3"]):
        main(Predict, "nas.predict", [*flags, *more])
        metrics.append(json.loads(capsys.readouterr().out)["metric"])
    assert metrics[1] == f"{metrics[0]}, not of your 3 classes"


def test_an_interrupted_evaluation_says_what_is_kept(tmp_path, monkeypatch, capsys):
    from supernet.evaluation.subnets import SubnetEvaluator
    from supernet.sharing.checkpoint import save_checkpoint
    from supernet.sharing.supernet import Supernet
    from supernet.spaces import get_space

    weights, out = tmp_path / "s.safetensors", tmp_path / "subnets.jsonl"
    frozen = ["resolution=64", "stage4.mixer=none"]
    save_checkpoint(weights, Supernet(get_space("tiny", num_classes=12, freeze=frozen)))
    done: list[int] = []

    def rows(self, arch):
        if done:
            raise KeyboardInterrupt
        done.append(1)
        row = {"arch": arch.to_dict(), "metric": "top1", "value": 1.0, "figures": 1}
        return [row | {name: self.sources.get(name) for name in self.sources}]

    monkeypatch.setattr(SubnetEvaluator, "rows", rows)
    flags = ["--weights", weights, "--sample", 3, "--out", out, "--quiet"]
    with pytest.raises(SystemExit) as caught:
        main(Evaluate, "supernet.evaluate", list(map(str, flags)))
    assert caught.value.code == 130
    said = capsys.readouterr().err
    assert said == (
        f"interrupted; figures of 1 networks are kept in {out}; the same command goes on\n"
    )
    assert len(out.read_text().splitlines()) == 1


def test_another_order_of_classes_is_another_evaluation(tmp_path):
    """Figures that are kept in a file are not those of folders in another order."""
    from supernet.evaluation.rows import SETTINGS, EvaluationLog

    numbers = ("n", "seed", "recalibration_images", "recalibration_batch")
    settings = {name: 2 if name in numbers else "x" for name in SETTINGS if name != "class_order"}
    arch = named_arch("b0")
    row = {"arch": arch.to_dict(), "metric": "top1", "value": 1.0, **settings}
    path = tmp_path / "rows.jsonl"
    EvaluationLog(path, settings).append([row])
    assert list(EvaluationLog(path, settings).by_arch) == [arch]
    assert not EvaluationLog(path, settings | {"class_order": "number"}).by_arch
