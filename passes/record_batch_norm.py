"""`record-batch-norm`: note what batch normalization tells about ranges, before it is folded away."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.ir import Graph, Node, Stage, ops
from qcompiler.ir.rewrite import producer_of
from qcompiler.pass_manager import Pass, PassContext, register_pass

_DEVIATIONS = 4.0
"""Normally distributed values leave ±4 standard deviations once in 16,000."""


@register_pass
@dataclass(frozen=True)
class RecordBatchNorm(Pass):
    """Estimate the range of each normalized result from the statistics of the training data.

        y = batch_normalization(conv(x), gamma, beta, mean, variance)

    Channel c of y has mean β[c] and standard deviation |γ[c]| on the training data, so nearly all of it lies in
    β[c] ± 4·|γ[c]|. Folding makes y the result of the conv, under whose name the union over the channels is kept.

    Why: it is what is known of a model's activations when there is no calibration data; `calibrate` uses it then, and
    only then. The graph stays as it is.

    Known limits: a normalization that does not follow a conv, conv_transpose or gemm says nothing here.
    """

    name: ClassVar[str] = "record-batch-norm"
    stages: ClassVar[frozenset[Stage]] = frozenset({Stage.FLOAT})

    def run(self, graph: Graph, context: PassContext) -> bool:
        for node in graph.nodes():
            match node:
                case Node(op=ops.BatchNormalization()):
                    linear = producer_of(node.operands[0], ops.Conv, ops.ConvTranspose, ops.Gemm)
                    gamma, beta = node.operands[1].data, node.operands[2].data
                    if linear is not None and gamma is not None and beta is not None:
                        spread = _DEVIATIONS * np.abs(gamma.astype(np.float64))
                        low, high = (beta - spread).min(), (beta + spread).max()
                        if np.isfinite(low) and np.isfinite(high):
                            context.batch_norm_ranges[linear.name] = (float(low), float(high))
                case _:
                    pass
        return False
