"""tools/viz.py shows every stage, from every kind of file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from qcompiler.importer import import_model
from qcompiler.ir import Graph, Stage, graphs_equal, parse_graph, verify
from qcompiler.ir.qir_file import load_qir, save_qir

SCRIPT = Path(__file__).parents[2] / "tools" / "viz.py"
SMALL = """\
qir 1
graph small float {
  input %x: f32[N,4]
  const %w: f32[2,4] = [0.5, -1.0, 2.0, 0.25, 1.0, 1.0, -0.5, 0.125]
  %gemm = gemm(%x, %w)
  %y = relu(%gemm)
  output y = %y
}
"""


def viz(*arguments: str | Path, returncode: int = 0) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == returncode, done.stderr
    return done.stdout if returncode == 0 else done.stderr


@pytest.fixture
def small(tmp_path: Path) -> Path:
    save_qir(parse_graph(SMALL), tmp_path / "small.qir")
    return tmp_path / "small.qir"


def test_a_model_prints_as_its_float_graph(assets: Path, tmp_path: Path):
    model = assets / "digits_cnn.onnx"
    viz(model, "--full", "-o", tmp_path / "float.txt")
    graph = import_model(model)
    save_qir(graph, tmp_path / "saved.qir")
    assert (tmp_path / "float.txt").read_text() == (tmp_path / "saved.qir").read_text()


@pytest.mark.parametrize("stage", list(Stage))
def test_each_stage_is_reached(small: Path, stage: Stage):
    graph = stage_of(small, stage)
    assert graph.stage is stage
    verify(graph)


def stage_of(small: Path, stage: Stage) -> Graph:
    return parse_graph(viz(small, "--stage", stage, "--full", "-O1"))


def test_a_later_stage_goes_on_where_the_file_is(small: Path, tmp_path: Path):
    save_qir(stage_of(small, Stage.QUANTIZED), tmp_path / "quantized.qir")
    viz(tmp_path / "quantized.qir", "--stage", "integer", "--full", "-O1", "-o", tmp_path / "integer.qir")
    assert graphs_equal(load_qir(tmp_path / "integer.qir"), stage_of(small, Stage.INTEGER))
    message = viz(tmp_path / "quantized.qir", "--stage", "float", returncode=2)
    assert message == "error: the graph is in the quantized stage already; compilation does not lead back to float\n"


def test_the_program(small: Path):
    text = viz(small, "--stage", "program")
    assert text.startswith("program (x=%0) -> (y=")
    assert "gemm" in text
    assert viz(small, "--stage", "program", "--format", "dot").startswith('digraph "small" {\n')


def test_dot(small: Path):
    assert 'input0 -> node0 [label="f32[N,4]"];' in viz(small, "--format", "dot")


def test_errors_are_one_line(tmp_path: Path):
    message = viz(tmp_path / "none.qir", returncode=2)
    assert message.startswith("error: cannot read")
    assert message.count("\n") == 1
