"""Accuracies of a supernet's subnets by a fitted model, from a file of either."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from predictors.accuracy import AccuracyPrediction
from predictors.batch import Batch, Predictions, PredictsMany
from predictors.evaluations import Evaluations, metric_of, unit_of_task
from predictors.models.bounds import ModelRelaxation
from predictors.models.choose import AUTO, fit_table
from predictors.models.file import Metadata, Origin, read_model
from predictors.models.model import Model
from predictors.models.table import FEWEST, Columns, Table
from predictors.onehot import choices_of
from predictors.physical import columns_of_batch, features_of, genes_of
from predictors.relaxation import Link, Relaxable, Relaxation
from predictors.worth import Array
from results.errors import ArchError, PredictorError, SpaceError
from results.reading import as_kind
from supernet.arch import Arch, Task
from supernet.space import Space, SpaceSpec
from supernet.spaces import make_space
from supernet.weights.header import SpaceArguments

NAMES = {"ridge": "ridge regression", "gp": "a Gaussian process", "trees": "boosted trees"}


@dataclass(frozen=True)
class LearnedPredictor(PredictsMany, Relaxable):
    """Predicts what a subnet of the supernet would be evaluated at."""

    space: Space
    model: Model
    origin: Origin
    source: str  # name of the file that was given
    provenance: str = "supernet"

    @property
    def task(self) -> Task:
        """Return what the supernet does."""
        return self.origin.space.task

    @property
    def dataset(self) -> str:
        """Return the data set that subnets were evaluated on."""
        return self.origin.dataset

    @property
    def metric(self) -> str:
        """Return what is predicted, of which data set and weights."""
        return metric_of(self.task, self.dataset)

    def predict(self, arch: Arch) -> AccuracyPrediction:
        """Return mean and standard deviation of any Arch of the space's families.

        A choice that no evaluated subnet has counts as the mean one, marks the prediction as
        extrapolated, and adds the variance of all evaluated values: an assumption, as nothing
        tells what it is worth. Raises SpaceError for an Arch of no part of the space.
        """
        means, stds, unseen = self._predict(self._wanted(*columns_of(self.space, [arch]), 1))
        return AccuracyPrediction(float(means[0]), float(stds[0]), extrapolated=bool(unseen[0]))

    def judge(self, batch: Batch) -> Predictions:
        """Return the predictions of many networks, as `predict` gives them."""
        means, stds, unseen = self._predict(self._wanted(*columns_of_batch(batch), len(batch)))
        return Predictions(means, stds, unseen > 0, np.zeros(len(batch), dtype=np.bool_))

    def predict_function(self, batch: Batch) -> tuple[Array, Array]:
        """Return means, and how little is known of each; see `Model.predict_function`."""
        means, stds = self.model.predict_function(
            *self._wanted(*columns_of_batch(batch), len(batch))
        )
        return self._clip(means), stds

    def relax(self, links: Sequence[Link]) -> Relaxation:
        """Return an upper bound of accuracies over links; that of the Matern part and of trees."""
        return ModelRelaxation(self.model, links, lambda t: self._clip(self.model.warp.back(t)))

    def _predict(
        self, columns: tuple[Columns, Columns]
    ) -> tuple[Array, Array, NDArray[np.integer]]:
        """Return means, standard deviations and the numbers of choices that no subnet has."""
        means, stds, unseen = self.model.predict_all(*columns)
        return self._clip(means), stds, unseen

    def _wanted(self, genes: Columns, features: Columns, count: int) -> tuple[Columns, Columns]:
        """Return those that the model was fitted to, of so many networks."""
        wanted = self.model.encoding
        return (
            {gene.name: genes.get(gene.name, [None] * count) for gene in wanted.genes},
            {name: features.get(name, [0.0] * count) for name in wanted.features},
        )

    def _clip(self, means: Array) -> Array:
        most = math.inf if unit_of_task(self.task) == "dB" else 100.0
        return np.clip(means, 0.0, most)

    def describe(self) -> str:
        """Return provenance and error, in one line."""
        model, origin, unit = self.model, self.origin, unit_of_task(self.task)
        judged, score = model.judgement, model.judgement.scores[model.kind]
        tau = "" if score.kendall_tau is None else f", Kendall tau {score.kendall_tau:.2f}"
        weights = f", weights {origin.weights_sha256[:12]}" if origin.weights_sha256 else ""
        useless = score.mae >= judged.guess_mae
        verdict = ", no better than guessing: evaluate more subnets" if useless else ""
        pictures = f" on {origin.num_pictures:.0f} pictures each" if origin.num_pictures else ""
        return (
            f"{self.provenance}, {_members(model)} fitted to {judged.rows} subnets evaluated"
            f"{pictures} ({self.source}{weights}), error {score.mae:.2f} {unit} on average on "
            f"subnets left out ({judged.guess_mae:.2f} for guessing their mean{verdict}){tau}, "
            f"{judged.repeats} x {judged.folds}-fold cross-validation; says what shared weights "
            "reach, not what training alone would"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return for run.json everything needed to judge a prediction."""
        model, origin = self.model, self.origin
        return {
            "provenance": self.provenance,
            "task": origin.task,
            "dataset": origin.dataset,
            "metric": self.metric,
            "file": origin.file,
            "sha256": origin.file_sha256,
            "weights_sha256": origin.weights_sha256,
            "num_subnets": model.judgement.rows,
            "num_pictures": origin.num_pictures,
            "model": model.kind,
            "weights": model.weights,
            **model.judgement.to_dict(model.kind),
        }


