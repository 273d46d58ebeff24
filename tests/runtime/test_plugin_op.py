"""An op, its reference, its kernel and its lowering rule, all from a module outside the package."""

import os
import subprocess
import sys
from pathlib import Path

PLUGIN = '''
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Node, register_op
from qcompiler.ir.ops import IntegerOp
from qcompiler.runtime.kernels.memory import load_s64, load_u8, store_u8
from qcompiler.runtime.kernels.registry import kernel
from qcompiler.runtime.lowering import Lowering, lowers
from qcompiler.runtime.reference import Domain, reference


@register_op
@dataclass(frozen=True)
class Rotate(IntegerOp):
    """Every byte of the operand rotated to the left."""

    name: ClassVar[str] = "plugin.rotate"
    signature: ClassVar[str] = "x"
    bits: int

    def infer(self, operands):
        return (operands[0],)


@reference(Rotate, Domain.STORED)
def rotate_array(op, x):
    return (x << np.uint8(op.bits)) | (x >> np.uint8(8 - op.bits))


@kernel("plugin_rotate", words=("x", "out", "count", "bits"))
def plugin_rotate(operands, share, shares):
    x, out, count, bits = load_s64(operands, 0), load_s64(operands, 1), load_s64(operands, 2), load_s64(operands, 3)
    for i in range(count * share // shares, count * (share + 1) // shares):
        store_u8(out, i, (load_u8(x, i) << bits) | (load_u8(x, i) >> (8 - bits)))


@lowers(Rotate)
def lower_rotate(lowering: Lowering, node: Node, op: Rotate) -> None:
    x, out = lowering.buffer(node.operands[0]), lowering.result(node.result)
    words = {"x": x, "out": out, "count": x.nbytes, "bits": op.bits}
    lowering.emit(node, "plugin_rotate", words, overwrites={"out": "x"}, cost=0.3 * x.nbytes, items=x.nbytes)
'''

RUN = """
import numpy as np
from rotation import Rotate
from qcompiler import reference
from qcompiler.ir import DType, Graph, Stage, TensorType
from qcompiler.runtime.session import Session

graph = Graph("rotated", Stage.INTEGER)
x = graph.add_input("x", TensorType(DType.U8, ("N", 256)))
once = graph.add_node(Rotate(3), [x]).result
graph.add_output(graph.add_node(Rotate(1), [once]).result, "y")
feeds = {"x": np.stack([np.arange(256, dtype=np.uint8)] * 300)}
y = Session(graph, threads=2).run(feeds)["y"]
print(np.array_equal(y, reference.run(graph, feeds)["y"]), y[0, 1], y[0, 255])
"""


def test_an_op_of_a_plugin_runs_like_any_other(tmp_path: Path):
    (tmp_path / "rotation.py").write_text(PLUGIN)
    environment = {**os.environ, "QCOMPILER_CACHE_DIR": str(tmp_path / "cache")}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run([sys.executable, "-c", RUN], env=environment, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.strip() == "True 16 255"
