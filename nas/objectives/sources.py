"""What gives a search its accuracies: predictions here, evaluations in `supernet_accuracy`."""

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from predictors.accuracy import AccuracyPrediction, OtherClasses, Prior
from predictors.batch import Batch, Predictions, PredictsMany
from predictors.relaxation import Relaxable
from supernet.arch import Arch


class AccuracyPredictor(Protocol):
    """Predicts accuracies, and tells where its numbers come from."""

    @property
    def provenance(self) -> str:
        """Return published, supernet or trained."""
        ...

    @property
    def metric(self) -> str:
        """Return what the accuracy is, with its unit."""
        ...

    def predict(self, arch: Arch) -> AccuracyPrediction:
        """Return the accuracy of a network, in the metric's own points."""
        ...

    def judge(self, batch: Batch) -> Predictions:
        """Return the accuracies of many networks, as `predict` gives them."""
        ...

    def describe(self) -> str:
        """Return one line: provenance and error."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Return what decides the numbers, for run.json."""
        ...


class AccuracySource(PredictsMany):
    """Gives a search its accuracies."""

    @property
    @abstractmethod
    def provenance(self) -> str:
        """Return published, supernet or trained."""

    @property
    @abstractmethod
    def metric(self) -> str:
        """Return what the accuracy is, with its unit."""

    @abstractmethod
    def predict(self, arch: Arch) -> AccuracyPrediction:
        """Return the accuracy of a network, in the metric's own points."""

    @abstractmethod
    def describe(self) -> str:
        """Return one line: provenance and error."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return what decides the numbers, for run.json."""

    def keep_in(self, folder: Path) -> None:
        """Take up what the run in `folder` holds of it, and keep there what takes long to find.

        Raises RunError where that is damaged.
        """
        return  # what takes no time is kept nowhere

    def is_broken(self, arch: Arch) -> bool:
        """Tell whether a network that was asked for has no accuracy: its outputs are not finite."""
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a reader of its accuracies must know, a line each."""
        return ()

    @property
    def prior(self) -> Prior | None:
        """Return the published prior where that is all that decides accuracies."""
        return None

    @property
    def relaxable(self) -> Relaxable | None:
        """Return the predictor where its accuracies can be bounded for all networks at once."""
        return None


class PredictedAccuracy(AccuracySource):
    """Predicts, from published figures, evaluated subnets or networks trained alone."""

    def __init__(self, predictor: AccuracyPredictor) -> None:
        self._predictor = predictor

    @property
    def provenance(self) -> str:
        """Return published, supernet for evaluated subnets, trained with networks beside them."""
        return self._predictor.provenance

    @property
    def metric(self) -> str:
        """Return what the accuracy is, with its unit."""
        return self._predictor.metric

    @property
    def prior(self) -> Prior | None:
        """Return the published prior where that is all that decides accuracies."""
        own = self._predictor
        return (
            own.prior if isinstance(own, OtherClasses) else own if isinstance(own, Prior) else None
        )

    @property
    def relaxable(self) -> Relaxable | None:
        """Return the predictor where its accuracies can be bounded for all networks at once."""
        return self._predictor if isinstance(self._predictor, Relaxable) else None

    def predict(self, arch: Arch) -> AccuracyPrediction:
        """Return mean and standard deviation."""
        return self._predictor.predict(arch)

    def judge(self, batch: Batch) -> Predictions:
        """Return the accuracies of many networks."""
        return self._predictor.judge(batch)

    def describe(self) -> str:
        """Return one line: provenance and error."""
        return self._predictor.describe()

    def to_dict(self) -> dict[str, Any]:
        """Return everything needed to judge a prediction, for run.json."""
        return self._predictor.to_dict()


@dataclass(frozen=True)
class NoAccuracy(PredictsMany):
    """For questions that no accuracy is asked for, where asking costs seconds."""

    prior: ClassVar[None] = None
    relaxable: ClassVar[None] = None

    def predict(self, arch: Arch) -> AccuracyPrediction:
        """Return 0 for every network."""
        return AccuracyPrediction(0.0, 0.0)

    def judge(self, batch: Batch) -> Predictions:
        """Return 0 for all networks."""
        nothing = np.zeros(len(batch))
        return Predictions(nothing, nothing, nothing > 0, nothing > 0)
