"""Builds and publishes datasets: `download` raw files, `build` a dataset folder from them, `push` it to the Hub."""

import argparse
from pathlib import Path

from huggingface_hub.errors import HTTPError


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m dataset_builders", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sources = commands.add_parser("sources", help="list the sources, their licences, and what there is of them")
    sources.add_argument("--raw", type=Path, metavar="DIR", help="show which files lie here")
    sources.set_defaults(command=_sources)

    download = commands.add_parser("download", help="fetch raw files of sources")
    download.add_argument("sources", nargs="+", metavar="SOURCE", help="names as `sources` lists them, or `all`")
    download.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder of raw data")
    download.set_defaults(command=_download)

    cids = commands.add_parser("cids", help="look up the SMILES of PubChem CIDs")
    cids.add_argument("--cids", type=Path, required=True, metavar="FILE", help="a CID a line")
    cids.add_argument("--out", type=Path, required=True, metavar="CSV", help="the table `cid,smiles` to write")
    cids.set_defaults(command=_cids)

    build = commands.add_parser("build", help="build a dataset folder")
    build.add_argument("--raw", type=Path, metavar="DIR", help="the folder of raw data, a folder a source in it")
    build.add_argument(
        "--source", nargs="+", metavar="NAME", help="sources to use; default: all that lie in --raw; or `starter`"
    )
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder to write; it must not exist")
    build.add_argument(
        "--decontaminate",
        choices=("exact", "strict", "none"),
        default="exact",
        help="how train rows are kept apart from test and validation rows of all tasks (default: exact)",
    )
    build.add_argument("--limit", type=int, metavar="N", help="use N records a file only, for a quick look")
    build.add_argument("--num-proc", type=int, metavar="N", help="processes; default: one per core")
    build.add_argument("--overwrite", action="store_true", help="replace DIR if this version built it")
    build.set_defaults(command=_build)

    push = commands.add_parser("push", help="publish a built dataset on the Hub")
    push.add_argument("--path", type=Path, required=True, metavar="DIR", help="a folder that `build` wrote")
    push.add_argument("--repo-id", required=True, metavar="ORG/NAME")
    push.add_argument("--tag", help="a tag for this state of the dataset, e.g. v1.0")
    push.add_argument("--private", action="store_true", help="create the repository as private")
    push.add_argument(
        "--include-unlicensed", action="store_true", help="publish rows of sources that state no licence, too"
    )
    push.add_argument("--token", help="access token; default: the one you are logged in with")
    push.set_defaults(command=_push)

    options = parser.parse_args(arguments)
    try:
        options.command(options)
    except ImportError as error:
        parser.exit(1, f"{error}\nThis command needs more packages: pip install omnimol-hf[build,starter]\n")
    except (ValueError, OSError, HTTPError) as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, "\ninterrupted; the same command goes on from here\n")


# Each command imports what it needs: pushing works without the tools that building needs.
def _sources(options: argparse.Namespace) -> None:
    from dataset_builders.download import sources_table

    print(sources_table(options.raw))


def _download(options: argparse.Namespace) -> None:
    from dataset_builders.download import download

    download(options.sources, options.to)


def _cids(options: argparse.Namespace) -> None:
    from dataset_builders.pug_rest import resolve

    print(", ".join(f"{name}: {count:,}" for name, count in resolve(options.cids, options.out).items()))
    print(f"written to {options.out}")


def _build(options: argparse.Namespace) -> None:
    from dataset_builders.build import Options, build_published, build_starter

    how = Options(options.decontaminate, options.limit, options.num_proc, options.overwrite)
    if options.raw is None and options.source in (None, ["starter"]):
        report = build_starter(options.out, how)
    elif options.raw is None:
        raise ValueError(f"{', '.join(options.source)}: give the folder of raw files with --raw")
    else:
        report = build_published(options.raw, options.out, options.source, how)
    print(_summary(report))
    print(f"\nwritten to {options.out}; read its README.md\nload with: load_dataset({str(options.out)!r})")


def _summary(report: dict) -> str:
    rows = report["rows"] | {
        "all": {
            split: sum(splits[split] for splits in report["rows"].values())
            for split in ("train", "validation", "test")
        }
    }
    width = max(map(len, rows))
    lines = [f"{'task':{width}} {'train':>10} {'validation':>10} {'test':>10}"]
    for task, splits in rows.items():
        lines.append(f"{task:{width}} " + " ".join(f"{splits[split]:10,}" for split in splits))
    lines += ["", f"dropped: {sum(drop['count'] for drop in report['drops']):,} records"]
    largest = sorted(report["drops"], key=lambda drop: -drop["count"])[:12]
    lines += [f"  {drop['count']:8,}  {drop['source']}, {drop['task']}: {drop['reason']}" for drop in largest]
    if len(report["drops"]) > len(largest):
        lines.append("  ... all of them in build_report.json")
    lines += [f"no rows for {task}: {reason}" for task, reason in report["left_out"].items()]
    lines += [
        f"not used: {source}, would feed {', '.join(tasks)}"
        for source, tasks in report.get("missing_sources", {}).items()
    ]
    return "\n".join(lines)


def _push(options: argparse.Namespace) -> None:
    from dataset_builders.push import push

    url = push(
        options.path,
        options.repo_id,
        options.private,
        options.token,
        tag=options.tag,
        include_unlicensed=options.include_unlicensed,
    )
    print(url)
    revision = f", revision={options.tag!r}" if options.tag else ""
    print(f"load with: load_dataset({options.repo_id!r}{revision})")


if __name__ == "__main__":
    main()
