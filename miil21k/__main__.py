"""Run the command line as `python -m miil21k`."""

from miil21k.cli.main import script

if __name__ == "__main__":
    script()
