import subprocess
import sys
import threading

import numpy as np
import pytest

from qcompiler import reference
from qcompiler.errors import RuntimeInputError, UsageError
from qcompiler.ir import DType, Graph, Stage, TensorType
from qcompiler.ir.ops import IntAdd, IntDequantize, IntLut, IntQuantize
from qcompiler.runtime.session import Session


@pytest.fixture
def graph() -> Graph:
    """Two inputs with a common symbol; y = table(quantize(a)) + quantize(b)."""
    graph = Graph("pair", Stage.INTEGER)
    a = graph.add_input("a", TensorType(DType.F32, ("N", 2, "W")))
    b = graph.add_input("b", TensorType(DType.F32, ("N", 2, "W")))
    first, second = (graph.add_node(IntQuantize(DType.U8, (0.1,), (7,)), [x]).result for x in (a, b))
    table = graph.add_constant(np.arange(256, dtype=np.uint8)[::-1])
    looked_up = graph.add_node(IntLut(), [first, table]).result
    total = graph.add_node(IntAdd(DType.U8, 7, 7, 2**19, 2**19, 20, 7, 0, 255), [looked_up, second]).result
    graph.add_output(graph.add_node(IntDequantize((0.2,), (7,)), [total]).result, "y")
    return graph


def feeds_of(batch: int, width: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(batch)
    return {name: rng.normal(0, 5, (batch, 2, width)).astype(np.float32) for name in "ab"}


def test_any_shape_that_fits_may_follow_any_other(graph):
    session = Session(graph, threads=2)
    for batch, width in [(1, 5), (3, 5), (1, 9), (0, 4), (3, 5)]:
        feeds = feeds_of(batch, width)
        assert np.array_equal(session.run(feeds)["y"], reference.run(graph, feeds)["y"])


def test_plans_are_kept_by_shape(graph):
    session = Session(graph, threads=1)
    assert session.plan_for({"N": 2, "W": 3}) is session.plan_for({"W": 3, "N": 2})
    assert session.plan_for({"N": 2, "W": 3}) is not session.plan_for({"N": 3, "W": 2})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": None}, "input 'a' is missing"),
        ({"c": np.zeros(1, np.float32)}, "no input 'c'.*'a', 'b'"),
        ({"a": np.zeros((1, 2, 4))}, "input 'a' is float64, expected float32"),
        ({"a": np.zeros((1, 3, 4), np.float32)}, r"'a' has shape .*3.*expected \[N,2,W\]"),
        ({"a": np.zeros((1, 2), np.float32)}, r"'a' has shape .*expected \[N,2,W\]"),
        ({"b": np.zeros((2, 2, 4), np.float32)}, "'b' has shape .*: N is 1 elsewhere"),
        ({"b": np.zeros((1, 2, 5), np.float32)}, "'b' has shape .*: W is 4 elsewhere"),
        ({"b": [[[0.0] * 4] * 2]}, "'b' is a list, not a NumPy array"),
        ({"b": np.zeros((1, 2, 4), ">f4")}, "input 'b' is >f4, expected float32"),
    ],
)
@pytest.mark.parametrize("has_run", [False, True])
def test_wrong_inputs_are_named(graph, change, message, has_run):
    session, good = Session(graph, threads=1), feeds_of(1, 4)
    if has_run:  # then a call with these shapes has a plan, and is checked in less time
        session.run(good)
    feeds = {name: array for name, array in (good | change).items() if array is not None}
    with pytest.raises(RuntimeInputError, match=message):
        session.run(feeds)


def test_threads_must_be_positive(graph):
    with pytest.raises(UsageError, match="at least 1"):
        Session(graph, threads=0).run(feeds_of(1, 4))


def test_memory_is_planned_without_compiling(graph):
    placement = Session(graph, threads=1).plan_for_one_sample()
    assert placement.lower_bound_bytes <= placement.peak_bytes
    assert placement.peak_bytes == 3 * 64  # the table works in place; two operands and a sum, two bytes each


def test_concurrent_calls_do_not_disturb_each_other(graph):
    session = Session(graph, threads=2)
    cases = [feeds_of(batch, 40) for batch in (1, 2, 3, 4)]
    expected = [reference.run(graph, feeds)["y"] for feeds in cases]
    right: list[bool] = []

    def work(index: int) -> None:
        right.extend(np.array_equal(session.run(cases[index])["y"], expected[index]) for _ in range(50))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert right == [True] * 200


REPORT = """
import numpy as np
from qcompiler.ir import DType, Graph, Stage, TensorType
from qcompiler.ir.ops import IntLut
from qcompiler.runtime.session import Session

graph = Graph("one", Stage.INTEGER)
x = graph.add_input("x", TensorType(DType.U8, (3,)))
graph.add_output(graph.add_node(IntLut(), [x, graph.add_constant(np.arange(256, dtype=np.uint8)[::-1])]).result, "y")
steps = []
session = Session(graph, threads=1, progress=lambda what, done, total: steps.append((what, 0 < done <= total)))
print(session.run({"x": np.array([0, 1, 255], np.uint8)})["y"].tolist(), set(steps))
"""


def test_progress_is_told_only_while_kernels_are_compiled(tmp_path):
    def run() -> str:
        environment = {"QCOMPILER_CACHE_DIR": str(tmp_path), "PYTHONPATH": ":".join(filter(None, sys.path))}
        done = subprocess.run(
            [sys.executable, "-c", REPORT], env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert run() == "[255, 254, 0] {('preparing kernels (slow on the first run only)', True)}"
    assert run() == "[255, 254, 0] set()"
