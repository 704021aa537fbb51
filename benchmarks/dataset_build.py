"""Time, memory and disk of a dataset build over its size: `python -m benchmarks.dataset_build --out DIR`.

Raw folders are made up (`synthetic_sources.py`), built by the command line in a process of its own, and what the build
kept and removed is compared with what was planted, row count by row count. Memory is the resident memory (RSS) of the
process and all its descendants, summed and sampled every quarter of a second; pages that they share count for each.
"""

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import time
from collections import Counter
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import psutil

from benchmarks.synthetic_sources import Plan, write_sources
from dataset_builders.folder import read_report
from dataset_builders.shards import LEAK, REPEAT

RESULTS = Path(__file__).parent / "results" / "dataset_build.json"
INTERVAL = 0.25


def main(arguments: list[str] | None = None) -> None:
    """The command line. A result replaces the earlier one of the same size and number of processes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dataset_build", description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[450_000, 900_000, 1_800_000], metavar="N")
    parser.add_argument(
        "--workers",
        type=int,
        nargs="+",
        default=[2, 1],
        metavar="N",
        help="all sizes with the first; the smallest with each",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where raw and built data go meanwhile")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="JSON", help="a plot is drawn beside it")
    options = parser.parse_args(arguments)
    runs = {(run["rows_asked"], run["workers"]): run for run in _earlier(options.results)}
    for rows in sorted(options.rows):
        folder = options.out / str(rows)
        shutil.rmtree(folder, ignore_errors=True)
        start = time.perf_counter()
        plan = write_sources(folder / "raw", rows)
        print(f"{rows:,} rows: raw files written in {time.perf_counter() - start:.1f} s", flush=True)
        for workers in options.workers if rows == min(options.rows) else options.workers[:1]:
            runs[rows, workers] = measure(folder, plan, workers) | {"rows_asked": rows, "workers": workers}
            _save(options.results, [runs[key] for key in sorted(runs)])
        shutil.rmtree(folder)
    _print_table([runs[key] for key in sorted(runs)])
    plot([runs[key] for key in sorted(runs)], options.results.with_suffix(".png"))


def measure(folder: Path, plan: Plan, workers: int) -> dict:
    """Builds `folder/raw` and returns what it took; raises a `ValueError` if the rows are not those of `plan`."""
    built = folder / f"built-{workers}"
    command = [sys.executable, "-m", "dataset_builders", "build", "--raw", str(folder / "raw"), "--out", str(built)]
    log = folder / f"build-{workers}.log"
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen([*command, "--num-proc", str(workers)], stdout=file, stderr=subprocess.STDOUT)
        peak = _peak_memory(process)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"the build failed:\n{log.read_text()[-2000:]}")
    report = read_report(built)
    check(report, plan)
    rows = sum(sum(splits.values()) for splits in report["rows"].values())
    result = {
        "rows": rows,
        "records": sum(entry["records"] for entry in report["inputs"]),
        "seconds": round(seconds, 1),
        "rows_per_second": round(rows / seconds, 1),
        "peak_rss_bytes": peak,
        "raw_bytes": _size(folder / "raw"),
        "built_bytes": _size(built),
        "repeats_removed": sum(plan.repeats.values()),
        "leaks_removed": sum(plan.leaks.values()),
    }
    shutil.rmtree(built)
    return result


def check(report: dict, plan: Plan) -> None:
    """Compares a build's report with what was planted: rows kept, repeats and leaks removed, of every task."""
    removed: dict[str, Counter] = {REPEAT: Counter(), LEAK: Counter()}
    for drop in report["drops"]:
        removed.get(drop["reason"], Counter())[drop["task"]] += drop["count"]
    kept = {task: sum(splits.values()) for task, splits in report["rows"].items()}
    after = [n for row in report["overlaps"]["after"].values() for n in row.values()]
    for name, found, expected in (
        ("rows", kept, plan.kept),
        ("repeats", removed[REPEAT], plan.repeats),
        ("leaks", removed[LEAK], plan.leaks),
        ("overlaps after the build", {"all": sum(after)}, {"all": 0}),
    ):
        wrong = {
            task: (found.get(task, 0), expected.get(task, 0))
            for task in {*found, *expected}
            if found.get(task, 0) != expected.get(task, 0)
        }
        if wrong:
            raise ValueError(f"{name} that the build and the plan do not agree on, {{task: (build, plan)}}: {wrong}")


def _peak_memory(process: subprocess.Popen) -> int:
    """Waits for the process and returns the highest sum of RSS over it and its descendants, in bytes."""
    peak, root = 0, psutil.Process(process.pid)
    while process.poll() is None:
        total = 0
        try:
            for one in (root, *root.children(recursive=True)):
                total += one.memory_info().rss
        except psutil.NoSuchProcess:  # it ended in between: the next sample comes soon
            pass
        peak = max(peak, total)
        time.sleep(INTERVAL)
    return peak


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _earlier(results: Path) -> list[dict]:
    return json.loads(results.read_text())["runs"] if results.exists() else []


def _save(results: Path, runs: list[dict]) -> None:
    machine = {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}
    tools = {name: version(name) for name in ("rdkit", "selfies", "pyarrow")}
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps({"machine": machine, "tools": tools, "runs": runs}, indent=2) + "\n")


def _print_table(runs: list[dict]) -> None:
    print("\n     rows  processes    seconds   rows/s   s per 1000 rows   peak RSS   raw       built")
    for run in runs:
        each = 1000 * run["seconds"] / run["rows"]
        print(
            f"{run['rows']:9,}  {run['workers']:9}  {run['seconds']:9,.0f}  {run['rows_per_second']:7,.0f}"
            f"  {each:16.2f}  {run['peak_rss_bytes'] / 2**30:5.2f} GiB"
            f"  {run['raw_bytes'] / 2**20:5.0f} MiB  {run['built_bytes'] / 2**20:5.0f} MiB"
        )
    same = [run for run in runs if run["workers"] == runs[-1]["workers"]]
    for small, large in pairwise(same):
        growth = math.log(large["seconds"] / small["seconds"]) / math.log(large["rows"] / small["rows"])
        print(f"from {small['rows']:,} to {large['rows']:,} rows, time grows as rows^{growth:.2f}")


def plot(runs: list[dict], path: Path) -> None:
    """Draws time and memory over rows, a line for each number of processes."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    columns = (("seconds", 60, "minutes"), ("peak_rss_bytes", 2**30, "peak memory, GiB"))
    for axis, (column, unit, label) in zip(axes, columns, strict=True):
        for workers in sorted({run["workers"] for run in runs}):
            chosen = [run for run in runs if run["workers"] == workers]
            name = f"{workers} process{'es' * (workers > 1)}"
            axis.plot([run["rows"] / 1e6 for run in chosen], [run[column] / unit for run in chosen], "o-", label=name)
        axis.set(xlabel="rows, millions", ylabel=label, xlim=(0, None), ylim=(0, None))  # once all lines are there
        axis.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


if __name__ == "__main__":
    main()
