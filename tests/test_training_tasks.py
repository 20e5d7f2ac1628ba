"""What tasks give a training loop: the same samples anywhere, labels that move along, figures."""

import json
import math
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from results.errors import ArchError, DataError, UserError, WeightsError
from supernet.arch import (
    Arch,
    ClassificationHead,
    Head,
    PromptableHead,
    ReconstructionHead,
    SegmentationHead,
    Stage,
    Stem,
    SuperResolutionHead,
)
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.model import build, build_task_model
from supernet.official import dataset_of
from supernet.sam.model import FRAME, Sam
from supernet.sharing.supernet import Supernet
from supernet.spaces import get_space
from supernet.tasks import augment, choose
from supernet.tasks.annotated_pictures import AnnotatedPicture, Instance, Numbered, box_of
from supernet.tasks.classification import TopAccuracy
from supernet.tasks.draw import EMBEDDED, PLAIN, Augment, Draw
from supernet.tasks.options import TASKS, TaskOptions
from supernet.tasks.pretrain import HiddenPixels, hide
from supernet.tasks.prompts import PROMPTS, ask, low_resolution
from supernet.tasks.splits import evenly
from supernet.tasks.task import EvaluationSettings, to_device
from supernet.weights.files import read_weights, save_weights
from supernet.weights.preprocessing import IMAGENET_MEAN, IMAGENET_STD

forks = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
CPU = torch.device("cpu")
STAGES = (
    Stage(8, 1),
    Stage(8, 1),
    Stage(16, 1, mixer="relu_linear", head_dim=8, scales=(5,)),
    Stage(16, 1, mixer="relu_linear", head_dim=8),
)
HEADS: dict[str, Head] = {
    "classification": ClassificationHead((32, 32), 12),
    "segmentation": SegmentationHead(8, 1, 2, "mbconv", 0, 8),
    "super_resolution": SuperResolutionHead(8, 1, 2, 2),
    "promptable": PromptableHead(1, 1, width=16),
    "pretrain": ReconstructionHead(),
}
ALL_OF_IT = Augment(
    crop_scale=(0.2, 1.0), rand_augment=3, magnitude=9, erasing=0.5, scale_jitter=(0.5, 2)
)


def training_task(name: str, **options: Any) -> Any:
    """Of which more is looked at than training does."""
    return choose.training_task(TaskOptions(name, **options))


def arch_for(name, side=64):
    stem = Stem(8, 1, stride=1 if name == "super_resolution" else 2)
    return Arch("b", (side, side), stem, STAGES, HEADS[name])


def read(task, draws, workers):
    loader = DataLoader(
        task.train_data(), batch_sampler=draws, num_workers=workers, collate_fn=task.collate
    )
    return [[x, *([y] if torch.is_tensor(y) else y)] for x, y in loader]


def noise(height, width, seed=0):
    return np.random.default_rng((seed, height, width)).integers(0, 256, (height, width, 3))


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, np.uint8)).save(path)
    return path


