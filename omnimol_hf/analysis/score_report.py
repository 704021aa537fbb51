"""A report for people: one HTML page that needs nothing else, the same in Markdown, and the scores as CSV."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from omnimol_hf.analysis.answer_plots import Panel, TaskAnswers, draw_panels
from omnimol_hf.analysis.plots import draw_predictions
from omnimol_hf.analysis.report import write_csv
from omnimol_hf.analysis.score_tables import (
    PAPER,
    Baselines,
    ScoredModel,
    Table,
    choose_cases,
    constant_baselines,
    overview,
    paper_tables,
    protocol_table,
    readable_name,
    task_table,
)
from omnimol_hf.tasks import ALL_TASKS

FIGURES = "figures"
_LONGEST = 600  # characters of an answer in the page; the whole one is in predictions.jsonl
_TYPES = {".svg": "image/svg+xml", ".png": "image/png"}


def write_report(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    models: Sequence[ScoredModel],
    run: Mapping[str, Any],
    baselines: Baselines | None = None,
) -> None:
    """Writes `report.html`, `report.md`, `results.csv` and the pictures in `figures/`.

    Args:
        folder: where they go; files of an earlier report are replaced.
        rows: the held-out rows, in the order of the models' answers.
        models: one, or several to compare.
        run: what was run, with `command`, `data` (`HeldOut.about`), `models` (name -> `parameters` and
            `seconds_per_row`), `generation`, `versions` and more; all of it is printed.
        baselines: task -> name -> protocol -> metric -> value; None: the one in the results.

    Raises:
        ValueError: if a model's answers or scores are not one for each row.
    """
    for model in models:
        if not len(model.answers) == len(model.scores) == len(rows):
            raise ValueError(
                f"{model.name}: {len(model.answers)} answers and {len(model.scores)} scores for {len(rows)} rows"
            )
    baselines = constant_baselines(models[0].results) if baselines is None else baselines
    context = {
        "title": "Scores of " + " and ".join(model.name for model in models),
        "models": models,
        "run": run,
        "facts": _facts(run),
        "overview": overview(models),
        "paper": paper_tables(models, baselines, run),
        "source": PAPER["source"],
        "notes": PAPER["notes"],
        "protocols": protocol_table(models),
        "tasks": [_task_section(task, folder, rows, models, baselines) for task in models[0].results],
    }
    write_csv({model.name: model.results for model in models}, folder / "results.csv")
    for name in ("report.html", "report.md"):
        text = _environment(folder).get_template(f"{name}.jinja").render(context)
        draft = folder / f".{name}.tmp"
        draft.write_text(text, encoding="utf-8")
        draft.replace(folder / name)


def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=PackageLoader("omnimol_hf.analysis"),
        autoescape=select_autoescape(["html.jinja"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def inline(path: Path) -> str:
        return f"data:{_TYPES[path.suffix]};base64,{base64.b64encode(path.read_bytes()).decode()}"

    # Bars and line breaks would end a cell of a Markdown table.
    environment.filters |= {
        "inline": inline,
        "beside": lambda path: path.relative_to(folder).as_posix(),
        "cell": lambda text: " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;").replace("$", "\\$"),
    }
    return environment


def _facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was run, in lines of name and value."""
    data, generation = run["data"], run["generation"]
    revision = f", revision {data['revision']}" if data["revision"] else ""
    facts = [
        ("dataset", f"{data['dataset']}{revision}, split {data['split']}, {data['rows']:,} rows"),
        ("rows' fingerprint", f"sha256 {data['fingerprint']}"),
        ("generation", _search(generation) + f", up to {generation['max_new_tokens']} tokens"),
    ]
    for name, model in run["models"].items():
        known = {key: value for key, value in model.items() if value is not None}
        seconds = known.pop("seconds_per_row", None)
        answered = known.pop("rows_answered", None)
        time = f"{seconds:.3g} s a row over {answered:,} rows; " if seconds is not None else ""
        facts.append((name, time + ", ".join(f"{key} {value}" for key, value in known.items())))
    others = {key: value for key, value in run.items() if key not in ("command", "data", "models", "generation")}
    for key, value in others.items():
        text = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else value
        facts.append((key.replace("_", " "), f"{text:.3g}" if isinstance(text, float) else str(text)))
    return facts


def _search(generation: Mapping[str, Any]) -> str:
    several = f", {generation['candidates']} candidates" if generation["candidates"] > 1 else ""
    if generation["do_sample"]:
        drawn = ", ".join(f"{name} {generation[name]}" for name in ("temperature", "top_p", "top_k", "seed"))
        return f"drawn, {drawn}{several}"
    beams = generation["num_beams"]
    return ("greedy" if beams == 1 else f"{beams} beams") + several


def _task_section(
    task: str,
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    models: Sequence[ScoredModel],
    baselines: Baselines,
) -> dict[str, Any]:
    places = [i for i, row in enumerate(rows) if row["task"] == task]
    mine = [rows[i] for i in places]
    answers = {model.name: [model.answers[i] for i in places] for model in models}
    scores = {model.name: np.array([model.scores[i] for i in places], dtype=float) for model in models}
    panels = draw_panels(ALL_TASKS[task], TaskAnswers(mine, answers, scores), folder / FIGURES)
    cases = choose_cases(list(scores.values()), [one["logprob"] for one in answers[models[0].name]])
    picture = Panel(folder / FIGURES / f"{task}-cases.png", f"Cases of {readable_name(task)}")
    texts = {name: [several[i]["answer"] for i in cases.values()] for name, several in answers.items()}
    draw_predictions(
        [mine[i] for i in cases.values()],
        texts if len(models) > 1 else next(iter(texts.values())),
        picture.path,
        [name + (f" ({mine[i]['subset']})" if mine[i]["subset"] else "") for name, i in cases.items()],
    )
    return {
        "name": task,
        "title": readable_name(task),
        "rows": len(places),
        "unit": ALL_TASKS[task].unit,
        "tables": [task_table(task, model, baselines) for model in models],
        "panels": panels,
        "picture": picture,
        "cases": _case_table(task, cases, mine, answers, scores),
    }


def _case_table(
    task: str,
    cases: Mapping[str, int],
    rows: Sequence[Mapping[str, Any]],
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
    scores: Mapping[str, np.ndarray],
) -> Table:
    table = Table(
        f"cases-{task}",
        "The same cases in words",
        ["case", "row", "input", "reference", "model", "answer", "score", "log-probability"],
        6,
    )
    for case, i in cases.items():
        for name, several in answers.items():
            one = several[i]
            logprob = "-" if one["logprob"] is None else f"{one['logprob']:.2f}"
            texts = [_short(rows[i]["input"]), _short(rows[i]["output"]), name, _short(one["answer"]) or "(empty)"]
            table.add("ours", case, str(rows[i]["id"]), *texts, f"{scores[name][i]:.3f}", logprob)
    return table


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + " …"


__all__ = ["ScoredModel", "write_report"]
