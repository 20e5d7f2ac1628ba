"""Accuracies of networks trained alone, from few of them and from what all inherit of a supernet.

The first level says what a network reaches with shared weights. The second one, a few numbers,
says what that is worth once the network is trained alone, and how much more at its size where the
few networks tell so clearly.
"""

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from predictors.accuracy import AccuracyPrediction
from predictors.batch import Batch, Predictions, PredictsMany
from predictors.evaluations import Evaluations, read_evaluations, unit_of_task
from predictors.learned import LearnedPredictor
from predictors.relaxation import Link, Relaxable, Relaxation
from predictors.relaxed_levels import relax_levels
from predictors.second_level import SecondLevel, fit_second_level
from predictors.subnets import SubnetPredictor
from predictors.worth import Array
from results.errors import PredictorError, SpaceError
from supernet.arch import Arch, Task
from supernet.blocks import blocks_of
from supernet.cost import network_cost
from supernet.evaluation.rows import TRAINED
from supernet.space import Space

FEWEST = 5  # networks trained alone
COLUMNS = ("inherited accuracy", "log2 MACs", "log2 parameters")
FAR = 1.0  # leverage: distance from the trained networks then counts as much as their noise
FirstLevel = LearnedPredictor | SubnetPredictor


@dataclass(frozen=True)
class TwoLevelPredictor(PredictsMany, Relaxable):
    """Predicts what a network reaches when it is trained alone, as those of `trained` were."""

    first: FirstLevel
    second: SecondLevel
    trained: Evaluations
    inherited: Array  # predicted for the trained networks, (networks,)
    first_std: float  # of those, root mean square: the second level's errors hold it already
    provenance: str = TRAINED

    @property
    def space(self) -> Space:
        """Return the space of the evaluated subnets."""
        return self.first.space

    @property
    def task(self) -> Task:
        """Return what the networks do."""
        return self.trained.task

    @property
    def dataset(self) -> str:
        """Return the data set that networks were evaluated on."""
        return self.trained.dataset

    @property
    def metric(self) -> str:
        """Return what is predicted, such as `top-1 [%] of shapes, trained alone`."""
        return self.trained.metric

    def predict(self, arch: Arch) -> AccuracyPrediction:
        """Return mean and standard deviation of any Arch of the space's families.

        It is extrapolated where the first level is, or where the network is as far from those
        that were trained as their noise is wide. Raises SpaceError as the first level does.
        """
        inherited = self.first.predict(arch)
        x = _columns(np.array([inherited.mean]), *_sizes([arch]))
        means, stds = self._predict(x, np.array([inherited.std]))
        far = bool(self.second.fit.leverage(x)[0] > FAR)
        return AccuracyPrediction(
            float(means[0]), float(stds[0]), extrapolated=inherited.extrapolated or far
        )

    def judge(self, batch: Batch) -> Predictions:
        """Return the predictions of many networks, as `predict` gives them."""
        inherited = self.first.judge(batch)
        x = _columns(inherited.mean, batch.all_macs, batch.params)
        means, stds = self._predict(x, inherited.std)
        far = self.second.fit.leverage(x) > FAR
        return Predictions(means, stds, inherited.extrapolated | far, inherited.transferred)

    def relax(self, links: Sequence[Link]) -> Relaxation:
        """Return an upper bound of accuracies over links; raises as `relax_levels`."""
        return relax_levels(self.first.relax(links), self.second.fit, links, self._clip)

    def _clip(self, means: Array) -> Array:
        most = math.inf if unit_of_task(self.task) == "dB" else 100.0
        return np.clip(means, 0.0, most)

    def _predict(self, x: Array, first_stds: Array) -> tuple[Array, Array]:
        means, stds = self.second.predict(x)
        slope = float(self.second.fit.effects[0])
        more = np.maximum(0.0, first_stds**2 - self.first_std**2)
        return self._clip(means), np.sqrt(stds**2 + slope**2 * more)

    @cached_property
    def errors(self) -> dict[str, float]:
        """Return mean absolute errors on networks left out, and Kendall's tau of rankings.

        Of the two levels, of guessing the others' mean, and of inherited accuracies as they are.
        """
        values = np.array(self.trained.values)
        predictions = {
            "mae": self.second.left_out,
            "mae_of_guessing_the_mean": self.second.guesses,
            "mae_of_inherited": self.inherited,
        }
        found = {name: float(np.abs(p - values).mean()) for name, p in predictions.items()}
        found["kendall_tau"] = float(kendalltau(self.second.left_out, values).statistic)
        found["kendall_tau_of_inherited"] = float(kendalltau(self.inherited, values).statistic)
        return found

    def describe(self) -> str:
        """Return provenance and error, in one line."""
        errors, first, unit = self.errors, self.first.to_dict(), unit_of_task(self.task)
        return (
            f"{self.provenance}, two levels: inherited accuracy predicted from "
            f"{first['num_subnets']} subnets ({first['file']}), and what it becomes in training "
            f"alone from {len(self.trained.archs)} networks ({self.trained.path.name}"
            f"{_steps(self.trained.steps)}), error {errors['mae']:.2f} {unit} on average on "
            f"networks left out ({errors['mae_of_guessing_the_mean']:.2f} for guessing their mean, "
            f"{errors['mae_of_inherited']:.2f} for inherited accuracies as they are"
            f"{self._verdict()}); {self._ranking()}"
        )

    def _verdict(self) -> str:
        errors = self.errors
        if errors["mae"] >= errors["mae_of_guessing_the_mean"]:
            return ": no better than guessing, train more networks"
        if errors["mae"] >= errors["mae_of_inherited"]:
            return ": no better than those, leave --trained out or train more networks"
        return ""

    def _ranking(self) -> str:
        if len(self.second.fit.columns) == 1:
            return "ranks networks as their inherited accuracies do: no effect of sizes was clear"
        errors = self.errors
        return (
            f"{COLUMNS[self.second.fit.columns[1]]} count too, Kendall tau "
            f"{errors['kendall_tau']:.2f} on networks left out, "
            f"{errors['kendall_tau_of_inherited']:.2f} by inherited accuracy alone"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return for run.json everything needed to judge a prediction."""
        trained = self.trained
        return {
            "provenance": self.provenance,
            "task": self.task,
            "dataset": self.dataset,
            "metric": self.metric,
            "file": trained.path.name,
            "sha256": trained.sha256,
            "num_networks": len(trained.archs),
            "num_pictures": trained.num_pictures,
            "steps": list(trained.steps),
            **{name: None if math.isnan(error) else error for name, error in self.errors.items()},
            "second_level": self.second.to_dict(COLUMNS),
            "first_level": self.first.to_dict(),
        }


def fit_two_levels(first: FirstLevel, path: Path) -> TwoLevelPredictor:
    """Fit to the networks trained alone in a file, `first` telling what they inherit.

    Raises PredictorError where they are too few, of another task, data set, number of classes or
    space, or where nothing tells them apart.
    """
    trained = read_evaluations(path, TRAINED)
    _check_comparable(first, trained)
    count = len(trained.archs)
    more = (
        "`python -m supernet.train --arch ARCH --out DIR` and `python -m supernet.evaluate "
        f"--weights DIR/model.safetensors --out {shlex.quote(str(path))}` for each"
    )
    if count < FEWEST:
        raise PredictorError(
            f"{path} holds {count} network{'s' * (count != 1)} trained alone, too few to tell what "
            f"inherited accuracies are worth; {FEWEST} are needed, and 12 are better: {more}"
        )
    means, stds = first.predict_many(Batch.of(first.space, trained.archs))
    values = np.array(trained.values)
    second = fit_second_level(_columns(means, *_sizes(trained.archs)), values)
    if not second.fit.columns:
        raise PredictorError(
            f"the {count} networks of {path} do not get better with their inherited accuracy, nor "
            f"clearly with their size: nothing tells which others are good; train more by {more}, "
            "or leave --trained out"
        )
    return TwoLevelPredictor(first, second, trained, means, float(np.sqrt(np.mean(stds**2))))


def _check_comparable(first: FirstLevel, trained: Evaluations) -> None:
    """Raise PredictorError where networks trained alone are not of the subnets' task and space."""
    path = trained.path
    for what, own, other in (
        ("task", trained.task, first.task),
        ("data set", trained.dataset, first.dataset),
        ("number of classes", trained.num_classes, first.space.num_classes),
    ):
        if own != other:
            raise PredictorError(
                f"{path} is of {what} {own}, and the subnets are of {other}, which do not compare; "
                "train and evaluate both on the same pictures"
            )
    for arch in trained.archs:
        try:
            first.space.encode(arch)
        except SpaceError as error:
            raise PredictorError(
                f"{path}, line {trained.lines[arch]} is of another space than the subnets: {error}"
            ) from None


def _columns(inherited: Array, macs: Array, params: Array) -> Array:
    """Return the features of networks, (networks, COLUMNS), of numbers (networks,)."""
    return np.column_stack([inherited, np.log2(macs), np.log2(params)])


def _sizes(archs: Sequence[Arch]) -> tuple[Array, Array]:
    """Return MACs and parameters of networks."""
    costs = [network_cost(blocks_of(arch)) for arch in archs]
    macs = np.array([cost.macs for cost in costs], dtype=np.float64)
    return macs, np.array([cost.params for cost in costs], dtype=np.float64)


def _steps(steps: tuple[int, ...]) -> str:
    if not steps:
        return ""
    if len(steps) == 1:
        return f", {steps[0]:,} steps each"
    return f", unequally long: {steps[0]:,} to {steps[-1]:,} steps, which is part of the error"
