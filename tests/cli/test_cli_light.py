"""What a command imports: those that prepare a run start without what a run needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart"
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "optimum")
COMMANDS = (
    "validate config.json",
    "doctor config.json --offline",
    "explain lora_rank config.json",
    "schema config",
    "completion bash",
    "configure other/config.json --defaults --preset cpu --dataset pictures --yes",
    "import config.json --output imported",
    "train config.json --dry-run",
    "--help",
)


@pytest.mark.parametrize("command", COMMANDS)
def test_it_imports_nothing_heavy(command: str, tmp_path: Path) -> None:
    here = tmp_path / "quickstart"
    shutil.copytree(QUICKSTART, here, ignore=shutil.ignore_patterns("output", "cache"))
    code = (
        "import json, sys\n"
        "from simpletune.cli.main import run\n"
        f"code = run({command.split()!r})\n"
        f"print(json.dumps([code, [name for name in {HEAVY!r} if name in sys.modules]]))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=here, capture_output=True, text=True, check=True)
    assert json.loads(answer.stdout.splitlines()[-1]) == [0, []], answer.stderr
