"""`python -m simpletune.trainer CONFIG`: what a launcher (torchrun, accelerate launch) starts, one process a device."""

from __future__ import annotations

import argparse
import sys
import traceback
from pathlib import Path

from simpletune.config.problems import render_all, shown
from simpletune.errors import ConfigError, SimpletuneError
from simpletune.machine.allocator import map_in_pages
from simpletune.progress import terminal_reporter
from simpletune.redact import redact


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m simpletune.trainer", description="Train what CONFIG describes.")
    parser.add_argument("config", type=Path, help="config.json")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--accept-data-change", action="store_true")
    look = parser.add_mutually_exclusive_group()
    look.add_argument("--plain", dest="look", action="store_const", const="plain", default="auto")
    look.add_argument("--quiet", dest="look", action="store_const", const="quiet")
    arguments = parser.parse_args()
    map_in_pages()
    from simpletune.trainer.launch import launch  # it imports torch

    try:
        reporter = terminal_reporter(look=arguments.look)
        launch(
            arguments.config,
            arguments.overrides,
            reporter,
            accept_data_change=arguments.accept_data_change,
            say=lambda line: print(line, file=sys.stderr),  # noqa: T201
        )
    except SimpletuneError as error:
        if isinstance(error, ConfigError) and error.problems:
            print(redact(render_all(error.problems)), file=sys.stderr)  # noqa: T201
        _say(f"error: {error.message}")
        if error.hint:
            _say(f"hint: {error.hint}")
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except Exception:  # nobody foresaw it: the traceback belongs into a report, without tokens
        print(redact(traceback.format_exc()), file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _say(text: str) -> None:
    """A file's name or header may be in it, which must not steer the terminal."""
    print("\n".join(map(shown, redact(text).split("\n"))), file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
