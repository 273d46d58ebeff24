"""The manager: order of events, verification, promises, reproducers."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from qcompiler import pass_record
from qcompiler.errors import CalibrationDataError, PassError, PluginError, UsageError, VerifyError
from qcompiler.ir import DType, Graph, Node, Stage, TensorType, graphs_equal, ops, parse_graph, verify
from qcompiler.ir.qir_file import load_qir
from qcompiler.pass_manager import (
    Pass,
    PassContext,
    PassManager,
    RewritePass,
    load_passes,
    parse_pipeline,
    pass_class,
    pass_classes,
    register_pass,
)
from qcompiler.reproducer import replay


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is gone after it."""
    load_passes()
    monkeypatch.setattr(pass_record, "_REGISTRY", dict(pass_record._REGISTRY))


@pytest.fixture
def graph() -> Graph:
    return parse_graph("qir 1 graph g float { input %x: f32[2] %a = relu(%x) %b = relu(%a) output y = %b }")


@dataclass(frozen=True)
class Rename(Pass):
    """Give the graph another name; with none, do nothing."""

    name: ClassVar[str] = "rename"
    to: str = ""

    def run(self, graph: Graph, context: PassContext) -> bool:
        del context
        graph.name = self.to or graph.name
        return bool(self.to)


@dataclass(frozen=True)
class RemoveRelu(RewritePass[Node]):
    """Erase each relu of a relu."""

    name: ClassVar[str] = "remove-relu"

    def match(self, node: Node) -> Node | None:
        return node if isinstance(node.op, ops.Relu) else None

    def check(self, graph: Graph, match: Node) -> str | None:
        del graph
        producer = match.operands[0].producer
        return None if producer is not None else f"its input {match.operands[0]} is an input of the graph"

    def rewrite(self, graph: Graph, match: Node) -> None:
        graph.replace_node(match, match.operands)


@dataclass(frozen=True)
class Misbehave(Pass):
    """Go wrong in one of many ways."""

    name: ClassVar[str] = "misbehave"
    how: str

    def run(self, graph: Graph, context: PassContext) -> bool:
        del context
        graph.add_node(ops.Neg(), [graph.value("x")], name="trace")
        match self.how:
            case "crash":
                raise KeyError("no such channel")
            case "user fault":
                raise CalibrationDataError("sample 3 of 'x' holds NaN")
            case "break types":
                graph.value("a").type = TensorType(DType.F32, (3,))
            case "change stage":
                graph.stage = Stage.OBSERVED
            case "deny":
                return False
            case "boast":
                graph.erase(graph.node("trace"))
            case "return nothing":
                return None  # type: ignore[return-value]
        return True


@dataclass(frozen=True)
class Observe(Pass):
    """Declare the graph observed."""

    name: ClassVar[str] = "declare-observed"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT})
    result_stage: ClassVar[Stage | None] = Stage.OBSERVED

    def run(self, graph: Graph, context: PassContext) -> bool:
        del context
        graph.stage = Stage.OBSERVED
        return True


def test_results_tell_name_time_and_change(graph: Graph):
    results = PassManager([Rename("h"), Rename()], check_claims=True).run(graph)
    assert [(r.name, r.changed) for r in results] == [("rename", True), ("rename", False)]
    assert all(r.seconds >= 0 for r in results)
    assert graph.name == "h"


def test_callbacks_see_every_gap(graph: Graph):
    seen: list[tuple[str | None, str, str | None]] = []

    def note(previous: Pass | None, graph: Graph, following: Pass | None) -> None:
        seen.append((previous.name if previous else None, graph.name, following.name if following else None))

    PassManager([Rename("h"), RemoveRelu()], callbacks=[note]).run(graph)
    assert seen == [(None, "g", "rename"), ("rename", "h", "remove-relu"), ("remove-relu", "h", None)]
    seen.clear()
    assert PassManager([], callbacks=[note]).run(graph) == []
    assert seen == [(None, "h", None)]


