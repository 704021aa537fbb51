"""`python -m dataset_builders build --source starter --out DIR` and `... push --path DIR --repo-id ORG/NAME`."""

import argparse
from pathlib import Path

from huggingface_hub.errors import HTTPError


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dataset_builders", description=__doc__)
    commands = parser.add_subparsers(required=True)
    build = commands.add_parser("build", help="build a dataset folder")
    build.add_argument("--source", choices=["starter"], default="starter", help="where the data comes from")
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write; it must not exist")
    build.add_argument("--limit", type=int, metavar="N", help="use N molecules only, for a quick look")
    build.add_argument("--workers", type=int, metavar="N", help="processes; default: one per core")
    build.add_argument("--overwrite", action="store_true", help="replace DIR if this version built it")
    build.set_defaults(command=_build)
    push = commands.add_parser("push", help="publish a built dataset on the Hub")
    push.add_argument("--path", type=Path, required=True, metavar="DIR", help="a folder that `build` wrote")
    push.add_argument("--repo-id", required=True, metavar="ORG/NAME")
    push.add_argument("--private", action="store_true", help="create the repository as private")
    push.add_argument("--token", help="access token; default: the one you are logged in with")
    push.set_defaults(command=_push)
    options = parser.parse_args(arguments)
    try:
        options.command(options)
    except ImportError as error:
        parser.exit(1, f"{error}\nBuilding the starter data needs: pip install omnimol-hf[starter]\n")
    except (ValueError, OSError, HTTPError) as error:
        parser.exit(1, f"error: {error}\n")


# Each command imports what it needs: pushing works without the tools that building needs.
def _build(options: argparse.Namespace) -> None:
    from dataset_builders.build import build_starter

    counts = build_starter(options.out, options.limit, options.workers, options.overwrite)
    width = max(map(len, counts))
    print(f"{'task':{width}}  {'train':>8}  {'test':>8}")
    for task, splits in counts.items():
        print(f"{task:{width}}  {splits['train']:8,}  {splits['test']:8,}")
    totals = [sum(splits[split] for splits in counts.values()) for split in ("train", "test")]
    print(f"{'all':{width}}  {totals[0]:8,}  {totals[1]:8,}")
    print(f"\nwritten to {options.out}\nload with: load_dataset({str(options.out)!r})")


def _push(options: argparse.Namespace) -> None:
    from dataset_builders.push import push

    print(push(options.path, options.repo_id, options.private, options.token))
    print(f"load with: load_dataset({options.repo_id!r})")


if __name__ == "__main__":
    main()
