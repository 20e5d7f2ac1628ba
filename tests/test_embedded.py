"""Embedded pictures: what must be seen in them, what must not give them away, and their speed's
precondition, that a scene does not depend on its size."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from supernet.tasks import embedded_cells, embedded_leaves, embedded_shapes
from supernet.tasks.embedded_cells import CURVE, LAMP, draw_cells
from supernet.tasks.embedded_leaves import NUM_LEAVES, draw_leaves
from supernet.tasks.embedded_shapes import draw_shape


def rng(*seed):
    return np.random.default_rng(seed)


def enlarged(labels, factor):
    return labels.repeat(factor, 0).repeat(factor, 1)


class TestShapes:
    def test_a_scene_is_the_same_at_every_size(self):
        for label in range(12):
            small, large = (
                draw_shape(label, (side, side), rng(label), 0.0).astype(float) for side in (48, 96)
            )
            halved = large.reshape(48, 2, 48, 2, 3).mean((1, 3))
            assert np.abs(small - halved).mean() < 12  # noise, and edges that fall otherwise

    def test_sizes_may_differ_by_side(self):
        assert draw_shape(5, (40, 72), rng(0), 0.5).shape == (40, 72, 3)

    def test_colours_do_not_tell_the_class(self):
        def features(seed):
            picture = draw_shape(seed % 12, (32, 32), rng(7, seed), 0.5).reshape(-1, 3) / 255.0
            middle = np.percentile(picture, (5, 25, 50, 75, 95), axis=0)
            return np.concatenate([middle.ravel(), np.cov(picture.T).ravel()])

        x, y = np.array([features(i) for i in range(960)]), np.arange(960) % 12
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
        assert model.fit(x[:720], y[:720]).score(x[720:], y[720:]) < 0.25  # chance: 0.083

    def test_difficulty_is_noise_among_others(self):
        def roughness(difficulty):
            picture = draw_shape(0, (64, 64), rng(3), difficulty).astype(float)
            return np.abs(np.diff(picture, axis=1)).mean()

        assert roughness(0.0) < roughness(0.5) < roughness(1.0)

    @pytest.mark.parametrize("shape", range(4))
    def test_shapes_are_their_definitions(self, shape):
        """On a grid, against polygons walked edge by edge."""
        v, u = np.meshgrid(*[np.linspace(-1.3, 1.3, 41, dtype=np.float32)] * 2, indexing="ij")
        found = embedded_shapes._INSIDE[shape](u, v)
        turns = np.arange(10) * np.pi / 5
        if shape == 0:
            truth = u**2 + v**2 < 0.72
        else:
            corners = {
                1: [(-np.sqrt(0.75), 0.5), (np.sqrt(0.75), 0.5), (0, -1)],
                2: [(0.9, 0.3), (0.3, 0.3), (0.3, 0.9), (-0.3, 0.9), (-0.3, 0.3), (-0.9, 0.3)],
                3: [
                    (r * np.cos(t), r * np.sin(t))
                    for t, r in zip(turns, [1, 0.42] * 5, strict=True)
                ],
            }[shape]
            if shape == 2:
                corners = corners + [(-x, -y) for x, y in corners]
            truth = np.zeros(u.shape, bool)
            for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
                if y0 != y1:
                    crosses = (y0 > v) != (y1 > v)
                    truth ^= crosses & (u < (x1 - x0) * (v - y0) / (y1 - y0) + x0)
        assert ((found > 0.5) != truth).mean() < 0.04


class TestCells:
    def test_a_scene_is_the_same_at_every_size(self):
        for seed in range(8):
            _, small = draw_cells((48, 48), rng(seed), 0.5)
            _, large = draw_cells((96, 96), rng(seed), 0.5)
            same = enlarged(small, 2) == large
            assert same.mean() > 0.85
            wide = (enlarged(small, 2) != CURVE) & (large != CURVE)
            assert same[wide].mean() > 0.95

    def test_every_class_occurs_and_no_cell_class_dominates(self):
        counts = np.zeros(8)
        for seed in range(120):
            counts += np.bincount(draw_cells((32, 32), rng(seed), 0.5)[1].ravel(), minlength=8)
        shares = counts / counts.sum()
        assert 0.1 < shares[:6].min() < shares[:6].max() < 0.2
        assert 0.04 < shares[CURVE] < 0.15
        assert 0.01 < shares[LAMP] < 0.06

    def test_the_lamp_renames_cells_in_pairs(self, monkeypatch):
        """The same scene with the lamp's rule switched off differs where the lamp is dark."""
        renamed = 0
        for seed in range(20):
            picture, labels = draw_cells((48, 48), rng(seed), 0.0)
            with monkeypatch.context() as patch:
                patch.setattr(embedded_cells, "PARTNER", tuple(range(6)))
                same_picture, plain = draw_cells((48, 48), rng(seed), 0.0)
            assert np.array_equal(picture, same_picture)
            y, x = np.argwhere(labels == LAMP).mean(0).round().astype(int)
            bright = picture[y, x].mean() > 128
            cells = labels < CURVE
            assert np.array_equal(labels[~cells], plain[~cells])
            renamed += not bright
            assert np.array_equal(labels[cells], plain[cells] if bright else plain[cells] ^ 1)
        assert 5 <= renamed <= 15

    def test_colours_do_not_tell_the_class(self):
        def sample(seed):
            picture, labels = draw_cells((32, 32), rng(9, seed), 0.5)
            inside = (labels < CURVE) & (rng(seed).random(labels.shape) < 0.05)
            return picture[inside] / 255.0, labels[inside]

        parts = [sample(seed) for seed in range(120)]
        x, y = (np.concatenate(values) for values in zip(*parts, strict=True))
        half = len(y) // 2
        model = LogisticRegression(max_iter=300).fit(x[:half], y[:half])
        assert model.score(x[half:], y[half:]) < 0.26  # chance: 0.17


