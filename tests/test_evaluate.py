"""`python -m supernet.evaluate` equals a loop written by hand, and names what is wrong."""

import hashlib
import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import rgb2ycbcr
from skimage.metrics import peak_signal_noise_ratio

import results.extras
from results.console import main
from results.errors import WeightsError
from supernet.arch import (
    Arch,
    ClassificationHead,
    PromptableHead,
    ReconstructionHead,
    SegmentationHead,
    Stage,
    Stem,
    SuperResolutionHead,
)
from supernet.evaluate import Evaluate
from supernet.evaluation.folders import open_data
from supernet.evaluation.recalibrated import task_of
from supernet.model import build, build_task_model, default_cfg
from supernet.pictures import Normalisation
from supernet.sam.predictor import PromptablePredictor, prepare_image
from supernet.tasks.draw import PLAIN, Draw
from supernet.tasks.splits import spread
from supernet.weights.files import load_weights, official_state_dict, save_weights
from supernet.weights.header import WeightsHeader, read_header
from supernet.weights.preprocessing import SAM_MEAN, SAM_STD, Preprocessing, preprocessing_of
from tests.seeded import seeded_tensor

MODULE = "supernet.evaluate"
forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
STAGES = (
    Stage(8, 1),
    Stage(8, 1),
    Stage(16, 1, mixer="relu_linear", scales=(5,), head_dim=8),
    Stage(16, 1, mixer="relu_linear", scales=(5,), head_dim=8),
)
CLASSIFIER = Arch("b", (64, 64), Stem(8), STAGES, ClassificationHead((32, 32), num_classes=3))
SEGMENTER = replace(CLASSIFIER, head=SegmentationHead(8, 1, 2, "mbconv", 2, 19))
ENLARGER = replace(CLASSIFIER, stem=Stem(8, stride=1), head=SuperResolutionHead(8, 1, 2, scale=2))
PROMPTABLE = replace(CLASSIFIER, head=PromptableHead(1, 1, width=16))
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def picture(path, height, width, seed=0):
    rng = np.random.default_rng([seed, height, width])
    coarse = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(path)
    with Image.open(path) as file:
        return np.array(file)


