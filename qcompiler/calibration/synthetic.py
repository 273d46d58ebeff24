"""Made-up samples, for a model that is compiled without calibration data."""

import math

import numpy as np
import numpy.typing as npt

from qcompiler.ir import AnyArray, DType, Graph
from qcompiler.ir.types import bind_shape, split_dim

SAMPLES = 16
_SEED = 20240229
_FREE_DIM = 16  # size of a symbolic dimension that is not the batch


def synthetic_feeds(graph: Graph, sample: int) -> dict[str, AnyArray]:
    """The `sample`-th made-up sample: standard normal values, the same on every machine.

    Half of the samples are white noise, half are smooth along the last two axes as images are: filters that
    look for edges and such that look for areas both find something.
    """
    feeds: dict[str, AnyArray] = {}
    for position, value in enumerate(graph.inputs):
        random = np.random.default_rng([_SEED, sample, position])
        symbols = {s: _FREE_DIM for d in value.type.shape if (s := split_dim(d)[1]) is not None}
        if value.type.rank and (batch := split_dim(value.type.shape[0])[1]) is not None:
            symbols[batch] = 1
        shape = bind_shape(value.type.shape, symbols)
        if value.type.dtype is DType.F32:
            noise = random.standard_normal(shape)
            feeds[value.name] = (_smooth(noise) if sample % 2 and len(shape) >= 3 else noise).astype(np.float32)
        else:
            feeds[value.name] = np.zeros(shape, value.type.dtype.numpy)
    return feeds


def _smooth(noise: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Running sums along the last two axes, scaled back to unit variance: noise of the 1/f kind."""
    walk: npt.NDArray[np.float64] = np.cumsum(np.cumsum(noise, axis=-1), axis=-2)
    walk = walk - walk.mean()
    deviation = math.sqrt(float(np.mean(np.square(walk))))
    return walk / deviation if deviation > 0 else walk
