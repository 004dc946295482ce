"""tests/trainer/project.py, for the commands that need a run."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "trainer"))
