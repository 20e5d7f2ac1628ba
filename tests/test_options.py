"""Options take what a caller from Python may mean, and name what they cannot take."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from lut.calibration.options import CalibrationOptions
from lut.measuring.options import BuildOptions, ValidationOptions
from nas.engine.run import search
from nas.options import SearchOptions
from predictors.models.options import FitOptions
from results.errors import UserError
from results.options import Options
from supernet.evaluation.options import EvaluationOptions, ExtractionOptions
from supernet.training.options import TrainingOptions
from supernet.training.run import train

ALL = (
    *(SearchOptions, BuildOptions, ValidationOptions, CalibrationOptions),
    *(EvaluationOptions, ExtractionOptions, TrainingOptions, FitOptions),
)


@dataclass(frozen=True)
class Sample(Options):
    names: tuple[str, ...] = ()
    out: Path | None = None
    count: int = 1
    limit: float | None = None
    task: Literal["a", "b"] = "a"
    switch: bool = False


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ({"names": "one"}, {"names": ("one",)}),
        ({"names": ["one", "two"]}, {"names": ("one", "two")}),
        ({"out": "folder"}, {"out": Path("folder")}),
        ({"count": np.int32(7)}, {"count": 7}),
        ({"limit": np.float32(0.5)}, {"limit": 0.5}),
        ({"limit": 3}, {"limit": 3.0}),
        ({"limit": np.int64(3)}, {"limit": 3.0}),
    ],
)
def test_what_is_meant_is_taken(given, taken):
    sample = Sample(**given)
    for name, value in taken.items():
        assert getattr(sample, name) == value
        assert type(getattr(sample, name)) is type(value) or isinstance(value, Path)
    assert replace(sample) == sample


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"count": 20.5}, r"Sample\.count cannot be 20\.5: Expected `int`, got `float`"),
        ({"count": "7"}, r"Sample\.count cannot be '7': Expected `int`, got `str`"),
        ({"count": True}, r"Sample\.count cannot be True"),
        ({"count": None}, r"Sample\.count cannot be None"),
        ({"names": 3}, r"Sample\.names cannot be 3"),
        ({"names": [1]}, r"Sample\.names cannot be \[1\]"),
        ({"out": 5}, r"Sample\.out cannot be 5: Expected `Path`"),
        ({"limit": "1"}, r"Sample\.limit cannot be '1'"),
        ({"task": "c"}, r"Sample\.task cannot be 'c'"),
        ({"switch": 1}, r"Sample\.switch cannot be 1"),
        ({"names": "x" * 100_000, "count": "x" * 100_000}, r"Sample\.count cannot be 'xxx"),
    ],
)
def test_another_type_is_one_line_that_names_the_field(given, told):
    with pytest.raises(UserError, match=told) as caught:
        Sample(**given)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("options", ALL)
def test_all_options_are_such(options):
    assert issubclass(options, Options)
    assert options() == replace(options())
    field = "weights" if "weights" in options.__dataclass_fields__ else "out"
    assert getattr(options(**{field: "there"}), field) == Path("there")


def test_a_search_by_texts_is_the_search(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts: dict[str, Any] = {"device": "orin", "freeze": "resolution=224", "out": "run"}
    found = search(SearchOptions(trials=20, evaluations=9000, **texts))
    assert (tmp_path / "run" / "front.csv").exists()
    assert {c.arch.resolution for c in found.front.candidates} == {(224, 224)}


def test_a_training_whose_options_are_wrong_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    texts: dict[str, Any] = {"data": "nope", "out": "run"}
    with pytest.raises(UserError, match="nope"):
        train(TrainingOptions(space="tiny", steps=1, **texts))
    number: Any = 64
    with pytest.raises(UserError, match="resolution"):
        train(TrainingOptions(arch="b0", steps=1, resolution=number, out=Path("run")))
    assert not any(tmp_path.iterdir())
