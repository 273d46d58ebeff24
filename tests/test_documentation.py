"""The examples of the documentation, executed as they stand.

In README.md, CONTRIBUTING.md and docs/*.md, the lines of a fenced `sh` block that start with `qcompile` or
`python tools/` are run, then the `python` blocks of the page as one program; the output of its `pycon` blocks, one
session, is compared. Anything that is not to be run stands in a block of another kind. `.ci/run` runs the README's
set-up commands.
"""

import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [page for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md") if page.is_file()]
PAGES += sorted((ROOT / "docs").glob("*.md"))
QCOMPILE = [sys.executable, "-m", "qcompiler"]


def fenced(page: Path, language: str) -> str:
    """The page with every line blank that is not in a fenced block of that language, so line numbers stay."""
    lines, inside = [], None
    for line in page.read_text("utf-8").splitlines():
        if line.startswith("```"):
            inside = None if inside is not None else line[3:]
            lines.append("")
        else:
            lines.append(line if inside == language else "")
    return "\n".join(lines)


def commands(page: Path) -> Iterator[list[str]]:
    for line in fenced(page, "sh").replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["qcompile"]:
            yield [*QCOMPILE, *words[1:]]
        elif words[:1] == ["python"] and words[1].startswith("tools/"):
            yield [sys.executable, *words[1:]]


def run(command: list[str], folder: Path) -> None:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    result = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, f"{shlex.join(command)}\n{result.stdout}{result.stderr}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_examples_run(page: Path, tmp_path: Path):
    for folder in ("tests", "tools", "docs"):
        (tmp_path / folder).symlink_to(ROOT / folder)
    for command in commands(page):
        run(command, tmp_path)
    program = tmp_path / page.with_suffix(".py").name
    program.write_text(fenced(page, "python"), "utf-8")
    run([sys.executable, str(program)], tmp_path)


def test_examples_are_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("text\n```python\nx = 1\n```\n```text\ny\n```\n```sh\nls\nqcompile a \\\n  -o b # c\n```\n")
    assert fenced(page, "python").split("\n")[2] == "x = 1"
    assert fenced(page, "python").split() == ["x", "=", "1"]
    assert list(commands(page)) == [[*QCOMPILE, "a", "-o", "b"]]


@pytest.mark.skipif(ROOT / "README.md" not in PAGES, reason="the tests of the wheel have no README")
def test_the_readme_explains_every_key_of_the_summary(assets: Path):
    import qcompiler

    table = (ROOT / "README.md").read_text("utf-8").partition("| key | meaning |")[2].partition("\n\n")[0]
    explained = [key for row in table.splitlines() if row for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(explained) == sorted(qcompiler.compile(assets / "digits_cnn.onnx").summary)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sessions_show_what_they_print(page: Path):
    session = doctest.DocTestParser().get_doctest(fenced(page, "pycon"), {}, page.name, str(page), 0)
    assert doctest.DocTestRunner().run(session).failed == 0