def test_a_callback_can_bisect(graph: Graph):
    """Keeping the graphs of all gaps is a few lines outside of any pass."""
    kept: list[Graph] = []
    PassManager([Rename("h"), RemoveRelu()], callbacks=[lambda _p, g, _n: kept.append(g.clone())]).run(graph)
    assert [(g.name, len(g)) for g in kept] == [("g", 2), ("h", 2), ("h", 1)]


def test_a_rewrite_pass_reports_and_remarks(graph: Graph):
    context = PassContext()
    (result,) = PassManager([RemoveRelu()], check_claims=True).run(graph, context)
    assert result.changed
    assert [str(remark) for remark in context.remarks] == ["remove-relu: a: its input %x is an input of the graph"]
    assert not PassManager([RemoveRelu()], check_claims=True).run(graph)[0].changed


def test_warnings_are_kept_once():
    context = PassContext()
    context.warn("no calibration data")
    context.warn("no calibration data")
    assert context.warnings == ["no calibration data"]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("crash", "failed: KeyError: 'no such channel'"),
        ("break types", "gave an invalid graph: graph 'g' (float stage): node 'a' (relu): result %a has type f32[3]"),
        ("change stage", "left the graph in the observed stage instead of float"),
        ("deny", "changed the graph and denied it"),
        ("boast", "said that it changed the graph, and did not"),
        ("return nothing", "returned None instead of whether it changed the graph"),
    ],
)
def test_a_failing_pass_leaves_a_reproducer(graph: Graph, tmp_path: Path, how: str, message: str):
    register_pass(Misbehave)
    before = graph.clone()
    manager = PassManager([Misbehave(how)], check_claims=True, reproducer_dir=tmp_path)
    with pytest.raises(PassError) as caught:
        manager.run(graph)
    assert str(caught.value).startswith(f"pass misbehave{{how={quoted(how)}}} {message}")
    (directory,) = tmp_path.iterdir()
    assert caught.value.reproducer == str(directory)
    assert f"python -m qcompiler.reproducer {directory}" in str(caught.value)
    assert graphs_equal(load_qir(directory / "graph.qir"), before)
    assert json.loads((directory / "pass.json").read_text())["pass"] == f"misbehave{{how={quoted(how)}}}"
    assert (directory / "traceback.txt").exists() == (how in ("crash", "break types"))


def quoted(text: str) -> str:
    return f'"{text}"' if " " in text else text


def test_a_reproducer_can_be_replayed(graph: Graph, tmp_path: Path):
    register_pass(Misbehave)
    for how, error in (("crash", KeyError), ("break types", VerifyError)):
        with pytest.raises(PassError) as caught:
            PassManager([Misbehave(how)], reproducer_dir=tmp_path).run(graph.clone())
        with pytest.raises(error):
            replay(Path(str(caught.value.reproducer)))
    with pytest.raises(UsageError, match="does not hold a reproducer"):
        replay(tmp_path)


