"""The shipped models through every stage: the text form keeps each graph between any two passes."""

from pathlib import Path

from qcompiler.calibration.data import open_source
from qcompiler.importer import import_model
from qcompiler.ir import Graph, Stage, first_difference, parse_graph, print_graph
from qcompiler.ir.dot import to_dot
from qcompiler.ir.view import view
from qcompiler.pass_manager import Pass, PassContext, PassManager
from qcompiler.pipeline import pipeline_for


def test_every_graph_of_a_compilation(digits_model: Path, calibration_images):
    graph = import_model(digits_model)
    stages = []

    def examine(_previous: Pass | None, graph: Graph, _following: Pass | None) -> None:
        constants = {value.digest: value.data for value in graph.constants() if value.data is not None}
        assert first_difference(graph, parse_graph(print_graph(graph), constants)) is None
        assert len(view(graph)) == len(graph) + len(graph.inputs) + len(graph.outputs)
        assert to_dot(graph).count("node") > len(graph)
        stages.append(graph.stage)

    context = PassContext(calibration=open_source(calibration_images[:8], graph))
    PassManager(pipeline_for("int8", 3), callbacks=[examine], check_claims=True).run(graph, context)
    assert [stage for stage in Stage if stage in stages] == list(Stage)
    assert stages == sorted(stages, key=list(Stage).index)
