"""tools/bench_ir.py runs; its figures are for people."""

import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "tools" / "bench_ir.py"


def test_every_step_is_measured():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(SCRIPT), "--nodes", "50"]  # one size: there is no growth to judge
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    steps = [line[:16].strip() for line in done.stdout.splitlines()[1:]]
    assert steps == ["build", "verify", "print", "parse", "compare", "clone", "replace uses", "erase dead code"]