def mask(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def trained(arch, path):
    """A network with weights and statistics that are no initial values, saved at `path`."""
    model = build_task_model(arch).eval()
    model.load_state_dict({n: seeded_tensor(n, t.shape) for n, t in model.state_dict().items()})
    save_weights(model, path)
    return model


def to_input(pixels):
    x = (pixels / 255 - MEAN) / STD
    return torch.from_numpy(x).float().permute(2, 0, 1)[None]


@pytest.fixture
def answer(capsys):
    def answer(*arguments):
        main(Evaluate, MODULE, ["--json", "--workers", "0", *map(str, arguments)])
        captured = capsys.readouterr()
        assert captured.err == ""
        assert captured.out.count("\n") == 1
        return json.loads(captured.out)

    return answer


@pytest.fixture
def classes(tmp_path):
    """A folder of 8 pictures in 3 classes, weights, and the model."""
    folder = tmp_path / "flowers"
    for number, name in enumerate("cabcabca"):
        picture(folder / "val" / name / f"{number}.png", 64 + number, 80, number)
    weights = tmp_path / "w.safetensors"
    return folder, weights, trained(CLASSIFIER, weights)


@pytest.fixture
def city(tmp_path):
    folder = tmp_path / "city"
    rng = np.random.default_rng(0)
    for number, size in enumerate([(48, 96), (64, 128), (50, 70)]):
        stem = f"x_{number:06}_000019"
        picture(folder / f"leftImg8bit/val/x/{stem}_leftImg8bit.png", *size, number)
        ids = rng.integers(7, 34, size)
        mask(folder / f"gtFine/val/x/{stem}_gtFine_labelIds.png", ids)
    weights = tmp_path / "w.safetensors"
    return folder, weights, trained(SEGMENTER, weights)


@forks
@torch.no_grad()
def test_classification_equals_a_loop_by_hand(classes, answer):
    folder, weights, model = classes
    hits, n = 0, 0
    for label, name in enumerate("abc"):
        for path in sorted((folder / "val" / name).iterdir()):
            with Image.open(path) as file:
                pixels = file.resize((64 * 80 // file.height, 64), Image.Resampling.BICUBIC)
            left = round((pixels.width - 64) / 2)
            x = to_input(np.array(pixels)[:, left : left + 64])
            hits += int(model(x).argmax()) == label
            n += 1
    found = answer("--data", folder, "--weights", weights)
    assert default_cfg(CLASSIFIER)["crop_pct"] == 1.0
    assert found["metrics"]["top1"] == pytest.approx(100 * hits / n)
    assert 0 < hits < n
    assert found["metrics"]["top5"] == 100
    assert found["units"] == dict.fromkeys(found["metrics"], "%")
    assert {k: v for k, v in found.items() if k not in ("metrics", "units", "seconds")} == {
        "data": str(folder),
        "task": "classification",
        "dataset": "flowers",
        "arch": json.loads(CLASSIFIER.to_json()),
        "weights": str(weights),
        "weights_sha256": hashlib.sha256(weights.read_bytes()).hexdigest(),
        "n": 8,
        "provenance": "trained",
        "resolution": "64",
        "precision": "fp32",
        "accelerator": "cpu",
    }
    for options in (["--batch-size", 3], ["--workers", 2]):
        same = answer("--data", folder, "--weights", weights, *options)
        assert same["metrics"] == found["metrics"]


def test_weights_of_the_official_naming_and_an_arch_in_a_file(classes, answer, tmp_path, fails):
    folder, weights, model = classes
    torch.save({"state_dict": official_state_dict(model)}, tmp_path / "w.pt")
    (tmp_path / "arch.json").write_text(CLASSIFIER.to_json())
    error = fails(Evaluate, MODULE, "--data", folder, "--weights", tmp_path / "w.pt")
    assert "w.pt does not tell its architecture; name it by --arch" in error
    options = ["--data", folder, "--weights", tmp_path / "w.pt", "--arch", tmp_path / "arch.json"]
    ours = answer("--data", folder, "--weights", weights)
    assert answer(*options)["metrics"] == ours["metrics"]
    at_96 = answer(*options, "--resolution", "96")
    assert at_96["resolution"] == "96"
    assert at_96["arch"]["resolution"] == [96, 96]


@torch.no_grad()
def test_segmentation_equals_a_loop_by_hand(city, answer):
    folder, weights, model = city
    order = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    hits, said_pixels, true_pixels = np.zeros(19), np.zeros(19), np.zeros(19)
    for path in sorted((folder / "leftImg8bit/val/x").iterdir()):
        pixels = np.array(Image.open(path))
        x = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        x = F.interpolate(x, (64, 128), mode="bicubic").clamp(0, 255).round()
        logits = model(to_input(x[0].permute(1, 2, 0).numpy()))
        logits = F.interpolate(logits, pixels.shape[:2], mode="bicubic")
        said = logits[0].argmax(0).numpy()
        name = path.name.replace("leftImg8bit", "gtFine_labelIds")
        ids = np.array(Image.open(folder / "gtFine/val/x" / name))
        for c, number in enumerate(order):
            true, counted = ids == number, np.isin(ids, order)
            hits[c] += (true & (said == c)).sum()
            true_pixels[c] += true.sum()
            said_pixels[c] += (counted & (said == c)).sum()
    ious = hits / (true_pixels + said_pixels - hits)
    found = answer("--data", folder, "--weights", weights, "--resolution", "64x128")
    assert found["metrics"]["miou"] == pytest.approx(100 * ious.mean(), abs=1e-3)
    assert found["metrics"]["iou_road"] == pytest.approx(100 * ious[0], abs=1e-3)
    assert hits.sum() > 0
    assert (found["dataset"], found["resolution"], found["n"]) == ("cityscapes", "64x128", 3)
    together = answer(
        "--data", folder, "--weights", weights, "--resolution", "64x128", "--batch-size", 2
    )
    assert together["metrics"]["miou"] == pytest.approx(found["metrics"]["miou"], abs=1e-3)


@torch.no_grad()
def test_super_resolution_equals_a_loop_by_hand(tmp_path, answer):
    model = trained(ENLARGER, tmp_path / "w.safetensors")
    figures = []
    for number, size in enumerate([(41, 61), (64, 48)]):
        large = picture(tmp_path / f"pictures/{number}.png", *size, number)[: size[0] // 2 * 2]
        large = large[:, : size[1] // 2 * 2]
        small = Image.fromarray(large).resize(
            (large.shape[1] // 2, large.shape[0] // 2), Image.Resampling.BICUBIC
        )
        x = torch.from_numpy(np.array(small)).permute(2, 0, 1)[None] / 255
        said = (model(x)[0].permute(1, 2, 0).clamp(0, 1) * 255).round().byte().numpy()
        a, b = (rgb2ycbcr(p)[2:-2, 2:-2, 0] for p in (large, said))
        figures.append(peak_signal_noise_ratio(a, b, data_range=255))
    found = answer("--data", tmp_path / "pictures", "--weights", tmp_path / "w.safetensors")
    assert found["metrics"]["psnr_db"] == pytest.approx(np.mean(figures), abs=1e-3)
    assert found["metrics"]["psnr_db_stderr"] == pytest.approx(np.ptp(figures) / 2, abs=1e-3)
    assert (found["resolution"], found["n"], found["dataset"]) == (None, 2, "pictures")


def test_prompts_equal_a_loop_by_hand(tmp_path, answer):
    weights, ious = tmp_path / "w.safetensors", []
    predictor = PromptablePredictor(trained(PROMPTABLE, weights))
    for number in range(2):
        pixels = picture(tmp_path / f"objects/images/{number}.png", 40, 60, number)
        numbers = np.zeros((40, 60))
        numbers[4:30, 5:25], numbers[10:40, 30:50] = 1, 7
        mask(tmp_path / f"objects/masks/{number}.png", numbers)
        predictor.set_image(pixels)
        for label, box in ((1, [5, 4, 25, 30]), (7, [30, 10, 50, 40])):
            found = predictor.predict(box=np.array(box), multimask=True)
            said = found.masks[np.argmax(found.scores)]
            true = numbers == label
            ious.append((said & true).sum() / (said | true).sum())
    found = answer("--data", tmp_path / "objects", "--weights", weights)
    assert found["metrics"]["miou"] == pytest.approx(100 * np.mean(ious))
    assert found["metrics"]["objects"] == 4
    assert found["task"] == "promptable"


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_halves_run_and_stay_near(city, answer, precision):
    folder, weights, _ = city
    options = ["--data", folder, "--weights", weights, "--resolution", "64x128"]
    full, half = answer(*options), answer(*options, "--precision", precision)
    assert half["precision"] == precision
    assert half["metrics"]["pixel_accuracy"] == pytest.approx(
        full["metrics"]["pixel_accuracy"], abs=2
    )


def test_a_limit_is_spread_over_the_classes(classes, answer):
    folder, weights, _ = classes
    options = ["--data", folder, "--weights", weights, "--limit"]
    assert answer(*options, 4)["n"] == 4
    assert answer(*options, 100)["n"] == 8
    letters: Any = "aaaabbbbcccc"
    chosen: Any = spread(letters, 3)
    assert list(chosen) == ["a", "b", "c"]


def test_for_people(classes, capsys):
    folder, weights, _ = classes
    options = ["--data", str(folder), "--weights", str(weights), "--workers", "0"]
    main(Evaluate, MODULE, options)
    captured = capsys.readouterr()
    assert captured.err.startswith("8/8 pictures, ")
    lines = captured.out.splitlines()
    assert lines[0] == f"classification: {CLASSIFIER.describe()}, 64 px"
    sha = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert lines[1].endswith(f"{weights}, sha256 {sha[:12]}, trained")
    assert f"flowers ({folder}), pictures: 8, fp32 on cpu" in lines[2]
    assert lines[3].split()[0] == "top1"
    assert lines[3].split()[2] == "±"
    main(Evaluate, MODULE, [*options, "--quiet"])
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "FOLDER"], ["random weights evaluate nothing", "--weights"]),
        (["--data", "FOLDER", "--weights", "none.pt"], ["no file none.pt"]),
        (["--data", "flower", "--weights", "FILE"], ["no folder flower; did you mean 'flowers'?"]),
        (["--data", "empty", "--weights", "FILE"], ["no labelled pictures", "found nothing"]),
        (["--task", "classify", "+"], ["no task 'classify'", "'classification'"]),
        (["--task", "segmentation", "+"], ["the arch does classification"]),
        (["--dataset", "imagnet", "+"], ["did you mean 'imagenet'"]),
        (["--dataset", "ade20k", "+"], ["ade20k is no data set for classification"]),
        (["--precision", "fp8", "+"], ["no precision 'fp8'", "fp32"]),
        (["--accelerator", "gpu", "+"], ["no accelerator 'gpu'", "cpu, cuda"]),
        (["--limit", "0", "+"], ["--limit must be 1 or more, not 0"]),
        (["--batch-size", "0", "+"], ["--batch-size must be 1"]),
        (["--workers", "-1", "+"], ["--workers must be 0"]),
        (["--resolution", "big", "+"], ["resolution 'big'"]),
        (["--arch", "b9", "+"], ["no arch or file 'b9'"]),
        (["--arch", "b0", "+"], ["does not fit", "of 3 classes; leave --arch out"]),
        (["--num-classes", "7", "+"], ["the network has 3 classes", "leave --num-classes 7 out"]),
        (["--arch", "b0", "--task", "super_resolution", "+"], ["choose from sr_x2"]),
        (["--weights", "FOLDER", "--data", "FOLDER"], ["is a folder; --weights takes a file"]),
        (["--arch", "b0", "--num-classes", "3", "+"], ["does not fit", "leave --arch out"]),
        (["--task", "segmentation", "--arch", "b0", "+"], ["does not fit b 8x1"]),
    ],
)
def test_what_is_wrong_is_named(classes, fails, monkeypatch, arguments, words):
    folder, weights, _ = classes
    monkeypatch.chdir(folder.parent)
    Path("empty").mkdir()
    if arguments[-1] == "+":
        arguments = [*arguments[:-1], "--data", "FOLDER", "--weights", "FILE"]
    names = {"FOLDER": folder, "FILE": weights}
    error = fails(Evaluate, MODULE, *(names.get(a, a) for a in arguments))
    for word in words:
        assert word in error


@forks
def test_a_damaged_picture_is_named(classes, fails):
    folder, weights, _ = classes
    path = folder / "val" / "b" / "2.png"
    path.write_bytes(path.read_bytes()[:200])
    for workers in (0, 1):
        error = fails(
            Evaluate, MODULE, "--data", folder, "--weights", weights, "--workers", workers
        )
        assert f"cannot read picture {path}" in error


def test_damaged_weights_and_weights_that_overflow(classes, fails):
    folder, weights, model = classes
    with torch.no_grad():
        next(model.parameters()).mul_(1e6)
    save_weights(model, weights)
    options = ["--data", folder, "--weights", weights, "--precision", "fp16"]
    error = fails(Evaluate, MODULE, *options)
    assert "output is not finite in torch.float16" in error
    assert "try --precision fp32" in error
    weights.write_bytes(weights.read_bytes()[:5000])
    assert "w.safetensors is damaged" in fails(Evaluate, MODULE, *options)


@pytest.mark.parametrize(
    ("value", "precision", "cure"),
    [
        (float("nan"), "fp32", "the weights hold NaN or infinity, in stem.0."),
        (float("inf"), "fp32", "the weights hold NaN or infinity, in stem.0."),
        (float("nan"), "bf16", "the weights hold NaN or infinity, in stem.0."),
        (3e38, "fp32", "the weights are the cause; give other --weights"),
    ],
)
def test_another_precision_is_not_the_cure_of_broken_weights(
    classes, fails, value, precision, cure
):
    folder, weights, model = classes
    with torch.no_grad():
        next(model.parameters()).fill_(value)
    save_weights(model, weights)
    error = fails(
        Evaluate, MODULE, "--data", folder, "--weights", weights, "--precision", precision
    )
    assert "not finite in torch." in error
    assert cure in error
    assert "--precision" not in error


def test_prompts_of_broken_weights_name_them(tmp_path, fails):
    weights = tmp_path / "w.safetensors"
    model = trained(PROMPTABLE, weights)
    with torch.no_grad():
        next(model.image_encoder.parameters()).fill_(float("nan"))
    save_weights(model, weights)
    picture(tmp_path / "objects/images/0.png", 40, 60)
    numbers = np.zeros((40, 60))
    numbers[4:30, 5:25] = 1
    mask(tmp_path / "objects/masks/0.png", numbers)
    error = fails(Evaluate, MODULE, "--data", tmp_path / "objects", "--weights", weights)
    assert "0.png: scores are not finite; the weights hold NaN or infinity, in " in error
    assert "--precision" not in error


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_that_is_not_there(classes, fails):
    folder, weights, _ = classes
    options = ["--data", folder, "--weights", weights, "--accelerator", "cuda"]
    assert "no CUDA device is here" in fails(Evaluate, MODULE, *options)


@pytest.mark.parametrize("module", ["torch", "safetensors", "PIL"])
def test_a_missing_extra_is_named(classes, fails, monkeypatch, module):
    folder, weights, _ = classes
    monkeypatch.setattr(
        results.extras, "find_spec", lambda name: None if name == module else find_spec(name)
    )
    error = fails(Evaluate, MODULE, "--data", folder, "--weights", weights)
    assert f'{module} is missing; install it with `pip install -e ".[torch]"`' in error


def test_named_networks_take_their_head_from_the_layout(city, fails):
    """B0 for Cityscapes has 19 classes; that of the file here is smaller, so it must not fit."""
    folder, weights, _ = city
    options = ["--data", folder, "--weights", weights, "--arch", "b0", "--task", "segmentation"]
    assert "does not fit b 8x1" in fails(Evaluate, MODULE, *options)
    ade = [*options, "--arch", "b1", "--dataset", "ade20k"]
    assert "does not fit b 16x1" in fails(Evaluate, MODULE, *ade)
    assert "head 32x1" in fails(Evaluate, MODULE, *options[:6])  # the folder tells the task


def test_an_arch_without_a_head(classes, fails):
    folder, weights, _ = classes
    save_weights(build(replace(CLASSIFIER, head=None)), weights)
    error = fails(Evaluate, MODULE, "--data", folder, "--weights", weights)
    assert "has no head" in error


def test_a_folder_is_called_what_it_is(classes, answer):
    """--dataset chooses a head; it does not make the folder that data set."""
    folder, weights, _ = classes
    options = ["--data", folder, "--weights", weights, "--dataset", "imagenet"]
    assert answer(*options)["dataset"] == "flowers"


def test_a_layout_that_contradicts_is_named(city, fails):
    folder, weights, _ = city
    options = ["--data", folder, "--weights", weights, "--dataset", "ade20k"]
    assert "is cityscapes, not ade20k; leave --dataset out" in fails(Evaluate, MODULE, *options)


def damage_training_pictures(task):
    """Whatever reads one fails."""
    trained_on = task.source.files_trained_on()
    for path in trained_on:
        path.write_bytes(b"damaged")
    return len(trained_on)


def unsplit(arch, folder):
    """24 pictures as `arch` is trained on them, without train/ and val/."""
    rng = np.random.default_rng(0)
    for number in range(24):
        name = f"{number:02}.png"
        if arch.task == "classification":
            picture(folder / "abc"[number // 8] / name, 64, 64, number)
        elif arch.task in ("segmentation", "promptable"):
            picture(folder / "images" / name, 64, 64, number)
            mask(folder / "masks" / name, np.kron(rng.integers(0, 3, (2, 2)), np.ones((32, 32))))
        else:
            picture(folder / name, 64, 64, number)


@pytest.mark.parametrize("how", ["steps", "supernet_sha256"])
@pytest.mark.parametrize(
    "arch",
    [
        CLASSIFIER,
        replace(CLASSIFIER, head=SegmentationHead(8, 1, 2, "mbconv", 2, 3)),
        ENLARGER,
        PROMPTABLE,
        replace(CLASSIFIER, head=ReconstructionHead()),
    ],
    ids=lambda arch: arch.task,
)
def test_a_trained_network_is_not_shown_what_it_was_trained_on(answer, tmp_path, arch, how):
    folder, weights = tmp_path / "pictures", tmp_path / "w.safetensors"
    unsplit(arch, folder)
    model = trained(arch, weights)
    save_weights(model, weights, **{how: 5})
    task: Any = task_of(arch, read_header(weights), folder)
    number = damage_training_pictures(task)
    found = answer("--data", folder, "--weights", weights)
    assert found["n"] == 24 - number > 0
    assert found["dataset"] == "pictures"
    assert found["metrics"][task.primary] >= 0


OTHER = Preprocessing((0.2, 0.4, 0.6), (0.5, 0.4, 0.3), "bicubic", 0.7, "crop")


@pytest.mark.parametrize(
    "arch",
    [
        CLASSIFIER,
        replace(CLASSIFIER, head=SegmentationHead(8, 1, 2, "mbconv", 2, 3)),
        ENLARGER,
        PROMPTABLE,
    ],
    ids=lambda arch: arch.task,
)
def test_pictures_are_prepared_as_the_weights_tell(answer, tmp_path, arch):
    """Weights from here are shown what is held out: as others are that are shown it alone."""
    folder, alone = tmp_path / "pictures", tmp_path / "held out"
    ours, elsewhere, usual = (tmp_path / f"{name}.safetensors" for name in "abc")
    unsplit(arch, folder)
    model = trained(arch, usual)
    told = WeightsHeader(preprocessing=OTHER).to_metadata()
    save_weights(model, ours, **told, steps=5)
    save_weights(model, elsewhere, **told)
    save_weights(model, usual, steps=5)
    task: Any = task_of(arch, read_header(ours), folder)
    for path in task.source.files_held_out():
        for file in folder.rglob(f"{path.stem}.*"):
            copy = alone / file.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    found = answer("--data", folder, "--weights", ours)
    expected = answer("--data", alone, "--weights", elsewhere)
    assert found["n"] == expected["n"] > 0
    assert found["metrics"] == expected["metrics"]
    if arch.task == "promptable":  # the predictor prepares them
        return
    first, same, other = (
        open_data(arch, read_header(weights), pictures).data[0][0]
        for weights, pictures in ((ours, folder), (elsewhere, alone), (usual, folder))
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "arch",
    [
        replace(CLASSIFIER, head=ClassificationHead((32, 32), 12)),
        replace(CLASSIFIER, head=SegmentationHead(8, 1, 2, "mbconv", 2, 8)),
        ENLARGER,
        replace(CLASSIFIER, head=ReconstructionHead()),
    ],
    ids=lambda arch: arch.task,
)
def test_embedded_pictures_are_normalised_as_the_weights_tell(arch):
    """To train on, held out, and those of statistics."""
    header = WeightsHeader(arch=arch, preprocessing=OTHER, seed=0)
    usual, other = (task_of(arch, h, None) for h in (WeightsHeader(), header))
    own = preprocessing_of(arch)
    mean, std = ([torch.tensor(v)[:, None, None] for v in values] for values in (
        (own.mean, OTHER.mean), (own.std, OTHER.std)
    ))  # fmt: skip
    draw = Draw(3, 0, arch.resolution, 0)
    for read in (
        lambda task: task.held_out(arch)[0][3][0],
        lambda task: task.sample(draw, PLAIN)[0],
        lambda task: next(task.recalibration_batches(arch, 1, 1, 0, 0))[0],
    ):
        expected = (read(usual) * std[0] + mean[0] - mean[1]) / std[1]
        if arch.task == "pretrain":  # what is hidden is 0 in both
            hidden = read(usual) == 0
            expected[hidden] = 0
        assert torch.allclose(read(other), expected, atol=1e-5)


def test_a_supernet_s_crop_is_each_subnet_s_own(classes):
    folder, _, _ = classes
    arch = replace(CLASSIFIER, head=ClassificationHead((32, 32), 3))
    for number in range(4):
        for label in "abc":
            picture(folder / "train" / label / f"{number}.png", 64, 64, number)
    network = WeightsHeader(arch=arch, preprocessing=OTHER)
    for header, crop_pct in ((network, 0.7), (replace(network, kind="supernet"), 1.0)):
        pictures: Any = task_of(arch, header, folder).held_out(arch)[0]
        assert pictures.preparation.crop_pct == crop_pct
        assert pictures.preparation.normalisation == (OTHER.mean, OTHER.std)


def test_a_predictor_prepares_pictures_as_its_weights_tell(tmp_path):
    path = tmp_path / "w.safetensors"
    trained(PROMPTABLE, path)
    pixels = np.random.default_rng(0).integers(0, 255, (40, 64, 3), np.uint8)
    seen = []
    for preprocessing in (None, OTHER):
        model: Any = build_task_model(PROMPTABLE)
        metadata = WeightsHeader(preprocessing=preprocessing).to_metadata()
        save_weights(model, path, **metadata)
        load_weights(model, path)
        model.image_encoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        PromptablePredictor(model).set_image(pixels)
    for x, mean, std in zip(seen, (SAM_MEAN, OTHER.mean), (SAM_STD, OTHER.std), strict=True):
        side = x.shape[-1]
        assert torch.equal(x[0], prepare_image(pixels, side, Normalisation(mean, std)))
    assert not torch.equal(seen[0], seen[1])


def test_weights_from_elsewhere_are_shown_all_pictures(answer, tmp_path):
    unsplit(CLASSIFIER, tmp_path / "p")
    trained(CLASSIFIER, tmp_path / "w.safetensors")
    assert answer("--data", tmp_path / "p", "--weights", tmp_path / "w.safetensors")["n"] == 24


def test_a_trained_network_needs_no_training_pictures(classes, answer):
    folder, weights, model = classes
    save_weights(model, weights, steps=5)
    assert answer("--data", folder, "--weights", weights)["n"] == 8  # there is val/ alone


def test_the_number_of_training_pictures_is_that_of_the_file(classes):
    _, weights, model = classes
    save_weights(model, weights, num_train=96, seed=3)
    arch = replace(CLASSIFIER, head=ClassificationHead((32, 32), num_classes=12))
    assert task_of(arch, read_header(weights), None).num_train == 96
    save_weights(model, weights, num_train="many")
    with pytest.raises(WeightsError, match="damaged: its num_train is 'many'"):
        task_of(arch, read_header(weights), None)


def test_a_data_set_does_not_go_with_pretrained_weights(tmp_path, fails):
    weights = tmp_path / "w.safetensors"
    trained(replace(CLASSIFIER, head=ReconstructionHead()), weights)
    error = fails(Evaluate, MODULE, "--weights", weights, "--dataset", "imagenet")
    assert "imagenet is no data set for pretrain (choose from none, leave it out)" in error