def columns_of(space: Space, archs: Sequence[Arch]) -> tuple[Columns, Columns]:
    """Return genes and features of networks. Raises SpaceError for one of no part of the space."""
    return genes_of([choices_of(space, arch) for arch in archs]), features_of(archs)


def table_of(evaluations: Evaluations, space: Space) -> Table:
    """Return evaluated subnets as a table.

    Raises PredictorError where one is of another space, or where they are too few.
    """
    for arch in evaluations.archs:
        try:
            space.encode(arch)
        except SpaceError as error:
            line = evaluations.lines[arch]
            raise PredictorError(
                f"{evaluations.path}, line {line} is of another space: {error}; leave --space out "
                "to search the file's own"
            ) from None
    count = len(evaluations.archs)
    if count < FEWEST:
        raise PredictorError(
            f"{evaluations.path} holds {count} distinct subnet{'s' * (count != 1)}, too few to "
            f"tell a predictor from chance; {FEWEST} are needed, and ten times as many are better: "
            "`python -m supernet.evaluate --weights CHECKPOINT --sample 100 --out "
            f"{evaluations.path}`"
        )
    genes, features = columns_of(space, evaluations.archs)
    try:
        return Table.of(genes, evaluations.values, features)
    except PredictorError as reason:
        raise PredictorError(f"{evaluations.path}: {reason}") from None


def origin_of(evaluations: Evaluations, space: Space) -> Origin:
    """Return which subnets a model is of."""
    spec = space.spec or SpaceSpec(space.name, evaluations.task)
    return Origin(
        task=evaluations.task,
        dataset=evaluations.dataset,
        weights_sha256=evaluations.weights_sha256,
        num_pictures=evaluations.num_pictures,
        file=evaluations.path.name,
        file_sha256=evaluations.sha256,
        space=as_kind(spec.to_dict(), SpaceArguments, str(evaluations.path)),
    )


def fit_learned(evaluations: Evaluations, space: Space, *, model: str = AUTO) -> LearnedPredictor:
    """Fit to evaluated subnets of `space`, as `predictors.fit` does; raises as `table_of`."""
    found, _ = fit_table(table_of(evaluations, space), model=model)
    origin = origin_of(evaluations, space)
    return LearnedPredictor(space, found, origin, evaluations.path.name)


def read_learned(path: Path) -> LearnedPredictor:
    """Read a model of subnets. Raises PredictorError where it is none, or knows no networks."""
    model, told = read_model(path)
    if told.origin is None:
        raise PredictorError(
            f"{path} was fitted to a table of its own columns, and knows no networks; fit one to "
            f"evaluated subnets: python -m predictors.fit --subnets FILE.jsonl --out {path}"
        )
    return LearnedPredictor(_space(told, path), model, told.origin, path.name)


def _space(told: Metadata, path: Path) -> Space:
    assert told.origin is not None
    where = f"{path} is damaged, or of another version"
    if told.origin.space.task != told.origin.task:
        raise PredictorError(f"{where}: it is of {told.origin.task} and {told.origin.space.task}")
    try:
        return make_space(told.origin.space.spec())
    except (SpaceError, ArchError) as error:
        raise PredictorError(f"{where}: its space: {error}") from None


def _members(model: Model) -> str:
    if model.kind != "mean":
        return NAMES[model.kind]
    parts = [f"{100 * weight:.0f} % {NAMES[name]}" for name, weight in model.weights.items()]
    return " + ".join(parts)
