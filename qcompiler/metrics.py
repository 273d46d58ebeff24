"""How close an integer model is to its float model: SQNR, top-1 and agreement, accumulated batch by batch."""

import math
from dataclasses import dataclass

import numpy as np

from qcompiler.ir import AnyArray


@dataclass
class SignalToNoise:
    """Signal-to-quantization-noise ratio of one output, ``10·log10(sum(float²) / sum((float − integer)²))``."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, reference: AnyArray, measured: AnyArray) -> None:
        """Accumulate one batch; sums are float64."""
        exact = reference.astype(np.float64)
        self.signal += float(np.sum(exact**2))
        self.noise += float(np.sum((exact - measured.astype(np.float64)) ** 2))

    @property
    def decibels(self) -> float | None:
        """The ratio in dB; None where it is not a number (no signal), infinity where nothing differs."""
        if self.noise == 0:
            return math.inf if self.signal else None
        return 10 * math.log10(self.signal / self.noise) if self.signal else None


@dataclass
class Classification:
    """Top-1 accuracy of both models and how often they choose the same class (`np.argmax`: the lowest index wins)."""

    samples: int = 0
    labelled: int = 0
    correct_float: int = 0
    correct_integer: int = 0
    agreed: int = 0

    def add(self, reference: AnyArray, measured: AnyArray, labels: AnyArray | None) -> None:
        """Accumulate scores [samples, classes] of both models and, if known, labels [samples]."""
        expected, got = reference.argmax(axis=1), measured.argmax(axis=1)
        self.samples += len(expected)
        self.agreed += int(np.sum(expected == got))
        if labels is not None:
            self.labelled += len(labels)
            self.correct_float += int(np.sum(expected == labels))
            self.correct_integer += int(np.sum(got == labels))

    @property
    def agreement(self) -> float | None:
        """Share of samples for which both models choose the same class."""
        return self.agreed / self.samples if self.samples else None

    @property
    def top1_float(self) -> float | None:
        return self.correct_float / self.labelled if self.labelled else None

    @property
    def top1_integer(self) -> float | None:
        return self.correct_integer / self.labelled if self.labelled else None
