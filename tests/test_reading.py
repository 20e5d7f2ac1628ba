"""The one way to read what somebody else wrote: encodings, limits, types, CSV as it is written."""

import csv
import io
import json
import math
import os
import subprocess
import sys
import tracemalloc
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from results.errors import DataError, RunError, TableError, UserError, masked, printable, shown
from results.reading import (
    Count,
    Record,
    decode,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    read_toml,
    whole_lines,
)
from results.sheets import parse_number, parse_sheet, parse_whole, read_sheet

COLUMNS = ("arch", "resolution", "latency_ms", "notes")


class Times(Record, frozen=True):
    step: Count
    ms: list[Annotated[float, msgspec.Meta(gt=0, le=1e15)]]


def test_a_fifo_a_folder_and_a_large_file_are_refused(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"x" * 11)
    for name, what in (
        ("fifo", "regular file"),
        (".", "directory"),
        ("large", "larger than 10 bytes"),
        ("a\0b", "name"),
        ("missing", "No such file"),
    ):
        with pytest.raises(DataError, match=what):
            read_bytes(tmp_path / name, error=DataError, most=10)


def test_a_sparse_file_is_not_read_whole(tmp_path):
    path = tmp_path / "sparse"
    path.touch()
    os.truncate(path, 2**40)
    tracemalloc.start()
    with pytest.raises(RunError, match="larger than 1 MB"):
        read_bytes(path, most=2**20)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-32", "utf-16", "utf-16-le", "utf-16-be"]
)
@given(text=st.text(st.characters(min_codepoint=32, max_codepoint=0x2FFF), min_size=2))
def test_text_is_read_in_each_encoding(encoding, text):
    text = "ab" + text  # a file of ours begins with a letter
    assert decode(text.encode(encoding), "x") == text


def test_two_marks_and_a_spreadsheet(tmp_path):
    assert decode(b"\xef\xbb\xbf\xef\xbb\xbfab", "x") == "ab"
    with pytest.raises(TableError, match="save it as CSV"):
        decode(b"PK\3\4 ...", "x", error=TableError)


def test_text_in_another_encoding_says_what_to_do(tmp_path):
    (tmp_path / "latin").write_bytes("größe".encode("latin-1"))
    with pytest.raises(TableError, match="save it as UTF-8"):
        read_text(tmp_path / "latin", error=TableError)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000,
        "",
        "NaN",
        "1e999",
        "9" * 5000,
        '{"step": 1}',
        '{"step": [0], "ms": []}',
        '{"step": true, "ms": []}',
        '{"step": -1, "ms": []}',
        '{"step": 1.5, "ms": []}',
        '{"step": ' + "9" * 400 + ', "ms": []}',
        '{"step": 1, "ms": [0]}',
        '{"step": 1, "ms": [NaN]}',
        '{"step": 1, "ms": [1e400]}',
        '{"step": 1, "ms": ["1"]}',
        '{"step": 1, "ms": [' + "9" * 400 + "]}",
        '{"' + "x" * 50_000 + '": 1}',
        '"\\ud800"',
        '{"step": 1, "ms": []} {}',
    ],
    ids=lambda text: text[:24],
)
def test_what_is_no_record_is_one_short_line(text):
    with pytest.raises(RunError) as caught:
        parse_json(text, Times, "log")
    assert str(caught.value).startswith("log: ")
    assert len(str(caught.value)) < 300


def test_fields_of_later_versions_are_passed_over():
    found = parse_json('{"step": 3, "ms": [1, 2.5], "later": {"x": []}}', Times, "log")
    assert (found.step, found.ms) == (3, [1.0, 2.5])


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**62), 2**62)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_json_is_read_as_the_standard_library_does(value):
    text = json.dumps(value)
    assert parse_json(text, Any, "x") == json.loads(text)


