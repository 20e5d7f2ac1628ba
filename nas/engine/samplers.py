"""Optuna's samplers by name."""

import warnings
from typing import TYPE_CHECKING

from nas.options import ARCHIVE
from results.errors import SearchError, check_choice

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

SAMPLERS = (ARCHIVE, "nsga2", "nsga3", "tpe", "gp", "random")
POPULATION = 100  # trials of a generation, and of a batch that is written at once


def check_sampler(name: str) -> None:
    """Raise SearchError for an unknown sampler, and where a package is missing."""
    check_choice("sampler", name, SAMPLERS, SearchError)
    if name == "gp":
        try:
            import torch  # noqa: F401  (what Optuna's Gaussian process computes with)
        except ImportError:
            raise SearchError(
                "--sampler gp computes with PyTorch, which is not installed; `pip install "
                "'torch>=2.5,<2.14'`, or take --sampler tpe"
            ) from None


def make_sampler(name: str, seed: int) -> "BaseSampler":
    """Return a fresh sampler of Optuna's: what a search knows lies in its trials, not in it.

    `name` is one of SAMPLERS but for ARCHIVE.
    """
    import optuna

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
        return samplers.GPSampler(seed=seed)
