"""The kinds of adapter of the models' tests."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "models"))
