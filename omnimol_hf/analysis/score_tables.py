"""The tables of a score report, as text cells: the paper's tables with this run in them, and what lies behind."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from omnimol_hf.analysis.report import HEADLINES, Results, figure_text, is_better, readable_share, short_unit
from omnimol_hf.metrics import PROTOCOLS, baseline_name, protocol_differences
from omnimol_hf.tasks import ALL_TASKS

PAPER = json.loads(Path(__file__).with_name("paper_scores.json").read_text(encoding="utf-8"))
Baselines = Mapping[str, Mapping[str, Mapping[str, Mapping[str, float | None]]]]  # task -> name -> protocol -> metric


class ScoredModel(NamedTuple):
    """What a report needs of a model.

    Attributes:
        name: short, for tables.
        results: what its `results.json` holds.
        answers: the lines of its `predictions.jsonl`, in the order of the rows.
        scores: the normalised score of each row, in [0, 1].
    """

    name: str
    results: Results
    answers: Sequence[Mapping[str, Any]]
    scores: Sequence[float]


@dataclass
class Table:
    """Cells of text; `kinds` says of each row whose numbers it holds.

    Attributes:
        key: the table's name in the page.
        words: how many columns on the left are words; the others are numbers.
        kinds: `ours`, `baseline` or `paper` for each row, or "".
    """

    key: str
    title: str
    head: list[str]
    words: int = 1
    rows: list[list[str]] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    note: str = ""

    def add(self, kind: str, *cells: str) -> None:
        """Append a row."""
        self.rows.append(list(cells))
        self.kinds.append(kind)

    def __iter__(self) -> Iterator[tuple[str, list[str]]]:
        return iter(zip(self.kinds, self.rows, strict=True))


def readable_name(task: str) -> str:
    """`molecular_weight` -> `molecular weight`."""
    return task.replace("_", " ")


def constant_baselines(results: Results) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
    """The baseline that every `results.json` carries, as `Baselines`."""
    return {
        task: {
            baseline_name(ALL_TASKS[task]): {
                protocol: {metric: fields["baseline"] for metric, fields in protocols[protocol].items()}
                for protocol in PROTOCOLS
            }
        }
        for task, protocols in results.items()
        if any(fields["baseline"] is not None for fields in protocols["strict"].values())
    }


def _interval(fields: Mapping[str, Any]) -> str:
    return "-" if fields["low"] is None else f"{figure_text(fields['low'])} to {figure_text(fields['high'])}"


def paper_value(task: str, metric: str) -> float | None:
    """What the paper prints for its own model."""
    for table in PAPER["tables"]:
        for section in table["sections"]:
            for column, printed in zip(table["columns"], section["rows"][-1]["values"], strict=True):
                if (column.get("task", section["task"]), column["metric"]) == (task, metric):
                    return float(printed.split()[0])
    return None


def overview(models: Sequence[ScoredModel]) -> Table:
    """One row a task and model: the main score, the trivial answer's, both protocols, and the paper's number."""
    which = ["task", *(["model"] if len(models) > 1 else []), "metric"]
    head = [*which, "strict", "95 % interval", "constant answer", "better?", "paper's protocol", "paper's Omni-Mol"]
    head += ["mean score", "readable", "ended", "rows"]
    table = Table("overview", "The main score of each task", head, len(which))
    table.note = (
        "strict: every row counts, an unreadable answer is a miss. paper's protocol: what the authors' code computes. "
        "constant answer: the training median for numbers, the most frequent training answer for all others; ~ means "
        "that the 95 % interval holds it. mean score: 1 for a right answer on every row, whatever the task "
        "(molecules by Morgan Tanimoto similarity, numbers by exp(-|error| / spread of the training labels), text by "
        "ROUGE-L, procedures by edit similarity). paper's Omni-Mol: printed in the paper, not measured here, and on "
        "other rows unless these are its test sets."
    )
    for task in models[0].results:
        for model in models:
            strict, paper = (model.results[task][protocol] for protocol in PROTOCOLS)
            metric = HEADLINES[ALL_TASKS[task].answer][0]
            places = [i for i, line in enumerate(model.answers) if line["task"] == task]
            unit = f" ({short_unit(ALL_TASKS[task])})" if metric == "mae" and short_unit(ALL_TASKS[task]) else ""
            better = {True: "yes", False: "no", None: "~" if strict[metric]["baseline"] is not None else "-"}
            table.add(
                "ours",
                readable_name(task),
                *([model.name] if len(models) > 1 else []),
                metric + unit,
                figure_text(strict[metric]["value"]),
                _interval(strict[metric]),
                figure_text(strict[metric]["baseline"]),
                better[is_better(metric, strict[metric])],
                figure_text(paper[metric]["value"]) if metric in paper else "-",
                figure_text(paper_value(task, metric)),
                f"{np.nanmean([model.scores[i] for i in places]):.3f}",
                f"{readable_share(strict):.0%}",
                f"{np.mean([model.answers[i]['ended'] for i in places]):.0%}",
                str(strict[metric]["n"]),
            )
    return table


def _cell(values: Mapping[str, float | None], column: Mapping[str, str]) -> str:
    text = figure_text(values.get(column["metric"]))
    rate = values.get(column.get("rate", ""))
    return text if rate is None or text == "-" else f"{text} ({rate:.0%})"


def paper_tables(models: Sequence[ScoredModel], baselines: Baselines, run: Mapping[str, Any]) -> list[Table]:
    """The paper's Tables 1-3 and 5-7, as far as their tasks were scored, with this run's rows first."""
    tables = []
    for place, printed in enumerate(PAPER["tables"]):
        for section in printed["sections"]:
            tasks = [column.get("task", section["task"]) for column in printed["columns"]]
            if not set(tasks) & set(models[0].results):
                continue
            name = f": {readable_name(section['task'])}" if len(printed["sections"]) > 1 else ""
            title = f"The paper's Table {printed['number']}. {printed['title']}{name}"
            head = ["model", "type", "parameters", "protocol", *(column["label"] for column in printed["columns"])]
            table = Table(f"paper-{place}-{section['task'] or 'properties'}", title, head, 4)
            _add_measured(table, printed["columns"], tasks, models, baselines, run)
            for row in section["rows"]:
                table.add("paper", row["model"], row["type"], row["parameters"], "as printed", *row["values"])
            if "scf_energy" in tasks:
                table.note = "SCF: this run's rows are in the unit of the dataset's labels (see its card), not 10⁵ eV."
            elif "unit" in printed:
                table.note = f"In {printed['unit']}."
            tables.append(table)
    return tables


def _add_measured(
    table: Table,
    columns: Sequence[Mapping[str, str]],
    tasks: Sequence[str],
    models: Sequence[ScoredModel],
    baselines: Baselines,
    run: Mapping[str, Any],
) -> None:
    for model in models:
        size = _short_count(run["models"][model.name].get("parameters"))
        for protocol in reversed(PROTOCOLS):
            cells = [
                _cell({metric: fields["value"] for metric, fields in model.results[task][protocol].items()}, column)
                if task in model.results
                else "-"
                for task, column in zip(tasks, columns, strict=True)
            ]
            table.add("ours", model.name, "this run", size, protocol, *cells)
    names = dict.fromkeys(name for task in tasks for name in baselines.get(task, ()))
    for name in names:
        for protocol in reversed(PROTOCOLS):
            values = [baselines.get(task, {}).get(name, {}).get(protocol, {}) for task in tasks]
            cells = [_cell(one, column) for one, column in zip(values, columns, strict=True)]
            table.add("baseline", name, "baseline, this run", "-", protocol, *cells)


def _short_count(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M" if count >= 1e5 else f"{count:,}"


def protocol_table(models: Sequence[ScoredModel]) -> Table:
    """How far apart the two protocols are, for each task and metric that both have."""
    which = ["task", *(["model"] if len(models) > 1 else []), "metric"]
    head = [*which, "strict", "paper's protocol", "difference", "rows left out", "why"]
    table = Table("protocols", "All metrics that both protocols have", head, len(which))
    table.note = "difference: the paper's protocol minus strict. rows left out: those that the paper's protocol drops."
    differences = {model.name: protocol_differences(model.results) for model in models}
    for task in models[0].results:
        for model in models:
            strict, paper = (model.results[task][protocol] for protocol in PROTOCOLS)
            for metric, values in differences[model.name][task].items():
                if "/" in metric:  # of one subset only
                    continue
                apart = "-" if values["difference"] is None else f"{values['difference']:+.4g}"
                dropped = strict[metric]["n"] - paper[metric]["n"]
                table.add(
                    "ours",
                    readable_name(task),
                    *([model.name] if len(models) > 1 else []),
                    metric,
                    figure_text(values["strict"]),
                    figure_text(values["paper"]),
                    apart,
                    str(dropped),
                    _reasons(paper[metric]["misses"]),
                )
    return table


def _reasons(misses: Mapping[str, int]) -> str:
    return ", ".join(f"{reason}: {count}" for reason, count in misses.items()) or "-"


def task_table(task: str, model: ScoredModel, baselines: Baselines) -> Table:
    """Every metric of a task, first by the strict protocol, then by the paper's, beside the baselines."""
    named = baselines.get(task, {})
    head = ["metric", "protocol", model.name, "95 % interval", *named, "rows", "misses"]
    table = Table(f"metrics-{model.name}-{task}", f"All metrics of {model.name}", head, 2)
    for protocol in PROTOCOLS:
        for metric, fields in model.results[task][protocol].items():
            others = [figure_text(one.get(protocol, {}).get(metric)) for one in named.values()]
            own = (figure_text(fields["value"]), _interval(fields))
            table.add("ours", metric, protocol, *own, *others, str(fields["n"]), _reasons(fields["misses"]))
    return table


def choose_cases(scores: Sequence[Sequence[float]], logprobs: Sequence[float | None]) -> dict[str, int]:
    """The best, a typical and the worst of a task's rows; with several models also the one they differ most on.

    Args:
        scores: for each model, the normalised score of each row.
        logprobs: the first model's; among equals, it was surest of the best and of the worst answer.

    Returns:
        What the case is -> place of the row; each row once.
    """
    table = np.nan_to_num(np.array(scores, dtype=float))
    mean, sure = table.mean(axis=0), np.array([-np.inf if one is None else one for one in logprobs])
    order = np.lexsort((sure, mean))  # from the worst to the best, the surest last among equals
    worst = order[mean[order] == mean[order[0]]][-1]
    typical = int(np.argmin(np.abs(mean - np.median(mean))))
    cases = {"best": int(order[-1]), "typical": typical, "worst": int(worst)}
    if len(table) > 1:
        cases["most different"] = int(np.argmax(np.ptp(table, axis=0)))
    seen: set[int] = set()
    return {name: i for name, i in cases.items() if not (i in seen or seen.add(i))}
