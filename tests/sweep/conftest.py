"""tests/trainer/project.py, for sweeps of runs."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "trainer"))
