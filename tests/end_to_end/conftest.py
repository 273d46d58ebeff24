"""Makes `random_models` and `differential` importable: tests are no packages."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
