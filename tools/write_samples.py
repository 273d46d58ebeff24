"""Write the calibration samples of the models of tools/model_table.py as `.npz` files, for tools/bench.py and qcompile.

    python tools/write_samples.py --assets DIR [--models a,b] [--most 100] FOLDER

Each model that is there gets FOLDER/NAME.npz, and its line says where the model is.
"""

import argparse
from pathlib import Path

import model_table
import numpy as np


def main() -> None:
    """Write a file for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--assets", type=Path, default=Path("no-assets"), help="where models/ and data/ are")
    parser.add_argument("--models", help="comma-separated names; default: all there are")
    parser.add_argument("--most", type=int, default=100, help="most samples of a model (default: 100)")
    options = parser.parse_args()
    by_name = {entry.name: entry for entry in model_table.MODELS}
    wanted = options.models.split(",") if options.models else list(by_name)
    if unknown := sorted(set(wanted) - set(by_name)):
        parser.error(f"there is no model {unknown[0]!r}; there are {', '.join(by_name)}")
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in wanted:
        model = by_name[name].model_path(options.assets)
        if not model.exists():
            continue
        samples = {k: a[: options.most] for k, a in by_name[name].samples(options.assets).calibration.items()}
        path = options.folder / f"{name}.npz"
        np.savez(path, **samples)  # type: ignore[arg-type]  # the stub takes the names for options
        print(f"{model} --calibrate {path}")


if __name__ == "__main__":
    main()
