"""Losses of training, against their definitions written out as loops, and their gradients."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from supernet.tasks.losses import (
    alpha_divergence,
    cross_entropy,
    dice_loss,
    focal_loss,
    kl_divergence,
    like,
    masked_l1,
    ohem_cross_entropy,
    prompt_loss,
)
from supernet.tasks.mixing import mix_batch


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).float()


def gradient(x):
    assert x.grad is not None
    return x.grad


def integers(high, *shape, seed=0):
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


class TestCrossEntropy:
    def test_is_its_definition(self):
        logits, labels = normal(6, 5), integers(5, 6)
        total = 0.0
        for row, label in zip(logits.tolist(), labels.tolist(), strict=True):
            log_sum = math.log(sum(math.exp(v) for v in row))
            for k, value in enumerate(row):
                share = 0.9 * (k == label) + 0.1 / 5
                total -= share * (value - log_sum)
        assert float(cross_entropy(logits, labels, 0.1)) == pytest.approx(total / 6, rel=1e-5)

    def test_shares_of_one_class_are_the_class(self):
        logits, labels = normal(6, 5), integers(5, 6)
        shares = F.one_hot(labels, 5)
        for smoothing in (0.0, 0.1):
            torch.testing.assert_close(
                cross_entropy(logits, shares, smoothing), cross_entropy(logits, labels, smoothing)
            )


class TestOhem:
    @staticmethod
    def slow(logits, labels, threshold, least):
        """Pixel by pixel."""
        each = []
        for picture, mask in zip(logits, labels, strict=True):
            for y in range(mask.shape[0]):
                for x in range(mask.shape[1]):
                    if mask[y, x] != 255:
                        each.append(float(-picture[:, y, x].log_softmax(0)[int(mask[y, x])]))
        each.sort(reverse=True)
        hard = [v for v in each if math.exp(-v) < threshold]
        fewest = max(1, int(least * len(each)))
        chosen = hard if len(hard) >= fewest else each[:fewest]
        return sum(chosen) / len(chosen)

    @pytest.mark.parametrize("sharpness", [0.5, 3, 20])  # few hard pixels at the last
    @pytest.mark.parametrize("least", [0.05, 0.5])
    def test_is_its_definition(self, sharpness, least):
        labels = integers(4, 2, 6, 5).to(torch.uint8)
        logits = normal(2, 4, 6, 5) + sharpness * F.one_hot(labels.long(), 4).movedim(-1, 1)
        labels[integers(4, 2, 6, 5, seed=1) == 0] = 255
        found = ohem_cross_entropy(logits, labels, threshold=0.7, least=least)
        assert float(found) == pytest.approx(self.slow(logits, labels, 0.7, least), rel=1e-5)

    def test_easy_and_ignored_pixels_get_no_gradient(self):
        logits = torch.zeros(1, 2, 1, 4)
        logits[0, 0] = torch.tensor([9.0, 9.0, -3.0, -3.0])
        logits.requires_grad_()
        labels = torch.tensor([[[0, 0, 0, 255]]], dtype=torch.uint8)
        ohem_cross_entropy(logits, labels).backward()
        moved = gradient(logits).abs().sum(1)[0, 0] > 0
        assert moved.tolist() == [False, False, True, False]

    def test_nothing_labelled_is_zero_with_a_gradient(self):
        logits = normal(1, 3, 4, 4).requires_grad_()
        loss = ohem_cross_entropy(logits, torch.full((1, 4, 4), 255))
        loss.backward()
        assert float(loss.detach()) == 0
        assert gradient(logits).abs().max() == 0

    def test_small_logits_are_enlarged(self):
        logits, labels = normal(1, 3, 2, 2), integers(3, 1, 8, 8)
        large = F.interpolate(logits, size=(8, 8), mode="bilinear", align_corners=False)
        assert ohem_cross_entropy(logits, labels) == ohem_cross_entropy(large, labels)


class TestMasks:
    def test_focal_loss_is_its_definition(self):
        logits, masks = normal(2, 4, 3), integers(2, 2, 4, 3)
        for found, x, mask in zip(focal_loss(logits, masks), logits, masks, strict=True):
            total = 0.0
            for value, true in zip(x.flatten().tolist(), mask.flatten().tolist(), strict=True):
                p = 1 / (1 + math.exp(-value))
                total -= (
                    0.25 * (1 - p) ** 2 * math.log(p) if true else 0.75 * p**2 * math.log(1 - p)
                )
            assert float(found) == pytest.approx(total / 12, rel=1e-5)

    def test_dice_loss_is_its_definition(self):
        logits, masks = normal(2, 4, 3), integers(2, 2, 4, 3)
        for found, x, mask in zip(dice_loss(logits, masks), logits, masks, strict=True):
            p = [1 / (1 + math.exp(-v)) for v in x.flatten().tolist()]
            true = mask.flatten().tolist()
            both = sum(a * b for a, b in zip(p, true, strict=True))
            assert float(found) == pytest.approx(
                1 - (2 * both + 1) / (sum(p) + sum(true) + 1), rel=1e-5
            )

    def test_only_the_best_mask_of_a_prompt_is_moved(self):
        masks = integers(2, 2, 8, 8)
        sharp = 8 * (2 * masks - 1.0)
        logits = normal(2, 3, 8, 8)
        logits[0, 1], logits[1, 2] = sharp[0], sharp[1]
        logits.requires_grad_()
        said = torch.tensor([[0.3, 0.9, 0.5], [0.1, 0.2, 1.0]], requires_grad=True)
        loss = prompt_loss(logits, said, masks)
        loss.backward()
        moved = gradient(logits).abs().amax((2, 3)) > 0
        assert moved.tolist() == [[False, True, False], [False, False, True]]
        iou = [
            [np.logical_and(m > 0, t).sum() / np.logical_or(m > 0, t).sum() for m in prompt]
            for prompt, t in zip(logits.detach().numpy(), masks.numpy().astype(bool), strict=True)
        ]
        expected = 2 * (said.detach().double() - torch.tensor(iou)) / 6
        torch.testing.assert_close(gradient(said).double(), expected, rtol=1e-5, atol=1e-7)

    def test_masked_l1_counts_hidden_pixels_alone(self):
        output, pixels = normal(2, 3, 4, 4), normal(2, 3, 4, 4, seed=1)
        mask = integers(2, 2, 1, 4, 4).float()
        values = [
            abs(float(output[b, c, y, x] - pixels[b, c, y, x]))
            for b in range(2)
            for c in range(3)
            for y in range(4)
            for x in range(4)
            if mask[b, 0, y, x]
        ]
        found = masked_l1(output, pixels, mask)
        assert float(found) == pytest.approx(sum(values) / len(values), rel=1e-5)


class TestDistillation:
    @staticmethod
    def direct(output, teacher, alpha):
        """1 / (a (a - 1)) sum q ((p / q)^a - 1), for each sample."""
        q, p = output.double().softmax(1), teacher.double().softmax(1)
        if alpha == 0:
            return (q * (q / p).log()).sum(1)
        if alpha == 1:
            return (p * (p / q).log()).sum(1)
        return (q * ((p / q) ** alpha - 1)).sum(1) / (alpha * (alpha - 1))

    @pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
    def test_alpha_divergence_and_gradient_are_the_formulas_where_nothing_is_clipped(self, alpha):
        teacher = normal(16, 6, seed=1)
        output, twin = (normal(16, 6).requires_grad_() for _ in range(2))
        found = alpha_divergence(output, teacher, alpha, clip=1e9)
        larger = torch.maximum(
            self.direct(twin, teacher, alpha), self.direct(twin, teacher, -alpha)
        )
        expected = larger.mean()
        found.backward()
        expected.backward()
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
        torch.testing.assert_close(gradient(output), gradient(twin), rtol=1e-4, atol=1e-6)

    def test_alphanet_is_equal_to_its_published_code(self):
        # https://github.com/facebookresearch/AlphaNet, loss_ops.py, AdaptiveLossSoft, gradient
        output, teacher = normal(12, 5).requires_grad_(), 4 * normal(12, 5, seed=3)
        alpha_divergence(output, teacher, 1.0).backward()
        twin = output.detach().clone().requires_grad_()
        q, p = twin.detach().softmax(1), teacher.softmax(1)
        log_q, ratio = twin.log_softmax(1), p / q
        left = (1 / ratio).clamp(0, 5)
        loss_left = (q * (left / 2 - 0.5)).sum(1)
        grad_left = -(q * (left / -1 + 0.5) * log_q).sum(1)
        right = ratio.clamp(0, 5)
        loss_right, grad_right = (q * right * right.log()).sum(1), -(q * right * log_q).sum(1)
        torch.where(loss_left > loss_right, grad_left, grad_right).mean().backward()
        assert right.max() == 5  # something is clipped
        torch.testing.assert_close(gradient(output), gradient(twin), rtol=1e-4, atol=1e-6)

    def test_the_teacher_gets_no_gradient_and_clipping_bounds_the_student_s(self):
        output = torch.tensor([[-60.0, 60.0]], requires_grad=True)
        teacher = torch.tensor([[60.0, -60.0]], requires_grad=True)
        loss = alpha_divergence(output, teacher, 1.0)
        loss.backward()
        assert teacher.grad is None
        assert gradient(output).isfinite().all()
        assert gradient(output).abs().max() <= 5

    @pytest.mark.parametrize("divergence", [kl_divergence, lambda a, b: alpha_divergence(a, b, 1)])
    def test_equal_networks_have_no_distance(self, divergence):
        logits = normal(4, 7, 3, 3).requires_grad_()
        loss = divergence(logits, logits.detach())
        loss.backward()
        assert float(loss.detach()) == pytest.approx(0, abs=1e-6)
        assert gradient(logits).abs().max() < 1e-7

    def test_kl_divergence_is_that_of_classes_at_every_pixel(self):
        output, teacher = normal(2, 4, 3, 3), normal(2, 4, 3, 3, seed=1)
        expected = self.direct(output, teacher, 1).mean()
        assert float(kl_divergence(output, teacher)) == pytest.approx(float(expected), rel=1e-5)

    def test_maps_of_a_larger_teacher_are_reduced(self):
        teacher = normal(2, 4, 12, 12)
        assert like(teacher, normal(2, 4, 8, 8)).shape == (2, 4, 8, 8)
        assert like(teacher, normal(2, 4, 12, 12)) is teacher


class TestMixing:
    def mixed(self, mixup, cutmix, seed):
        x = torch.arange(8.0)[:, None, None, None].expand(8, 3, 16, 12).clone()
        labels = torch.arange(8) % 5
        generator = torch.Generator().manual_seed(seed)
        return mix_batch(x, labels, 5, mixup=mixup, cutmix=cutmix, generator=generator)

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0), (0, 1.0), (0.5, 0.5)])
    def test_shares_of_classes_are_shares_of_pixels(self, mixup, cutmix, seed):
        x, shares = self.mixed(mixup, cutmix, seed)
        torch.testing.assert_close(shares.sum(1), torch.ones(8))
        assert (shares >= 0).all()
        for number in range(8):
            values = x[number].unique()
            if len(values) == 2:  # cut: pixels are of one picture or the other
                for value in values:
                    part = float((x[number] == value).float().mean())
                    of_label = {float(v) % 5: 0.0 for v in values}
                    for v in values:
                        of_label[float(v) % 5] += float((x[number] == v).float().mean())
                    assert float(shares[number, int(value) % 5]) == pytest.approx(
                        of_label[float(value) % 5], abs=1e-6
                    )
                    assert part > 0
            else:  # mixed: values lie between, by the share
                assert len(values) == 1

    def test_mixup_is_a_weighted_mean(self):
        x, shares = self.mixed(0.8, 0, seed=3)
        own = shares[torch.arange(8), torch.arange(8) % 5]
        share = float(own.min())  # of those whose partner is of another class
        values = x[:, 0, 0, 0]
        partners = (values - share * torch.arange(8)) / (1 - share)
        assert sorted(partners.round().int().tolist()) == list(range(8))

    def test_off_or_seeded(self):
        x, shares = self.mixed(0, 0, seed=0)
        assert torch.equal(shares.argmax(1), torch.arange(8) % 5)
        assert torch.equal(x[:, 0, 0, 0], torch.arange(8.0))
        for seed in range(3):
            assert torch.equal(self.mixed(0.5, 0.5, seed)[0], self.mixed(0.5, 0.5, seed)[0])