class TestDraws:
    @forks
    @pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")
    @pytest.mark.parametrize("name", TASKS)
    def test_a_sample_is_a_function_of_its_draw(self, name):
        sizes = [(64, 64), (32, 32) if name != "promptable" else (64, 64)]
        batches = [
            [Draw(index, epoch, sizes[epoch], seed) for index in (5, 0, 19_999)]
            for epoch in range(2)
            for seed in (1, 2)
        ]
        here = read(training_task(name, augment=ALL_OF_IT), batches, workers=0)
        there = read(training_task(name, augment=ALL_OF_IT), batches[::-1], workers=2)[::-1]
        for a, b in zip(here, there, strict=True):
            for one, other in zip(a, b, strict=True):
                assert torch.equal(one, other)
        assert not torch.equal(here[0][0], here[1][0])  # another seed varies otherwise
        assert here[2][0].shape == (3, 3, *sizes[1])
        assert all(x.dtype == torch.float32 and x.isfinite().all() for x, *_ in here)

    def test_few_pictures_are_the_first_of_many_and_balanced(self):
        few, many = training_task("classification", num_train=24), training_task("classification")
        assert (few.num_train, many.num_train) == (24, 20_000)
        labels = []
        for index in range(24):
            draw = Draw(index, 0, (32, 32), 0)
            x, label = few.train_data()[draw]
            assert torch.equal(x, many.train_data()[draw][0])
            labels.append(int(label))
        assert np.bincount(labels).tolist() == [2] * 12
        with pytest.raises(IndexError):
            few.train_data()[Draw(24, 0, (32, 32), 0)]

    def test_seed_of_the_set_draws_other_training_pictures_and_the_same_held_out_ones(self):
        one, other = (training_task("segmentation", seed=seed, augment=PLAIN) for seed in (0, 1))
        draw = Draw(3, 0, (32, 32), 0)
        assert not torch.equal(one.train_data()[draw][0], other.train_data()[draw][0])
        arch = arch_for("segmentation", 32)
        assert torch.equal(one.held_out(arch)[0][3][0], other.held_out(arch)[0][3][0])
        assert not torch.equal(one.train_data()[draw][0], one.held_out(arch)[0][3][0])

    @pytest.mark.parametrize("name", ["classification", "segmentation", "pretrain"])
    def test_recalibration_sees_training_pictures_that_are_not_varied(self, name):
        task = training_task(name, num_train=5)
        batches = list(task.recalibration_batches(arch_for(name), 7, 4, seed=3))
        assert [x.shape for x in batches] == [(4, 3, 64, 64), (3, 3, 64, 64)]
        plain = training_task(name, num_train=5, augment=PLAIN).train_data()
        if name != "pretrain":
            known = [plain[Draw(i, 0, (64, 64), 0)][0] for i in range(5)]
            seen = [next(i for i, k in enumerate(known) if torch.equal(x, k)) for x in batches[0]]
            assert len(set(seen)) == 4
        again = list(task.recalibration_batches(arch_for(name), 7, 4, seed=3))
        assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))


class TestTraining:
    @pytest.mark.parametrize("name", TASKS)
    def test_every_weight_gets_a_finite_gradient(self, name):
        torch.manual_seed(0)
        task, arch = training_task(name), arch_for(name)
        count = 1 if name == "promptable" else 3
        samples = [task.train_data()[Draw(i, 0, arch.resolution, 0)] for i in range(count)]
        x, target = task.mix(*task.collate(samples), torch.Generator().manual_seed(0))
        target = to_device(target, CPU)
        model = build_task_model(arch)
        network = model.image_encoder if isinstance(model, Sam) else model
        decoder = model if isinstance(model, Sam) else None
        network.train(name != "promptable")  # of one picture there are no statistics
        output = network(x)
        loss = task.loss(output, target, decoder)
        loss = loss + task.distill(output, output.detach() * 0.9 + 0.1, None)
        loss.backward()
        assert loss.dtype == torch.float32
        assert loss.dim() == 0
        for weight, parameter in model.named_parameters():
            if "mask_downscaling" in weight or "point_embeddings.0" in weight:
                continue  # of prompts that are not asked
            if "mask_tokens" in weight or "hypernetworks_mlps" in weight:
                continue  # only the best of the masks learns
            assert parameter.grad is not None, weight
            assert parameter.grad.isfinite().all(), weight

    @pytest.mark.parametrize("alpha", [None, 1.0])
    @pytest.mark.parametrize("name", ["classification", "segmentation"])
    def test_a_student_is_drawn_to_its_teacher(self, name, alpha):
        task = training_task(name)
        torch.manual_seed(1)
        output = torch.randn(2, 5, *([4, 4] if name == "segmentation" else [])).requires_grad_()
        teacher = torch.randn(2, 5, *([6, 6] if name == "segmentation" else []))
        start = float(task.distill(output, teacher, alpha).detach())
        optimiser = torch.optim.Adam([output], lr=0.1)
        for _ in range(60):
            optimiser.zero_grad()
            task.distill(output, teacher, alpha).backward()
            optimiser.step()
        assert float(task.distill(output, teacher, alpha).detach()) < 0.1 * start

    def test_mixed_labels_are_shares(self):
        task = training_task("classification", augment=Augment(mixup=0.5, cutmix=0.5))
        x, labels = torch.randn(6, 3, 8, 8), torch.arange(6)
        _, shares = task.mix(x, labels, torch.Generator().manual_seed(0))
        torch.testing.assert_close(shares.sum(1), torch.ones(6))
        assert task.loss(torch.randn(6, 12), shares, None).isfinite()
        plain = training_task("classification", augment=PLAIN)
        assert plain.mix(x, labels, None)[1] is labels