class TestLeaves:
    def slow(self, leaves, size):
        """Leaf by leaf, pixel by pixel of the whole picture."""
        height, width = size
        half = max(size) / 2
        y, x = np.mgrid[:height, :width].astype(np.float32)
        owner = np.zeros(size, int)
        for i in range(NUM_LEAVES):
            dx = x - (leaves.place[i, 0] * half + (width - 1) / 2)
            dy = y - (leaves.place[i, 1] * half + (height - 1) / 2)
            r = leaves.radius[i] * half
            a = np.abs(leaves.cos[i] * dx + leaves.sin[i] * dy) / r
            b = np.abs(leaves.cos[i] * dy - leaves.sin[i] * dx) / r * leaves.squeeze[i]
            power = leaves.power[i]
            if power == 1:
                inside = a + b < 1
            elif power == 2:
                inside = a**2 + b**2 < 1
            else:
                inside = np.maximum(a, b) < 1 / 1.4
            owner[inside] = i + 1
        return owner

    @pytest.mark.parametrize("size", [(40, 56), (64, 64), (7, 90)])
    def test_the_topmost_leaf_is_seen(self, size):
        leaves = embedded_leaves._Leaves(rng(4), 0.5)
        assert (leaves.owners(size) != self.slow(leaves, size)).mean() < 0.002  # rounding

    def test_radii_fall_with_their_square(self):
        radii = np.concatenate(
            [
                embedded_leaves._Leaves(rng(i), 0.5).radius[embedded_leaves.PATCHES :]
                for i in range(50)
            ]
        )
        least, most = embedded_leaves.SMALLEST, embedded_leaves.LARGEST
        for r in (0.03, 0.06, 0.15):  # share above r of the density ~ r^-2 between the ends
            expected = (1 / r - 1 / most) / (1 / least - 1 / most)
            assert (radii > r).mean() == pytest.approx(expected, abs=0.02)

    def test_leaves_are_seen_apart(self):
        """A picture differs more across outlines than within leaves."""
        picture, numbers = draw_leaves((96, 96), rng(1), 0.3)
        step = np.abs(np.diff(picture.astype(float), axis=1)).mean(-1)
        outline = numbers[:, 1:] != numbers[:, :-1]
        assert step[outline].mean() > 5 * step[~outline].mean()
        assert (numbers == 0).mean() < 0.3

    def test_a_scene_is_the_same_at_every_size(self):
        _, small = draw_leaves((48, 48), rng(2), 0.5)
        _, large = draw_leaves((96, 96), rng(2), 0.5)
        assert (enlarged(small, 2) == large).mean() > 0.8
