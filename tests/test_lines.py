"""Lines of sessions and journals: their types, whatever a target or a damaged file says."""

import json
from typing import Any

import pytest

from lut.runtimes.lines import check_fits, journal_line, session_line
from results.errors import RunError, TargetError

SESSION: list[dict[str, Any]] = [
    {"environment": {"runtime": "litert", "version": None, "cpus": [0, 1], "arena": True}},
    {"environment": {"energy": {"sensor": "RAPL", "zones": ["package-0", "dram"]}}},
    {"environment": {}},
    {"pass": 0, "us": [1.5, None, 3], "load": None, "temperature_c": -1.5},
    {"pass": 3, "us": []},
    {"failed": 7, "error": ""},
    {"remark": 0, "text": "x"},
    {"energy": 1, "mj": 0},
    {"loaded": 3},
    {"at": 0},
    {"warmup": -2},
    {"error": "no provider"},
]
JOURNAL: list[dict[str, Any]] = [
    {"chunk": 0, "role": "blocks", "content": [["mbconv", 3]]},
    {"chunk": 3, "pass": 0, "us": [1.5, None], "load": 0.5, "temperature_c": 40, "seconds": 1.5},
    {"chunk": 3, "environment": {"runtime": "x"}, "seconds": 0.1},
    {"chunk": 3, "trouble": "lost"},
    {"chunk": 3, "verdict": "accepted", "drift_percent": 0.8},
    {"chunk": 3, "verdict": "accepted", "drift_percent": 0.8, "merged": [1, 2]},
    {"chunk": 3, "verdict": "failed"},
]


def test_lines_of_every_kind_are_given_as_they_are():
    for line in SESSION:
        assert session_line(json.dumps(line), "x") == line
    for line in JOURNAL:
        assert journal_line(json.dumps(line), "x") == line


def test_fields_of_other_kinds_and_later_versions_are_left_out():
    told = '{"pass": 0, "us": [1], "failed": "x", "verdict": [], "later": {}}'
    assert session_line(told, "x") == {"pass": 0, "us": [1]}


BROKEN = [
    '{"pass":[0],"us":[1]}',
    '{"pass":0,"us":[NaN]}',
    '{"pass":0,"us":[Infinity]}',
    '{"pass":0,"us":[-1]}',
    '{"pass":0,"us":[0]}',
    '{"pass":0,"us":[1e300]}',
    '{"pass":0,"us":[1' + "0" * 400 + "]}",
    '{"pass":0,"us":[true]}',
    '{"pass":0,"us":["1"]}',
    '{"pass":0,"us":{"0":1}}',
    '{"pass":0}',
    '{"pass":true,"us":[1]}',
    '{"pass":-1,"us":[1]}',
    '{"pass":1e400,"us":[1]}',
    '{"pass":0,"us":[1],"load":"x"}',
    '{"pass":0,"us":[1],"temperature_c":[4]}',
    '{"failed":"7","error":"x"}',
    '{"failed":7}',
    '{"failed":7,"error":["x"]}',
    '{"energy":1,"mj":-1}',
    '{"remark":1,"text":null}',
    '{"environment":[]}',
    '{"environment":{"cpus":[[0]]}}',
    '{"environment":{"version":' + "[" * 50 + "]" * 50 + "}}",
    json.dumps({"environment": {f"x{i}": i for i in range(2000)}}),
    "[" * 100_000,
    '{"a":' * 100_000,
    "{}",
    '{"chunk":99,"seconds":1}',
    "[1, 2]",
    "7",
    "null",
    "",
    "\x00",
    "Welcome to the board!",
    '{"pass": 0, "us": [',
    json.dumps({f"field{i}": i for i in range(5000)}),
]


@pytest.mark.parametrize("text", BROKEN, ids=lambda text: text[:30].replace("\x00", "NUL"))
def test_any_other_line_is_an_error_of_one_line(text):
    with pytest.raises(TargetError, match=r"^board: ") as caught:
        session_line(text, "board")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    with pytest.raises(RunError, match=r"^journal: "):
        journal_line(text, "journal")


def test_what_a_journal_alone_holds_is_none_of_a_session_and_needs_a_chunk():
    for line in JOURNAL:
        if {"role", "trouble", "verdict"} & set(line):
            with pytest.raises(TargetError, match="no line of this kind"):
                session_line(json.dumps(line), "board")
        del line["chunk"]
        with pytest.raises(RunError, match="tells no chunk"):
            journal_line(json.dumps(line), "journal")
    others: list[dict[str, Any]] = [{"loaded": 1}, {"error": "x"}]
    for line in others:
        with pytest.raises(RunError, match="no line of this kind"):
            journal_line(json.dumps({"chunk": 0, **line}), "journal")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"failed": 4, "error": ""}, "model 4, and there are 4"),
        ({"remark": 10, "text": ""}, "model 10"),
        ({"energy": 4, "mj": 1.0}, "model 4"),
        ({"pass": 0, "us": [1.0] * 5}, "a pass of 5 samples, not of 6"),
        ({"pass": 0, "us": []}, "a pass of 0 samples"),
    ],
)
def test_a_line_fits_the_models(line, told):
    with pytest.raises(TargetError, match=f"^board: .*{told}"):
        check_fits(line, 4, 6, "board", TargetError)


def test_lines_that_fit():
    lines: list[dict[str, Any]] = [{"failed": 3, "error": ""}, {"pass": 9, "us": [1.0] * 6}]
    for line in (*lines, {"at": 99}):
        check_fits(line, 4, 6, "board", TargetError)
