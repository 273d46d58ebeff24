import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "file_sizes.py"

pytestmark = pytest.mark.skipif(not SCRIPT.exists(), reason="tools/ is not beside these tests")


def file_sizes(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


def test_project_keeps_its_budget():
    result = file_sizes()
    print(result.stdout)
    assert (result.returncode, result.stderr) == (0, "")


def test_names_the_file_past_the_budget(tmp_path: Path):
    folder = tmp_path / "passes"
    folder.mkdir()
    (folder / "short.py").write_text("x = 1\n" * 20)
    (folder / "long.py").write_text("x = 1\n" * 21)
    result = file_sizes("--budget", "20", str(tmp_path))
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1] == f"past the budget of 20 lines: {Path('passes/long.py')} (21)"
    assert "    2      41       21  passes/" in result.stdout


def test_budget_itself_is_allowed(tmp_path: Path):
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "full.py").write_text("x = 1\n" * 20)
    assert file_sizes("--budget", "20", str(tmp_path)).returncode == 0