class TestEvaluation:
    def test_figures_are_those_of_the_metric(self):
        torch.manual_seed(0)
        task, arch = training_task("classification"), arch_for("classification", 32)
        model = build(arch).eval()
        found = task.evaluate(model, arch, EvaluationSettings(8, limit=50, workers=0))
        data, metric = task.held_out(arch)[0], TopAccuracy()
        with torch.no_grad():
            for i in evenly(range(2000), 50):
                x, label = data[i]
                metric.update(model(x[None]), label[None])
        assert found == {**metric.compute(), "n": 50}
        again = task.evaluate(model, arch, EvaluationSettings(7, limit=50, workers=0))
        assert again == found

    @pytest.mark.parametrize("name", TASKS)
    def test_held_out_pictures_do_not_depend_on_augmentation(self, name):
        def shown(difficulty=None, **settings):
            task = training_task(name, **settings)
            if difficulty is not None:
                task.source.difficulty = difficulty
            found = task.held_out(arch_for(name))[0][3]
            return found.pixels if name == "promptable" else found[0].numpy()

        expected = shown()
        for settings in (ALL_OF_IT, PLAIN, Augment()):
            assert np.array_equal(shown(augment=settings), expected)
        assert not np.array_equal(shown(difficulty=0.9), expected)

    def test_a_network_that_knows_the_pixels_scores_best_and_the_mean_colour_less(self):
        task, arch = training_task("pretrain"), arch_for("pretrain")
        knows, mean = HiddenPixels(), HiddenPixels()
        data, _ = task.held_out(arch)
        truth = torch.stack([data[i][1] for i in range(6)])
        knows.update(truth[:, :3] + 0.01, truth)
        mean.update(torch.zeros_like(truth[:, :3]), truth)
        std = math.sqrt(np.mean(np.square(IMAGENET_STD)))
        assert knows.compute()["l1"] == pytest.approx(0.01, abs=1e-6)
        expected = -20 * math.log10(0.01 * std)
        assert knows.compute()["psnr_db"] == pytest.approx(expected, abs=1e-3)
        assert mean.compute()["psnr_db"] < 20

    def test_bicubic_enlarging_is_what_an_untrained_residual_adds_to(self):
        task, arch = training_task("super_resolution"), arch_for("super_resolution", 32)

        class Nearest(nn.Module):
            def forward(self, x):
                return x.repeat_interleave(2, 2).repeat_interleave(2, 3)

        found = task.evaluate(Nearest(), arch, EvaluationSettings(2, limit=6, workers=0))
        assert 12 < found["psnr_db"] < 40
        with pytest.raises(DataError, match="scale"):
            training_task("super_resolution", scale=4).held_out(arch)

    def test_promptable_figures_are_of_boxes(self):
        torch.manual_seed(0)
        task, arch = training_task("promptable"), arch_for("promptable")
        model = build_task_model(arch).eval()
        found = task.evaluate(model, arch, EvaluationSettings(1, limit=1, workers=0))
        assert found["objects"] == 8
        assert found["n"] == 1
        assert 0 <= found["miou"] <= 100