def test_a_reproducer_is_replayed_from_the_command_line(tmp_path: Path):
    graph = parse_graph("qir 1 graph g integer allow_float { input %x: u8[2] output y = %x }")
    verify(graph)
    (step,) = parse_pipeline("dead-code")
    directory = tmp_path / "reproducer"
    directory.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(step), "run", lambda *_: 1 / 0)
        with pytest.raises(PassError) as caught:
            PassManager([step], reproducer_dir=directory).run(graph)
    assert "ZeroDivisionError" in str(caught.value)
    command = [sys.executable, "-m", "qcompiler.reproducer", str(caught.value.reproducer)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    done = subprocess.run([*command[:-1], str(tmp_path)], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "does not hold a reproducer" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unwritable_directory_is_no_second_failure(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(PassError) as caught:
        PassManager([Misbehave("crash")], reproducer_dir=tmp_path / "missing").run(graph.clone())
    assert Path(str(caught.value.reproducer)).parent == tmp_path
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(PassError, match="No reproducer could be written") as caught:
        PassManager([Misbehave("crash")], reproducer_dir=tmp_path / "missing").run(graph.clone())
    assert caught.value.reproducer is None


def test_the_current_directory_is_the_default(graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PassError) as caught:
        PassManager([Misbehave("crash")]).run(graph)
    assert Path(str(caught.value.reproducer)).parent == tmp_path


def test_user_faults_pass_through(graph: Graph, tmp_path: Path):
    with pytest.raises(CalibrationDataError, match="sample 3 of 'x' holds NaN"):
        PassManager([Misbehave("user fault")], reproducer_dir=tmp_path).run(graph)
    assert not list(tmp_path.iterdir())


def test_an_interruption_passes_through(graph: Graph, monkeypatch: pytest.MonkeyPatch):
    def interrupt(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(Rename, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        PassManager([Rename("h")]).run(graph)


def test_an_invalid_graph_is_refused_before_any_pass(graph: Graph):
    graph.value("a").type = TensorType(DType.F32, (3,))
    with pytest.raises(VerifyError, match="node 'a'"):
        PassManager([Rename("h")]).run(graph)
    assert graph.name == "g"


def test_stages_are_checked_before_any_pass_runs(graph: Graph):
    with pytest.raises(UsageError, match=r"pass 3 of the pipeline, declare-observed, runs in the float stage, but"):
        PassManager([Rename("h"), Observe(), Observe()]).run(graph)
    assert graph.name == "g"
    PassManager([Rename("h"), Observe(), Rename("i")]).run(graph)
    assert (graph.name, graph.stage) == ("i", Stage.OBSERVED)


# ---- the registry ------------------------------------------------------------------------------------------


def test_a_name_is_registered_once():
    assert register_pass(Rename) is Rename
    assert pass_class("rename") is Rename
    with pytest.raises(PluginError, match="pass name 'rename' is taken by Rename"):
        register_pass(Rename)


def test_what_is_no_pass_is_not_registered():
    class NotADataclass(Rename):
        name = "a"

    @dataclass(frozen=True)
    class NoRun(Pass):
        name: ClassVar[str] = "b"

    @dataclass(frozen=True)
    class NoName(Rename):
        name: ClassVar[str] = ""

    for cls, reason in ((NotADataclass, "must be decorated"), (NoRun, r"defines no run\(\)"), (NoName, "has no name")):
        with pytest.raises(PluginError, match=f"pass class {cls.__name__} {reason}"):
            register_pass(cls)


def test_every_pass_of_the_package_is_found_and_documented():
    names = [cls.name for cls in pass_classes()]
    assert names == sorted(names)
    assert {"dead-code", "quantize", "lower-to-integer"} <= set(names)
    for cls in pass_classes():
        assert cls.__doc__
        assert "Known limits" in cls.__doc__, cls.name


class FakeEntryPoint:
    def __init__(self, error: Exception | None) -> None:
        self.name, self.value, self.dist, self.error = "extra", "extra_passes", None, error

    def load(self) -> None:
        if self.error is not None:
            raise self.error
        register_pass(Rename)


def test_entry_points_bring_passes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [FakeEntryPoint(None)])
    load_passes.cache_clear()
    assert pass_class("rename") is Rename


@pytest.mark.parametrize("error", [ImportError("no module 'extra'"), PluginError("bad op"), ValueError("oh")])
def test_a_broken_plug_in_is_named(monkeypatch: pytest.MonkeyPatch, error: Exception):
    monkeypatch.setattr("importlib.metadata.entry_points", lambda **_: [FakeEntryPoint(error)])
    load_passes.cache_clear()
    with pytest.raises(PluginError, match=rf"plug-in 'extra' \(extra_passes\) of .* cannot be loaded: .*{error}"):
        pass_class("rename")
    load_passes.cache_clear()
