"""The frame of a command: streams that are closed or full, texts of others on the terminal."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import supernet.evaluate
from results.console import at_home, main, terminal
from results.errors import UserError

ROOT = Path(__file__).parents[1]
SEARCH = "-m nas.search --device orin --space tiny --trials 12 --out run"
PREDICT = "-m nas.predict --device orin --arch b0"


def shell(command, folder, **variables):
    """Run a command line of Python's with redirections, as a shell does."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", f"{sys.executable} {command}"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("streams", [">&- 2>&- <&-", "2>/dev/full", "2>&1 | head -1"])
def test_a_search_whose_streams_are_closed_is_a_search(tmp_path, streams):
    done = shell(f"{SEARCH} {streams}", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"front.csv", "front.json", "front.png", "front.html"} <= names
    for name in ("front.csv", "front.json", "run.json", "study.log"):
        text = (tmp_path / "run" / name).read_text()
        assert text.startswith(("{", "id,"))
        assert "trials," not in text  # progress, or a table, by a descriptor that was used again


@pytest.mark.parametrize("streams", [">&-", "2>&-", "<&- 2>&- >&-"])
def test_a_prediction_whose_streams_are_closed_is_one(tmp_path, streams):
    done = shell(f"{PREDICT} {streams}", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_programs_that_are_started_have_streams_too(tmp_path):
    code = (
        "import subprocess, sys\nfrom pathlib import Path\n"
        "from results.console import open_standard_streams\n"
        "open_standard_streams()\n"
        "child = [sys.executable, '-c', 'import os; [os.fstat(i) for i in range(3)]']\n"
        "status = subprocess.run(child).returncode\n"
        "Path('told').write_text(f'{status} {sys.stdin.read()!r}')"
    )
    done = shell(f'-c "{code}" <&- >&- 2>&-', tmp_path)
    assert done.returncode == 0
    assert (tmp_path / "told").read_text() == "0 ''"


@pytest.mark.parametrize("flags", ["", "--json"])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_output_is_named(tmp_path, flags, unbuffered):
    done = shell(f"{PREDICT} {flags} >/dev/full", tmp_path, PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 2
    assert done.stderr.startswith("error: standard output")
    assert done.stderr.endswith(": No space left on device\n")
    assert done.stderr.count("\n") == 1
    if flags == unbuffered == "":  # little is printed, which is written at the end
        assert done.stderr == "error: standard output: No space left on device\n"


def test_a_full_output_costs_no_file_of_a_search(tmp_path):
    done = shell(f"{SEARCH} --json >/dev/full", tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert (tmp_path / "run" / "front.png").exists()


def test_texts_of_others_cannot_move_the_cursor(capsys):
    from rich.table import Table

    out = terminal(width=300)
    table = Table(title="\x1b]0;owned\x07[red]title[/x]")
    table.add_column("\x1b[2Jhead")
    table.add_row("cell\x9b31m \u202eabc :smile:")
    out.print(table)
    out.print("line\x1b[31m  two spaces\nnext [bold] \u3000wide")
    said = capsys.readouterr().out
    assert not set(said) & {"\x1b", "\x07", "\x9b", "\u202e"}
    for text in ("[red]title[/x]", r"\x1b[2Jhead", r"cell\x9b31m", ":smile:", "[bold] \u3000wide"):
        assert text in said
    assert "line\\x1b[31m  two spaces\nnext" in said


def test_a_front_with_escapes_is_drawn_and_printed(tmp_path, capsys):
    from nas.plot import Plot
    from nas.summary import print_front
    from tests.test_plot import a_front, a_result

    bad = "\x1b[2J<script>alert(1)</script></title>[/b]$\\frac$"
    (tmp_path / "run").mkdir()
    front = a_front(bad, metric=bad)
    front.write(tmp_path / "run")
    Plot((tmp_path / "run",), quiet=True).run()
    Plot((tmp_path / "run", tmp_path / "run"), out=tmp_path / "two", quiet=True).run()
    for folder in ("run", "two"):
        page = (tmp_path / folder / "front.html").read_text()
        assert "<script>alert" not in page
        assert "\x1b" not in page
        # plotly, too, reads HTML: in its JSON each sign of a tag stands as an entity
        assert "\\u003cscript" not in page
        assert "script\\u003e" not in page
        assert "&lt;script&gt;" in page.replace("\\u0026", "&")
    print_front(a_result(front, notes=(bad,)))
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert r"\x1b[2J<script>" in said


def test_paths_begin_at_home(monkeypatch, tmp_path):
    @dataclass(frozen=True)
    class Some:
        out: Path | None = None
        name: str = "~"

        def run(self) -> None: ...

    monkeypatch.setenv("HOME", str(tmp_path))
    assert at_home(Some(Path("~/x y"))) == Some(tmp_path / "x y")
    assert at_home(Some(Path("a/~/b"))) == Some(Path("a/~/b"))
    with pytest.raises(UserError, match=r"user 'nobody-of-that-name' is not known here; give the"):
        at_home(Some(Path("~nobody-of-that-name/x")))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "~nobody-of-that-name").mkdir()
    assert at_home(Some(Path("~nobody-of-that-name"))).out == Path("~nobody-of-that-name")
    assert at_home(Some()) == Some()


def test_a_folder_at_home_is_made_there(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    command = f"{SEARCH} --quiet".replace("--out run", "--out='~/x y'")
    done = shell(f"{command}", tmp_path, HOME=str(home))
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "~").exists()
    assert (home / "x y" / "front.csv").exists()


def test_a_folder_of_nobodys_is_not_made(tmp_path):
    done = shell(SEARCH.replace("--out run", "--out='~nobody-of-that-name/x'"), tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "user 'nobody-of-that-name' is not known here; give the whole path" in done.stderr
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class Flags:
    out: Path
    runs: tuple[Path, ...]
    arch: str
    benchmark_model: str
    count: int = 1

    def run(self) -> None: ...


def test_home_is_resolved_in_all_that_names_a_file_here(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    given = Flags(Path("~/a"), (Path("~/b"), Path("c")), "~/run#0", "~/tool")
    assert at_home(given) == Flags(
        Path("/home/me/a"), (Path("/home/me/b"), Path("c")), "/home/me/run#0", "~/tool"
    )
    plain = Flags(Path("a"), (), "b1", "")
    assert at_home(plain) is plain


URL = "mysql+pymysql://u:s3cret@h/x"


@pytest.mark.parametrize(
    "words",
    [
        ["--storge", URL],
        [f"--storge={URL}"],
        [URL],
        ["--target", "u:s3cret@board"],
        ["u:s3cret@board"],
        ["--dat", "https://h/x?sig=s3cret"],
        ["--workers", URL],
    ],
)
def test_the_parser_shows_no_password(words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(supernet.evaluate.Evaluate, "supernet.evaluate", words)
    assert caught.value.code == 2
    shown = "".join(capsys.readouterr())
    assert "***" in shown
    assert "s3" not in shown
    assert "Traceback" not in shown


def test_what_is_parsed_holds_its_password(monkeypatch, tmp_path):
    parsed: list[supernet.evaluate.Evaluate] = []
    monkeypatch.setattr(supernet.evaluate.Evaluate, "run", lambda self: parsed.append(self))
    main(supernet.evaluate.Evaluate, "supernet.evaluate", ["--weights", "x", "--storage", URL])
    assert parsed[0].storage == URL
