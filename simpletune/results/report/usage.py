"""How a run's adapter is used from where it lies."""

from __future__ import annotations

from pathlib import Path

from simpletune.results.diffusers_code import AdapterSource, BaseFiles, program, usual_example
from simpletune.results.report.run import Run


def diffusers_code(run: Run, adapter: Path) -> str:
    """A program for this machine: the base and the adapter are taken from where the run had them."""
    named = run.value("pretrained_model_name_or_path")
    built_in = run.value("model_flavour") == "tiny" and not named
    base = BaseFiles(None if built_in else str(named or ""), run.value("revision"))
    return program(run, base, AdapterSource(str(adapter.parent)), usual_example(run, "your prompt"))
