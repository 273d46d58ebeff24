"""Makes `strategies` importable: tests are no packages, so that they run against the installed wheel too."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
