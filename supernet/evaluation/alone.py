"""Figures of networks with weights of their own in a file, as those of subnets are kept."""

import shlex
from pathlib import Path
from typing import Any

from results.errors import RunError, WeightsError
from supernet.arch import Arch, format_resolution
from supernet.evaluation.options import EvaluationOptions
from supernet.evaluation.rows import SHARED, TRAINED, EvaluationLog, EvaluationRow, rows_of
from supernet.weights.fitting import StoredWeights
from supernet.weights.header import WeightsHeader


def provenance_of(header: WeightsHeader, options: EvaluationOptions) -> str:
    """Return where figures of one network come from; weights that do not tell count as trained."""
    return header.provenance or options.provenance or TRAINED


class NetworkLog:
    """Appends the figures of one network to a file, once.

    Those of weights that were trained for this network alone are `trained`. A network that was
    taken out of a supernet and not trained since has the rows that `supernet.evaluate` of the
    supernet writes of it: provenance supernet, and the hash of the supernet's file.
    """

    def __init__(
        self, path: Path, weights: StoredWeights, arch: Arch, options: EvaluationOptions
    ) -> None:
        """Look at the file before anything is evaluated.

        Raises WeightsError where nothing tells how the weights came about, RunError where the
        file holds something else, or figures of another kind of weights.
        """
        header = weights.header
        _check(weights, arch, options)
        self._path, self._arch, self._header = path, arch, header
        self._provenance = provenance_of(header, options)
        self._class_order = options.class_order
        EvaluationLog(path, {}, provenance=self._provenance)

    def append(self, answer: dict[str, Any]) -> tuple[str, ...]:
        """Add a row for each figure of an answer of `evaluate_network`.

        Return a line that says so where the file has them already. Raises RunError where it
        cannot be written.
        """
        facts = self._facts(answer)
        log = EvaluationLog(self._path, facts, provenance=self._provenance)
        if self._arch in log.by_arch:
            return (f"{self._path} has the figures of these weights already: nothing is appended",)
        log.append(rows_of(self._arch, answer["metrics"], facts, provenance=self._provenance))
        return ()

    def _facts(self, answer: dict[str, Any]) -> EvaluationRow:
        header = self._header
        facts = {name: answer[name] for name in ("weights_sha256", "task", "dataset", "n")}
        facts["precision"] = answer["precision"]
        if self._class_order is not None:
            facts["class_order"] = self._class_order
        if self._provenance == SHARED:
            assert header.extraction is not None
            facts["weights_sha256"] = header.extraction.supernet_sha256
            told = {
                "seed": header.extraction.seed,
                "recalibration_images": header.extraction.images,
                "recalibration_batch": header.extraction.batch,
            }
        else:
            told = {"seed": header.seed, "steps": header.steps}
        return facts | {name: number for name, number in told.items() if number is not None}


def _check(weights: StoredWeights, arch: Arch, options: EvaluationOptions) -> None:
    """Raise UserError where figures of the weights are none of a network trained alone, or shared.

    So are those of pictures at another size than the network was trained at.
    """
    header, path = weights.header, shlex.quote(str(weights.path))
    if header.provenance is None and options.provenance is None:
        raise WeightsError(
            f"{weights.path} does not tell how it was trained; where that was done for this "
            "network alone, give --provenance trained"
        )
    if header.provenance == SHARED and options.provenance is not None:
        raise WeightsError(
            f"{weights.path} was taken out of a supernet and not trained since, so it is not "
            f"trained alone; leave --provenance out, or train it by `python -m supernet.train "
            f"--arch {path} --init {path}`"
        )
    sizes = header.resolutions or ((header.arch.resolution,) if header.arch else ())
    if sizes and arch.resolution not in sizes:
        listed = ", ".join(map(format_resolution, sizes))
        raise RunError(
            f"--out keeps figures at the resolution that {weights.path} was trained at, {listed}, "
            f"not {format_resolution(arch.resolution)}; leave --resolution or --out out"
        )