def test_toml_is_typed(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text("step = 1\nms = [1.0]\n")
    assert read_toml(path, Times) == Times(step=1, ms=[1.0])
    for text in ("step = 'x'\nms = []", "step =", "step = " + "9" * 5000, "a = " + "[" * 5000):
        path.write_text(text)
        with pytest.raises(RunError) as caught:
            read_toml(path, Times)
        assert len(str(caught.value)) < 400


def test_json_files_with_a_mark_are_read(tmp_path):
    (tmp_path / "x.json").write_text('{"step": 1, "ms": []}', encoding="utf-16")
    assert read_json(tmp_path / "x.json", Times).step == 1


# --- Logs ----------------------------------------------------------------------------------


@given(st.lists(st.integers()), st.integers(0, 40), st.integers(0, 5))
def test_a_torn_line_of_ours_ends_a_log(values, cut, zeros):
    whole = b"".join(b'{"a": %d}\n' % value for value in values)
    torn = b'{"a": 12345, "b": "a longer line of ours"}'[:cut]
    lines, end = whole_lines(whole + torn + b"\0" * zeros, '{"a": ', "log")
    assert end == len(whole)
    assert [json.loads(line)["a"] for line in lines] == values


@pytest.mark.parametrize("tail", [b"notes", b"{", b'{"a"', b'{"b": 1', b"\xff\xfe", b" {"])
def test_a_tail_that_is_not_ours_is_refused(tail):
    ours = tail in (b"{", b'{"a"')
    if ours:
        assert whole_lines(tail, '{"a": ', "log") == ([], 0)
    else:
        with pytest.raises(RunError, match="nothing was changed"):
            whole_lines(b"x\n" + tail, '{"a": ', "log")


# --- CSV -----------------------------------------------------------------------------------

ROWS = [{"arch": "b0", "resolution": "224", "latency_ms": "4.1", "notes": "a, b; c"}]


def sheet(text, numbers=("latency_ms",)):
    return parse_sheet(text, COLUMNS, "points", numbers=numbers, error=TableError)


@pytest.mark.parametrize(
    "text",
    [
        'arch,resolution,latency_ms,notes\nb0,224,4.1,"a, b; c"\n',
        '\n\n  \narch,resolution,latency_ms,notes\nb0,224,4.1,"a, b; c"\n',
        'sep=;\narch;resolution;latency_ms;notes\nb0;224;4,1;"a, b; c"\n',
        '"sep=;"\r\narch;resolution;latency_ms;notes\r\nb0;224;4,1;"a, b; c"\r\n',
        "sep=\t\narch\tresolution\tlatency_ms\tnotes\nb0\t224\t4,1\ta, b; c\n",
        "arch|resolution|latency_ms|notes\nb0|224|4.1|a, b; c\n",
        'Latencies of my phone,,,\n,,,\narch,resolution,latency_ms,notes\nb0,224,4.1,"a, b; c"\n',
        'My phone; May 2026\narch;resolution;latency_ms;notes\nb0;224;4,1;"a, b; c"\n',
        'Arch, Resolution ,LATENCY_MS,Notes,,\r\n b0 , 224 ,\u00a04.1,"a, b; c",,\r\n,,,,,\r\n',
        'arch,resolution,latency_ms,notes\rb0,224,4.1,"a, b; c"\r',
        'arch,,resolution,latency_ms,notes\nb0,,224,4.1,"a, b; c"\n',
        ',arch,resolution,latency_ms,notes\n0,b0,224,4.1,"a, b; c"\n',  # as pandas writes
        '"arch","resolution","latency_ms","notes"\n"b0","224","4,1","a, b; c"\n',
        'My phone\nMay 2026\narch,resolution,latency_ms,notes\nb0,224,4.1,"a, b; c"\n\n \n,,,\n',
        "arch\tresolution\tlatency_ms\tnotes\t\t\r\nb0\t224\t4,1\ta, b; c\t\t\r\n",
    ],
)
def test_csv_is_read_as_programs_write_it(text):
    assert [fields for _, fields in sheet(text)] == ROWS


def test_lines_are_those_of_the_file():
    text = 'sep=,\n\ntitle\narch,latency_ms,notes\nb0,4.1,"two\nlines"\n\nb1,5,\n'
    assert [line for line, _ in sheet(text)] == [5, 8]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("arch;latency_ms\nb0;4,1\nb1;1.5\n", "line 3 has a decimal point and line 2 a comma"),
        ('arch,latency_ms\nb0,"4,1"\nb1,1.5\n', "line 3 has a decimal point and line 2 a comma"),
        ('arch,latency_ms\nb0,"1,234"\nb1,"5,678"\n', "'1,234' may be a thousand"),
        ("arch;latency_ms\nb0;1,234,567\n", "line 2: write '1,234,567' without commas"),
        ("arch;latency_ms\nb0;1.234,5\n", "line 2 has a decimal point and line 2 a comma"),
        ("arch,latency_ms\nb0,4.1,9\n", "line 2: '9' is in no column"),
        ("arch,latency_ms,arch\nb0,4.1,b0\n", "'arch' stands twice"),
        ("", "no row names the columns"),
        (",arch,latency_ms\n0,b0,4\n2,b1,5\n", "'0' is in a column without a name"),
        ("arch,latency_ms\nb0,4\n\0\0\0", "line 3: NUL bytes"),
        (
            'arch,notes,latency_ms\nb0,"first,1\nb1,,2\nb2,,3\n',
            "line 2: a quote is opened and never",
        ),
        ("arch\tlatency_ms\nb0\t1,234\nb1\t2,345\n", "may be a thousand"),
        ("arch|latency_ms\nb0|1,234\n", "may be a thousand"),
        ("arch,latency_ms\n" + "x" * 200_000 + ",1\n", "line 2: field larger"),
    ],
)
def test_csv_that_cannot_be_understood_is_refused(text, what):
    with pytest.raises(TableError, match=what) as caught:
        list(sheet(text))
    assert len(str(caught.value)) < 300


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(min_codepoint=33, max_codepoint=0x2FF, exclude_characters="|")),
            st.integers(0, 999),
        ),
        min_size=1,
    ),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n"]),
)
def test_csv_comes_back_as_it_was_written(rows, delimiter, end):
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
    writer.writerow(["notes", "latency_ms"])
    writer.writerows(rows)
    found = [(f.get("notes", ""), f["latency_ms"]) for _, f in sheet(file.getvalue())]
    assert found == [(text.strip(), str(number)) for text, number in rows]