class TestAugmentation:
    def test_labels_move_with_their_pixels(self):
        """Colours tell the labels; where both are whole they still agree."""
        labels = np.arange(12, dtype=np.uint8).reshape(3, 4).repeat(20, 0).repeat(15, 1)
        image = Image.fromarray(np.stack([labels * 20] * 3, -1))
        for seed in range(12):
            rng = np.random.default_rng(seed)
            part, moved = augment.scaled_crop(image, labels, (48, 40), rng, (0.3, 2.0))
            grey = np.array(part)[..., 0]
            assert moved.shape == grey.shape == (48, 40)
            known = moved != 255
            near = np.abs(grey[known].astype(int) - 20 * moved[known]) <= 10
            assert near.mean() > 0.85  # edges between labels are blurred
            assert (np.array(part)[~known] == augment.GREY).all()
        assert (~known).any() or known.all()

    def test_a_mirrored_picture_has_mirrored_labels(self):
        plain = training_task("segmentation", augment=PLAIN).train_data()
        flipping = training_task("segmentation", augment=replace(PLAIN, flip=True)).train_data()
        mirrored = 0
        for epoch in range(12):
            draw = Draw(4, epoch, (32, 48), 0)
            (x, labels), (y, moved) = plain[draw], flipping[draw]
            if not torch.equal(x, y):
                x, labels = x.flip(-1), labels.flip(-1)
                mirrored += 1
            assert torch.equal(x, y)
            assert torch.equal(labels, moved)
        assert 2 <= mirrored <= 10

    def test_small_pictures_are_padded_and_large_ones_cut(self):
        rng = np.random.default_rng(0)
        image, labels = (
            Image.fromarray(noise(20, 30).astype(np.uint8)),
            np.zeros((20, 30), np.uint8),
        )
        _, padded = augment.scaled_crop(image, labels, (32, 32), rng, (0.5, 0.5))
        assert 0.1 < (padded == 0).mean() < 0.6
        _, full = augment.scaled_crop(image, labels, (32, 32), rng, (1.0, 1.0))
        assert (full == 0).all()

    def test_a_crop_is_a_part_of_the_picture(self):
        y, x = np.mgrid[:120, :160]
        image = Image.fromarray(np.stack([x, y, 0 * x], -1).astype(np.uint8))
        for seed in range(20):
            rng = np.random.default_rng(seed)
            part = np.array(augment.random_resized_crop(image, (40, 40), rng, (0.3, 0.5)))
            wide = float(part[20, -4, 0]) - float(part[20, 3, 0])
            tall = float(part[-4, 20, 1]) - float(part[3, 20, 1])
            share = wide * tall * (40 / 33) ** 2 / (120 * 160)
            assert 0.25 < share < 0.56
            assert 0.65 < wide / tall < 1.55
        whole = augment.random_resized_crop(image, (60, 60), rng, (1.0, 1.0))
        assert abs(float(np.array(whole)[30, 30, 0]) - 80) < 3  # centred

    @pytest.mark.parametrize("number", range(len(augment.OPERATIONS)))
    def test_operations_change_more_with_their_strength(self, number):
        image = Image.fromarray((noise(6, 6) // 2 + 40).astype(np.uint8)).resize((48, 48))
        operation = augment.OPERATIONS[number]
        changes = [
            np.abs(np.array(operation(image, m, 1.0), int) - np.array(image)).mean()
            for m in (0.0, 0.2, 1.0)
        ]
        if number < 2:  # autocontrast and equalize have no strength
            assert changes[0] == changes[2] > 1
        else:
            assert changes[0] <= 1  # equal, but for rounding
            assert changes[0] <= changes[1] < changes[2]

    def test_erasing_is_a_rectangle(self):
        for seed in range(10):
            x = torch.full((3, 40, 50), 9.0)
            augment.erase(x, np.random.default_rng(seed))
            rows, columns = (x[0] != 9).any(1).nonzero(), (x[0] != 9).any(0).nonzero()
            erased = (x != 9).float().mean()
            box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1) / 2000
            assert 0.01 < float(erased) < 0.36
            assert float(erased) == pytest.approx(float(box))

    def test_photometric_changes_all_or_nothing(self):
        pixels = noise(8, 8).astype(np.uint8)
        assert augment.photometric(pixels, np.random.default_rng(0), 0.0) is pixels
        assert not np.array_equal(
            augment.photometric(pixels, np.random.default_rng(0), 0.4), pixels
        )

    def test_impossible_settings_are_named(self):
        with pytest.raises(UserError, match="erasing"):
            Augment(erasing=2)
        with pytest.raises(UserError, match="crop_scale"):
            Augment(crop_scale=(0.5, 0.1))
        with pytest.raises(UserError, match="mixup"):
            Augment(mixup=-1)


class TestPretraining:
    def test_a_head_gives_pixels(self):
        for side in (64, 96):
            arch = arch_for("pretrain", side)
            assert Arch.from_json(arch.to_json()) == arch
            model = build(arch)
            assert model(torch.zeros(2, 3, side, side)).shape == (2, 3, side, side)
            names = [block.name for block in blocks_of(arch)]
            assert names[-2:] == ["head.patches", "head.shuffle"]
            assert blocks_of(arch)[-1].out_size == (side, side)
            trainable = sum(p.numel() for p in model.parameters())
            assert network_cost(blocks_of(arch)).params == trainable
        with pytest.raises(ArchError, match="divisible by 32"):
            arch_for("pretrain", 80)

    @pytest.mark.parametrize("name", ["tiny", "all"])
    def test_backbones_are_those_of_the_space_for_classes(self, name):
        pixels, classes = get_space(name, task="pretrain"), get_space(name)
        assert pixels.size == classes.size
        for seed in range(20):
            arch, other = (space.sample(random.Random(seed)) for space in (pixels, classes))
            assert arch.head == ReconstructionHead()
            assert replace(arch, head=None) == replace(other, head=None)
            assert pixels.decode(pixels.encode(arch)) == arch

    def test_a_supernet_gives_pixels(self):
        space = get_space("tiny", task="pretrain")
        supernet = Supernet(space).eval()
        x = torch.randn(1, 3, 64, 64)
        for seed in range(3):
            arch = space.sample(random.Random(seed))
            torch.testing.assert_close(
                supernet(x, arch), supernet.extract(arch).eval()(x), atol=1e-5, rtol=1e-5
            )

    def test_nothing_is_predicted_for_it(self):
        with pytest.raises(ArchError, match="choose from classification"):
            dataset_of("pretrain", None)

    def test_patches_are_hidden_and_nothing_else(self):
        x = torch.randn(3, 96, 128) + 5
        for seed in range(5):
            hidden, target = hide(x, np.random.default_rng(seed))
            mask = target[3]
            assert torch.equal(target[:3], x)
            assert torch.equal(hidden[:, mask == 0], x[:, mask == 0])
            assert hidden[:, mask == 1].abs().max() == 0
            patches = mask.unfold(0, 32, 32).unfold(1, 32, 32).flatten(0, 1).mean((1, 2))
            assert sorted(patches.tolist()) == [0.0] * 5 + [1.0] * 7
        with pytest.raises(UserError, match="divisible by 32"):
            hide(torch.zeros(3, 80, 96), np.random.default_rng(0))

    @pytest.mark.parametrize("dataset", ["cells", "shapes", "leaves"])
    def test_every_embedded_set_serves(self, dataset):
        task = training_task("pretrain", dataset=dataset)
        x, target = task.train_data()[Draw(7, 0, (64, 64), 0)]
        assert x.shape == (3, 64, 64)
        assert target.shape == (4, 64, 64)
        assert task.dataset == dataset


class TestPrompts:
    def picture(self):
        numbers = np.zeros((60, 90), int)
        numbers[5:20, 10:40], numbers[30:55, 50:88] = 1, 2
        instances = tuple(
            Instance(box_of(numbers == n), float((numbers == n).sum()), Numbered(numbers, n))
            for n in (1, 2)
        )
        return AnnotatedPicture(Path("x"), np.zeros((60, 90, 3), np.uint8), instances)

    @pytest.mark.parametrize("mirrored", [False, True])
    def test_prompts_point_at_their_masks(self, mirrored):
        for seed in range(5):
            rng = np.random.default_rng(seed)
            boxes, points, labels, masks = ask(self.picture(), rng, mirrored=mirrored)
            half = PROMPTS // 2
            for box, mask in zip(boxes, masks[:half], strict=True):
                y, x = np.nonzero(mask.numpy())
                inner = [x.min(), y.min(), x.max() + 1, y.max() + 1]
                assert np.abs(box.numpy() * 256 / FRAME - inner).max() <= 1
            for spots, kinds, mask in zip(points, labels, masks[half:], strict=True):
                there = spots[kinds == 1]
                assert 1 <= len(there) <= 10
                assert set(kinds.tolist()) <= {1, -1}
                x, y = ((there + 0.5) * 256 / FRAME).floor().long().unbind(1)
                assert mask[y, x].float().mean() >= 0.8  # edges are rounded

    def test_masks_lie_at_the_top_left(self):
        found = low_resolution(np.ones((60, 90), bool))
        assert found[:171].all()
        assert not found[171:].any()

    def test_a_picture_without_objects_is_named(self):
        with pytest.raises(DataError, match="no object"):
            ask(replace(self.picture(), instances=()), np.random.default_rng(0), mirrored=False)

    def test_a_teacher_s_embedding_is_learned(self, tmp_path):
        torch.manual_seed(0)
        model = build_task_model(arch_for("promptable"))
        save_weights(model, tmp_path / "teacher.safetensors")
        task = training_task("promptable", teacher=read_weights(tmp_path / "teacher.safetensors"))
        x, target = task.collate([task.train_data()[Draw(0, 0, (64, 64), 0)]])
        network = cast(Sam, model).image_encoder.eval()
        assert float(task.loss(network(x), target, None).detach()) == pytest.approx(0, abs=1e-8)
        assert float(task.loss(network(x) + 0.5, target, None).detach()) == pytest.approx(0.25)
        assert all(p.grad is None for p in task.teacher.parameters())
        save_weights(build(arch_for("classification")), tmp_path / "other.safetensors")
        with pytest.raises(WeightsError, match="classification"):
            training_task("promptable", teacher=read_weights(tmp_path / "other.safetensors"))


class TestFolders:
    def classes(self, folder, split="train", count=12, names=("cat", "dog")):
        for label, name in enumerate(names):
            for i in range(count):
                size = (40 + 7 * i, 60) if i % 2 else (60, 40 + 5 * i)  # mixed
                save(folder / split / name / f"{i}.png", noise(*size, seed=label * 100 + i))
        return folder

    def test_class_folders(self, tmp_path):
        folder = self.classes(self.classes(tmp_path), "val", 3)
        task = training_task("classification", data=folder)
        assert (task.num_train, task.num_classes) == (24, 2)
        x, target = task.collate(
            [task.train_data()[Draw(i, 0, (32, 48), 0)] for i in (0, 23, 12, 11)]
        )
        assert x.shape == (4, 3, 32, 48)
        assert target.tolist() == [0, 1, 1, 0]
        few = training_task("classification", data=folder, num_train=4)
        labels = [int(few.train_data()[Draw(i, 0, (32, 32), 0)][1]) for i in range(4)]
        assert labels == [0, 0, 1, 1]
        assert len(task.held_out(arch_for("classification"))[0]) == 6

    def test_a_folder_without_splits_is_split(self, tmp_path):
        folder = self.classes(tmp_path, ".", 10)
        task = training_task("classification", data=folder)
        held = {path for path, _ in task.source.held_out_files}
        assert (task.num_train, len(held)) == (18, 2)
        assert not held & {path for path, _ in task.source.files}

    def test_bad_class_folders_are_named(self, tmp_path):
        folder = self.classes(self.classes(tmp_path), "val", 3)
        with pytest.raises(DataError, match="has 2 classes, the network 12; give --num-classes 2"):
            training_task("classification", data=folder, num_classes=12)
        damaged = folder / "train" / "dog" / "3.png"
        damaged.write_bytes(damaged.read_bytes()[:200])
        data = training_task("classification", data=folder).train_data()
        with pytest.raises(DataError, match=r"dog/3\.png"):
            data[Draw(17, 0, (32, 32), 0)]  # by name 0, 1, 10, 11, 2, 3
        (folder / "train" / "bird").mkdir()
        with pytest.raises(DataError, match=r"class folder .*bird holds no pictures"):
            training_task("classification", data=folder)
        save(folder / "train" / "bird" / "1.png", noise(40, 40))
        with pytest.raises(DataError, match="'bird' is not in both"):
            training_task("classification", data=folder)

    def masks(self, folder, highest=3):
        for i in range(12):
            height, width = 40 + i, 64 - i
            save(folder / "images" / f"{i}.png", noise(height, width, i))
            labels = np.full((height, width), i % (highest + 1), np.uint8)
            labels[:5] = 255
            save(folder / "masks" / f"{i}.png", labels)
        return folder

    @pytest.mark.parametrize("name", sorted(TASKS))
    def test_a_damaged_header_is_found_before_a_training(self, tmp_path, name):
        if name == "classification":
            folder, damaged = self.classes(tmp_path, "."), tmp_path / "dog" / "1.png"
        else:
            folder, damaged = self.masks(tmp_path), tmp_path / "images" / "1.png"
        if name not in ("segmentation", "promptable"):
            shutil.rmtree(folder / "masks", ignore_errors=True)  # else pictures, too
        classes = {"num_classes": 4} if name == "segmentation" else {}
        task = training_task(name, data=folder, **classes)
        assert task.source.check_files() == ()
        assert damaged in task.source.files_trained_on()
        damaged.write_bytes(b"no picture")
        with pytest.raises(DataError, match=rf"cannot read picture .*{damaged.name}"):
            task.source.check_files()

    def test_folders_of_masks(self, tmp_path):
        task = training_task("segmentation", data=self.masks(tmp_path), num_classes=4)
        assert task.num_train == 10
        samples = [task.train_data()[Draw(i, 1, (32, 64), 0)] for i in range(10)]
        x, target = task.collate(samples)
        assert x.shape == (10, 3, 32, 64)
        assert target.shape == (10, 32, 64)
        assert set(target.unique().tolist()) <= {0, 1, 2, 3, 255}
        assert len(task.held_out(arch_for("segmentation"))[0]) == 2

    def test_bad_masks_are_named(self, tmp_path):
        folder = self.masks(tmp_path)
        with pytest.raises(DataError, match="--num-classes"):
            training_task("segmentation", data=folder)
        data = training_task("segmentation", data=folder, num_classes=3).train_data()
        with pytest.raises(DataError, match=r"mask .*(3|7|11)\.png holds label 3, of 3 classes"):
            [data[Draw(i, 0, (32, 32), 0)] for i in range(10)]
        (folder / "masks" / "4.png").unlink()
        with pytest.raises(DataError, match=r"4\.png has no mask"):
            training_task("segmentation", data=folder, num_classes=4)

    def test_cityscapes_and_ade20k(self, tmp_path):
        for split in ("train", "val"):
            name = tmp_path / "city" / "leftImg8bit" / split / "ulm" / "ulm_1_leftImg8bit.png"
            save(name, noise(32, 64))
            mask = tmp_path / "city" / "gtFine" / split / "ulm" / "ulm_1_gtFine_labelIds.png"
            save(mask, np.full((32, 64), 26))  # car, class 13
        for split in ("training", "validation"):
            save(tmp_path / "ade" / "images" / split / "1.png", noise(32, 64))
            save(tmp_path / "ade" / "annotations" / split / "1.png", np.full((32, 64), 150))
        for name, classes, label in (("city", 19, 13), ("ade", 150, 149)):
            task = training_task("segmentation", data=tmp_path / name)
            assert task.num_classes == classes
            _, target = task.train_data()[Draw(0, 0, (32, 64), 0)]
            assert set(target.unique().tolist()) <= {label, 255}
        with pytest.raises(DataError, match="has 19 classes, the network 150"):
            training_task("segmentation", data=tmp_path / "city", num_classes=150)
        with pytest.raises(DataError, match="is cityscapes, not ade20k"):
            training_task("segmentation", data=tmp_path / "city", dataset="ade20k")

    def test_large_pictures(self, tmp_path):
        for i in range(20):
            save(tmp_path / f"{i:02}.png", noise(90, 70 + i, i))
        task = training_task("super_resolution", data=tmp_path, scale=2)
        assert task.num_train == 18
        for side in (24, 64):  # parts, and mirrored beyond the edges
            small, large = task.train_data()[Draw(3, 0, (side, side), 0)]
            assert small.shape == (3, side, side)
            assert large.shape == (3, 2 * side, 2 * side)
            pooled = nn.functional.avg_pool2d(large[None], 2)[0]
            assert (pooled - small).abs().mean() < 0.08  # bicubic is near the mean of four
        assert len(task.held_out(arch_for("super_resolution", 32))[0]) == 2

    def test_numbered_masks(self, tmp_path):
        for i in range(10):
            numbers = np.zeros((50, 70), np.uint8)
            numbers[5:30, 5:60] = 1 + i
            save(tmp_path / "images" / f"{i}.png", noise(50, 70, i))
            save(tmp_path / "masks" / f"{i}.png", numbers)
        task = training_task("promptable", data=tmp_path)
        assert task.num_train == 9
        x, prompts = task.collate([task.train_data()[Draw(i, 0, (64, 64), 0)] for i in range(2)])
        assert x.shape == (2, 3, 64, 64)
        assert prompts.masks.shape == (2, PROMPTS, 256, 256)
        share = prompts.masks.float().mean() * 256**2 / (25 * 55 * (256 / 70) ** 2)
        assert float(share) == pytest.approx(1, abs=0.05)

    @pytest.mark.parametrize("name", ["segmentation", "promptable"])
    def test_what_is_trained_on_is_not_held_out(self, name, tmp_path):
        for split, count in (("train", 4), ("validation", 2)):
            for i in range(count):
                save(tmp_path / "images" / split / f"{i}.png", noise(50, 70, i))
                save(tmp_path / "masks" / split / f"{i}.png", np.ones((50, 70), np.uint8))
        task = training_task(name, data=tmp_path, num_classes=2 if name == "segmentation" else None)
        assert task.num_train == 4
        assert len(task.held_out(arch_for(name))[0]) == 2

    def test_pictures_of_coco_without_objects_are_passed_over(self, tmp_path):
        images = [{"id": i, "file_name": f"{i}.png"} for i in range(6)]
        for split in ("train2017", "val2017"):
            for i in range(6):
                save(tmp_path / split / f"{i}.png", noise(40, 60, i))
            annotations = [
                {"image_id": i, "segmentation": [[5, 5, 40, 5, 40, 30, 5, 30]], "area": 875}
                for i in (1, 4)
            ] + [{"image_id": 2, "segmentation": [[1, 1, 1, 1, 1, 1]], "area": 0}]  # no pixel
            path = tmp_path / "annotations" / f"instances_{split}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps({"images": images, "annotations": annotations}))
        task = training_task("promptable", data=tmp_path)
        assert task.num_train == 3
        found = [task.train_data()[Draw(i, 0, (64, 64), 0)] for i in range(3)]
        areas = [mask.sum().item() for _, prompts in found for mask in prompts.masks]
        assert min(areas) == max(areas) > 0

    def test_any_pictures_to_pretrain_on(self, tmp_path):
        for i in range(11):
            save(tmp_path / "some" / "where" / f"{i}.jpg", noise(50 + i, 70))
        task = training_task("pretrain", data=tmp_path)
        assert task.num_train == 9
        assert task.train_data()[Draw(2, 0, (64, 96), 0)][0].shape == (3, 64, 96)
        assert len(task.held_out(arch_for("pretrain"))[0]) == 2

    @pytest.mark.parametrize("name", TASKS)
    def test_a_folder_without_pictures_is_named(self, name, tmp_path):
        (tmp_path / "empty" / "images").mkdir(parents=True)
        (tmp_path / "empty" / "masks").mkdir()
        with pytest.raises(DataError, match=r"empty.* holds no|empty.*expected"):
            training_task(name, data=tmp_path / "empty", num_classes=3)
        with pytest.raises(DataError, match="no folder"):
            training_task(name, data=tmp_path / "nowhere", num_classes=3)


def test_what_is_no_task_or_set_is_named():
    with pytest.raises(UserError, match="did you mean 'classification'"):
        training_task("clasification")
    with pytest.raises(DataError, match="did you mean 'cells'"):
        training_task("segmentation", dataset="cell")
    with pytest.raises(DataError, match="has 12 classes, the network 10"):
        training_task("classification", num_classes=10)
    with pytest.raises(UserError, match="num_train"):
        training_task("classification", num_train=0)


def test_embedded_pictures_are_normalised():
    task = training_task("classification", augment=replace(EMBEDDED, flip=False, crop_scale=(1, 1)))
    x, _ = task.train_data()[Draw(0, 0, (64, 64), 0)]
    pixels = x * torch.tensor(IMAGENET_STD).view(3, 1, 1) + torch.tensor(IMAGENET_MEAN).view(
        3, 1, 1
    )
    values = pixels * 255
    torch.testing.assert_close(values, values.round(), atol=1e-3, rtol=0)
    assert 0 <= float(values.min().round()) < 60 < 180 < float(values.max()) <= 255.5


@pytest.mark.parametrize("limit", [100, 250, 1000])
def test_few_pictures_are_of_all_classes_however_these_lie(limit):
    in_turn = [i % 12 for i in range(2000)]
    for labels in (in_turn, sorted(in_turn)):
        counts = Counter(evenly(labels, limit))
        assert len(counts) == 12
        assert 0.4 * limit / 12 < min(counts.values()) <= max(counts.values()) < 2 * limit / 12
    assert evenly(range(7), 7) == evenly(range(7), None) == list(range(7))
