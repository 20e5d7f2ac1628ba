"""Optuna's samplers by name."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nas.options import ARCHIVE
from results.errors import SearchError, check_choice

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

SAMPLERS = (ARCHIVE, "nsga2", "nsga3", "tpe", "gp", "random")
POPULATION = 100  # trials of a generation, and of a batch that is written at once


@dataclass(frozen=True)
class Proposals:
    """Networks that ARCHIVE tries in turn."""

    genes: Sequence[dict[str, int]] = ()  # by name
    choices: Mapping[str, int] = field(default_factory=dict)  # their number, of each gene


def make_sampler(name: str, seed: int, proposals: Proposals | None = None) -> "BaseSampler":
    """Return a fresh sampler; the state of a search lies in its trials, not in the sampler.

    Raises SearchError for an unknown name, and where a package is missing.
    """
    check_choice("sampler", name, SAMPLERS, SearchError)
    import optuna

    if name == ARCHIVE:
        from nas.engine.archive_sampler import ArchiveSampler

        own = proposals or Proposals()
        return ArchiveSampler(own.genes, own.choices, seed)
    samplers = optuna.samplers
    with warnings.catch_warnings():
        # Optuna calls nsga3 and parts of others experimental: a name, no fault of the user's.
        warnings.simplefilter("ignore", category=optuna.exceptions.ExperimentalWarning)
        if name == "nsga2":
            return samplers.NSGAIISampler(population_size=POPULATION, seed=seed)
        if name == "nsga3":
            return samplers.NSGAIIISampler(population_size=POPULATION, seed=seed)
        if name == "tpe":
            return samplers.TPESampler(seed=seed)
        if name == "random":
            return samplers.RandomSampler(seed=seed)
        try:
            import torch  # noqa: F401  (what Optuna's Gaussian process computes with)
        except ImportError:
            raise SearchError(
                "--sampler gp computes with PyTorch, which is not installed; `pip install "
                "'torch>=2.5,<2.14'`, or take --sampler tpe"
            ) from None
        return samplers.GPSampler(seed=seed)
