"""`qcompile run`: run a compiled model on arrays from a file."""

from pathlib import Path

import click
import numpy as np
from rich.console import Console
from rich.table import Table

from qcompiler.cli.compile_command import check_writable
from qcompiler.cli.display import format_shape
from qcompiler.container import write_atomically
from qcompiler.errors import UsageError
from qcompiler.ir import AnyArray

_BATCH = 32


@click.command("run")
@click.argument("artifact", metavar="OUT.qc", type=click.Path(path_type=Path))
@click.option(
    "--input",
    "data",
    metavar="DATA",
    required=True,
    type=click.Path(path_type=Path),
    help="Input arrays named as the model's inputs (.npz), or a lone array (.npy or .npz) for a single input; "
    "a directory of either, or file.py:function yielding dicts.",
)
@click.option("--output", metavar="OUT.npz", type=click.Path(path_type=Path), help="Where to save the outputs.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads (default: the usable physical cores).")
def run_command(artifact: Path, data: Path, output: Path | None, threads: int | None) -> None:  # fmt: skip
    """Run a compiled model on all samples of a file."""
    from qcompiler.calibration.data import open_source
    from qcompiler.model import load
    from qcompiler.summary import exposed_quantization

    if output is not None:
        if output.suffix != ".npz":
            raise UsageError(f"cannot write {output}: outputs are saved as .npz; name it {output.with_suffix('.npz')}")
        check_writable(output, keep=[artifact, data])
    model = load(artifact)
    session = model.session(threads)
    samples = open_source(data, model.graph, exposed_quantization(model.summary))
    results = [session.run(batch.feeds) for batch in samples.batches(_BATCH)]
    outputs = {name: np.concatenate([np.atleast_1d(r[name]) for r in results]) for name in results[0]}
    if output is not None:
        write_atomically(output, _npz(outputs))
    table = Table(title=f"{artifact.name} on {data.name}", title_justify="left")
    for heading in ("output", "dtype", "shape", "min", "max"):
        table.add_column(heading, justify="left" if heading in ("output", "dtype", "shape") else "right")
    for name, array in outputs.items():
        low, high = (f"{f(array):.6g}" if array.size else "-" for f in (np.min, np.max))
        table.add_row(name, str(array.dtype), format_shape(array.shape), low, high)
    console = Console()
    console.print(table)
    if output is not None:
        console.print(f"saved {output}", highlight=False)


def _npz(arrays: dict[str, AnyArray]) -> bytes:
    """The bytes of an .npz file."""
    import io

    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
