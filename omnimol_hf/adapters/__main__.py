"""The command line: `python -m omnimol_hf.adapters export`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from omnimol_hf.adapters.export import FORMATS, export


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command line and run it."""
    parser = argparse.ArgumentParser(prog="python -m omnimol_hf.adapters", allow_abbrev=False)
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("export", allow_abbrev=False, help=export.__doc__.splitlines()[0])
    command.add_argument("--adapter", required=True, help="folder with adapter_config.json")
    command.add_argument("--to", required=True, choices=FORMATS)
    command.add_argument("--out", required=True, help="folder to make")
    command.add_argument("--base", help="the model that the adapter was trained on, if it is no longer where it was")
    try:
        export(**vars(parser.parse_args(argv)))
    except (ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
