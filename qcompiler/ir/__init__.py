"""The intermediate representation: types, ops, graphs, stages, text form.

Light to import: NumPy only.
"""

from qcompiler.ir import ops
from qcompiler.ir.compare import first_difference, graphs_equal
from qcompiler.ir.graph import Graph, Node, Value
from qcompiler.ir.op import Op, Quantization, Stage, op_class, op_classes, register_op
from qcompiler.ir.parser import parse_graph
from qcompiler.ir.printer import print_graph
from qcompiler.ir.types import AnyArray, Dim, DType, QuantParams, Shape, TensorType
from qcompiler.ir.verifier import verify

__all__ = [
    "AnyArray",
    "DType",
    "Dim",
    "Graph",
    "Node",
    "Op",
    "QuantParams",
    "Quantization",
    "Shape",
    "Stage",
    "TensorType",
    "Value",
    "first_difference",
    "graphs_equal",
    "op_class",
    "op_classes",
    "ops",
    "parse_graph",
    "print_graph",
    "register_op",
    "verify",
]
