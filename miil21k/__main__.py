"""Run the command line as `python -m miil21k`."""

from miil21k.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
