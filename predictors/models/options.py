"""What a fit is asked for: the flags of `predictors.fit` as a value."""

from dataclasses import dataclass
from pathlib import Path

from results.options import Options


@dataclass(frozen=True)
class FitOptions(Options):
    """Everything that a fit is asked for, by the names of the command's flags."""

    rows: Path | None = None
    """CSV with a row for each network: --column is predicted from --genes and --features."""
    column: str | None = None
    """What is predicted, a column of numbers."""
    genes: tuple[str, ...] = ()
    """Columns of choices, numbers or texts, with commas between them; `ks*` names all that begin
    with ks; repeatable. An empty field is a choice that the network does not have."""
    features: tuple[str, ...] = ()
    """Columns of further numbers, such as MACs and parameters; likewise."""
    subnets: Path | None = None
    """Instead of --rows, FILE.jsonl of subnets that supernet.evaluate wrote; features are MACs,
    parameters and blocks of each stage."""
    space: str | None = None
    """Space of the --subnets; by default the smallest that holds all of them."""
    out: Path | None = None
    """MODEL.npz to write; by default model.npz in the --report folder."""
    report: Path | None = None
    """New folder for the picture and the record; by default results/runs/fit-NAME-TIME."""
    model: str = "auto"
    """ridge, gp (Gaussian process), trees (boosted), mean (of the three, weighted), or auto: the
    best of them by cross-validation."""