def test_a_sheet_comes_from_a_file(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("arch;latency_ms\nb0;4,1\n", encoding="utf-16")
    found = read_sheet(path, COLUMNS, numbers=("latency_ms",), error=TableError)
    assert found.decimal_comma == "4,1"
    assert found.remark == f"{path}: commas in numbers are decimal points: 4,1 is 4.1"
    assert list(found) == [(2, {"arch": "b0", "latency_ms": "4.1"})]


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("arch,latency_ms\nb0,4.1\n", ""),
        ("\n \n,,\narch,latency_ms\nb0,4.1\n", ""),
        ("title\narch,latency_ms\nb0,4.1\n", "points: 1 row above the names of the columns "),
        ('a\nb\narch,latency_ms\nb0,"0,123"\n', "points: 2 rows above"),
        ('a\nb\narch,latency_ms\nb0,"0,123"\n', "decimal points: 0,123 is 0.123"),
        ("arch;latency_ms\nb0;4,123\n", "points: commas in numbers are decimal points: 4,123 is"),
    ],
)
def test_what_was_guessed_is_said(text, remark):
    found = sheet(text).remark
    assert remark in found if remark else not found


@pytest.mark.parametrize(
    ("text", "value"),
    [("16", 16), ("16.0", 16), ("1e3", 1000), ("-0", 0)]
    + [(text, None) for text in ("16.5", "", "x", "1_6", "nan", "1e300", "1 000")],
)
def test_whole_numbers_may_be_written_as_floats(text, value):
    if value is None:
        with pytest.raises(ValueError, match=r"number|float"):
            parse_whole(text)
    else:
        assert parse_whole(text) == value


