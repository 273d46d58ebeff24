"""Everything that qcompiler raises on purpose.

User faults (a bad model, wrong data, an unknown option) and internal faults are different classes: the
command line prints the former as one message with exit code 2 and the latter with a reproducer and exit code 70.
"""


class QCompilerError(Exception):
    """Base of every error raised on purpose. The message names the thing, the value and the fix."""


class UsageError(QCompilerError):
    """An argument, option or specification that does not make sense."""


class ModelError(QCompilerError):
    """The ONNX model cannot be read, is malformed or contradicts itself."""


class UnsupportedOpError(ModelError):
    """The model uses operators, opsets or dtypes that this compiler or target does not have; all are listed at once."""


class VerifyError(QCompilerError):
    """A graph or program breaks a rule of the IR; the message shows the neighbourhood of the culprit."""


class ParseError(QCompilerError):
    """The text form of a graph does not follow the grammar; the message gives line and column."""


class PassError(QCompilerError):
    """A pass failed; `reproducer` is the path of the saved graph and pass specification, if it could be written."""

    def __init__(self, message: str, *, reproducer: str | None = None) -> None:
        super().__init__(message)
        self.reproducer = reproducer


class PluginError(QCompilerError):
    """A plug-in could not be loaded or breaks the interface it registers for."""


class CalibrationDataError(QCompilerError):
    """Calibration or validation data that does not fit the model: name, shape, dtype, emptiness, NaN or Inf."""


class AccumulatorOverflowError(QCompilerError):
    """An int32 accumulator could overflow with the actual weights and no repair was possible."""


class MultiplierRangeError(QCompilerError):
    """A requantization factor too large for a multiplier and a shift: scales do not fit together."""


class ArtifactError(QCompilerError):
    """A compiled model that is truncated, altered, from another version or otherwise not to be run."""


class RuntimeInputError(QCompilerError):
    """Inputs given to a session that do not fit the compiled model."""


class InternalError(QCompilerError):
    """A fault of qcompiler itself, never of its user."""
