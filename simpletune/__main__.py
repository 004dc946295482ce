"""`python -m simpletune` is the `simpletune` command."""

from simpletune.cli.main import main

if __name__ == "__main__":
    main()
