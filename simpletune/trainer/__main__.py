"""`python -m simpletune.trainer CONFIG`: what a launcher (torchrun, accelerate launch) starts, a process a device."""

from simpletune.cli.main import run_command