@pytest.mark.parametrize("text", ["nan", "inf", "1_000", "", "1,5", "x", "1e999"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match=r"number|float"):
        parse_number(text)
    assert math.isclose(parse_number(" 1.5 "), 1.5)


# --- What an error shows -------------------------------------------------------------------


@given(st.text() | st.binary().map(lambda b: b.decode("utf-8", "surrogateescape")))
def test_an_error_is_one_printable_line(text):
    said = str(UserError(text))
    assert said.isprintable()
    assert len(said) <= 1200
    said.encode()


@given(
    st.recursive(
        st.none() | st.integers() | st.text() | st.binary(), lambda x: st.lists(x, max_size=99)
    )
)
def test_a_shown_value_is_short(value):
    assert len(shown(value, 40)) <= 60


def test_a_huge_number_and_a_deep_list_can_be_shown():
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(10**5000) == "a number of 5001 digits"
    assert shown(deep).startswith("a list")


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("mysql+pymysql://u:secret@localhost/x", "mysql+pymysql://u:***@localhost/x"),
        ("at 'redis://:secret@h:1/0': no", "at 'redis://:***@h:1/0': no"),
        ("postgresql://u:a/secret@b@h/x?y=1", "postgresql://u:***@h/x?y=1"),
        ("no folder https:/u:secret@h/x", "no folder https:/u:***@h/x"),  # of a path
        ("postgresql://h/x?user=u&password=secret&a=b", "postgresql://h/x?user=u&password=***&a=b"),
        ("host=h password=secret dbname=x", "host=h password=*** dbname=x"),
        ("no target 'u:secret@board' (x)", "no target 'u:***@board' (x)"),
        ("root:a:secret@b@10.0.0.1: no", "root:***@10.0.0.1: no"),
        (
            "https://b.s3/x.pt?X-Amz-Signature=secret&a=b",
            "https://b.s3/x.pt?X-Amz-Signature=***&a=b",
        ),
        ("X-Amz-Credential=secret%2Fx", "X-Amz-Credential=***"),
        ("no https:/a.net/c?sv=2&sig=secret%3D", "no https:/a.net/c?sv=2&sig=***"),
        ("'AccountName=x;AccountKey=secret==;a=b'", "'AccountName=x;AccountKey=***;a=b'"),
        ("'SharedAccessSignature=secret'", "'SharedAccessSignature=***'"),
        ("(access_key=secret, SECRET_KEY=secret", "(access_key=*** SECRET_KEY=***"),
        ("x?AWSAccessKeyId=secret&Signature=secret", "x?AWSAccessKeyId=***&Signature=***"),
        ("https://x.org/#access_token=secret", "https://x.org/#access_token=***"),
        ("https://ghp_0123456789secret@github.com/x", "https://***@github.com/x"),
        ("postgresql://u:secret@h and sqlite:///x.db", "postgresql://u:***@h and sqlite:///x.db"),
    ],
)
def test_passwords_are_masked(text, safe):
    assert masked(text) == safe
    assert "secret" not in str(UserError(text))


@pytest.mark.parametrize(
    "text",
    [
        "--passes=12",
        "/d/num_tokens=5/x",
        "compass=2 tokenizer=3",
        "--design=3 sigma=2 authors=4 keys=5 monkey=6 author=7",
        "12:30 me@x.org",
        "C:\\x@y",
        "http://me@x.org/a:b",
    ],
)
def test_ordinary_words_are_no_secrets(text):
    assert masked(text) == text


def test_piped_input_is_read(tmp_path):
    code = "import sys; from pathlib import Path; from results.reading import read_text; "
    code += "print(read_text(Path(sys.argv[1])))"
    shell = '"$PYTHON" -c "$CODE" <(printf "a\\nb"); printf c | "$PYTHON" -c "$CODE" /dev/stdin'
    done = subprocess.run(
        ["bash", "-c", shell],
        env={**os.environ, "PYTHON": sys.executable, "CODE": code},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "a\nb\nc\n"


@pytest.mark.parametrize(
    "text", ["ssh://me@host:22", "https://a.org/x?y=1", "C:/x@y", "resolution=224", "a: b@c"]
)
def test_what_holds_no_password_stays(text):
    assert masked(text) == text


def test_escapes_do_not_reach_a_terminal():
    assert printable("a\x1b[31mred\x07\x9b\u202e") == "a\\x1b[31mred\\x07\\x9b\\u202e"
