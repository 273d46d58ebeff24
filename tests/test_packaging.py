import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import qcompiler

PACKAGE = Path(qcompiler.__file__).parent
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
PACKAGES = tomllib.loads(PROJECT.read_text())["tool"]["setuptools"]["packages"]

only_in_checkout = pytest.mark.skipif(
    PACKAGE.parent != PROJECT.parent, reason="the installed package has no checkout around it"
)


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=cwd)


def test_package_list_matches_the_tree():
    # The links are named because Path.rglob does not follow them.
    folders = [PACKAGE, PACKAGE / "passes", PACKAGE / "runtime"]
    sources = {source.parent for folder in folders for source in folder.rglob("*.py")}
    found = sorted(".".join(folder.relative_to(PACKAGE.parent).parts) for folder in sources)
    assert found == PACKAGES


def test_every_package_has_an_init():
    folders = {name: PACKAGE.parent.joinpath(*name.split(".")) for name in PACKAGES}
    missing = [name for name, folder in folders.items() if not (folder / "__init__.py").is_file()]
    assert missing == []


def test_type_information_ships():
    assert (PACKAGE / "py.typed").is_file()


@only_in_checkout
@pytest.mark.parametrize("name", ["passes", "runtime"])
def test_links_are_relative(name):
    assert (PACKAGE / name).readlink() == Path("..") / name


@only_in_checkout
@pytest.mark.parametrize("name", ["passes", "runtime"])
def test_short_name_is_refused(name):
    result = python("-c", f"import {name}", cwd=PACKAGE.parent)
    assert result.returncode == 1
    assert f"ImportError: import this package as qcompiler.{name}, not as {name}" in result.stderr


def test_import_is_light():
    heavy = "{'numba', 'llvmlite', 'onnx', 'networkx', 'rich', 'click'}"
    check = f"import sys, qcompiler, qcompiler.ir; print(sorted({heavy} & set(sys.modules)))"
    result = python("-c", check, cwd=PACKAGE.parent)
    assert (result.stdout, result.stderr) == ("[]\n", "")
