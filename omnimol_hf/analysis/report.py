"""Scores as a table for the terminal, as a JSON file and as a CSV file."""

import csv
import json
import os
from collections.abc import Mapping
from pathlib import Path

from omnimol_hf.metrics import LOWER_IS_BETTER
from omnimol_hf.tasks import ALL_TASKS, Task

Results = Mapping[str, Mapping[str, Mapping[str, Mapping]]]  # task -> protocol -> metric -> fields of score_task

# Shown for each kind of answer, the main one first; all others are in the JSON file.
HEADLINES = {
    "molecule": ("exact_match", "morgan"),
    "number": ("mae", "r2"),
    "text": ("rouge-l", "bleu-2"),
    "procedure": ("rouge-l", "accuracy@50"),
}
_FIELDS = ("value", "baseline", "low", "high", "n")
_COLUMNS = ("task", "metric", "score", "95 % interval", "baseline", "better?", "readable", "rows")
_NOTE = (
    "strict protocol: every row counts, an unreadable answer is a miss; mae: lower is better\n"
    "baseline: the training median for numbers, the most frequent training answer for all others; "
    "~ means no clear difference"
)


def main_metric(task_name: str) -> str:
    """The one metric that stands for a task."""
    return HEADLINES[ALL_TASKS[task_name].answer][0]


def short_unit(task: Task) -> str:
    """A number's unit as it stands behind the number; empty where there is none or it takes words to say."""
    return task.unit if task.unit and " " not in task.unit else ""


def is_better(metric: str, fields: Mapping) -> bool | None:
    """Whether a score beats its baseline; None if the 95 % interval holds the baseline, or there is none."""
    low, high, baseline = fields["low"], fields["high"], fields["baseline"]
    if None in (low, high, baseline) or low <= baseline <= high:
        return None
    return (high < baseline) if metric in LOWER_IS_BETTER else (low > baseline)


def figure_text(value: float | None) -> str:
    """A score as tables print it, without exponents in the range that scores have; `-` for none."""
    if value is None:
        return "-"
    if abs(value) >= 1e6:
        return f"{value:.1e}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.4f}"


def _verdict(metric: str, fields: Mapping) -> str:
    if fields["baseline"] is None or fields["value"] is None:
        return "-"
    return {True: "yes", False: "no", None: "~"}[is_better(metric, fields)]


def readable_share(metrics: Mapping[str, Mapping]) -> float:
    """The share of a task's answers that could be read (`strict`)."""
    for name in ("validity", "valid_answer_rate"):
        if name in metrics:
            return metrics[name]["value"]
    fields = metrics["rouge-l"]
    return 1 - sum(fields["misses"].values()) / fields["n"]


def _table_rows(results: Results) -> list[tuple[str, ...]]:
    rows = []
    for name in sorted(results, key=list(ALL_TASKS).index):
        task, metrics = ALL_TASKS[name], results[name]["strict"]
        for place, metric in enumerate(HEADLINES[task.answer]):
            fields = metrics[metric]
            unit = f" ({short_unit(task)})" if metric == "mae" and short_unit(task) else ""
            interval = (
                "-" if fields["low"] is None else f"{figure_text(fields['low'])} to {figure_text(fields['high'])}"
            )
            rows.append(
                (
                    name if place == 0 else "",
                    metric + unit,
                    figure_text(fields["value"]),
                    interval,
                    figure_text(fields["baseline"]),
                    _verdict(metric, fields),
                    f"{100 * readable_share(metrics):.0f} %" if place == 0 else "",
                    str(fields["n"]) if place == 0 else "",
                )
            )
    return rows


def results_table(results: Results) -> str:
    """The headline scores of every task (`strict`) beside their baselines, as plain text.

    Args:
        results: Task -> what `score_task` returned, as `results.json` holds it.
    """
    rows = [_COLUMNS, *_table_rows(results)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    numeric = {"score", "95 % interval", "baseline", "readable", "rows"}

    def line(cells: tuple[str, ...]) -> str:
        padded = (
            cell.rjust(width) if column in numeric else cell.ljust(width)
            for cell, width, column in zip(cells, widths, _COLUMNS, strict=True)
        )
        return "  ".join(padded).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    return "\n".join([line(rows[0]), rule, *map(line, rows[1:]), rule, _NOTE])


def write_results(results: Results, path: str | Path) -> None:
    """Writes `results` as JSON; the file is whole or not there at all, also when the process is killed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    draft.write_text(json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
    draft.replace(path)


def write_csv(models: Mapping[str, Results], path: str | Path) -> None:
    """Writes the scores of several models as one CSV file, a line for each model, task, protocol and metric.

    Args:
        models: Name -> `results` of each.
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with draft.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("model", "task", "protocol", "metric", *_FIELDS, "misses"))
        for model, results in models.items():
            for task, protocols in results.items():
                for protocol, metrics in protocols.items():
                    for metric, fields in metrics.items():
                        values = [fields[name] for name in _FIELDS]
                        misses = json.dumps(fields["misses"], ensure_ascii=False)
                        writer.writerow((model, task, protocol, metric, *values, misses))
    draft.replace(path)
