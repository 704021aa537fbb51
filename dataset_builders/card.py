"""The dataset's README: YAML that the Hub and `load_dataset` read, and a card for people; all from the report."""

from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from dataset_builders.plots import LENGTHS, OVERLAPS, SOURCES, VALUES
from dataset_builders.schema import COLUMN_MEANINGS, FEATURES, SPLITS
from dataset_builders.source import Source
from omnimol_hf.tasks import ALL_TASKS, EXTRA_TASKS, TASKS

TEMPLATE = Path(__file__).parent.parent / "model_cards" / "omni-mol-instruct.md.jinja"
UNIFIED = "unified"
PUBLISHED_SUMMARY = (
    "Questions and answers for fifteen molecular tasks, built from what the publishers of the data release: "
    "one schema, canonical molecules, publishers' splits, and every record that gave no row counted."
)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LICENSES = ("apache-2.0", "bsd-3-clause", "cc-by-4.0", "cc-by-nc-4.0", "cc-by-sa-4.0", "cc0-1.0", "mit")
"""Those that the Hub knows by name, of those that occur."""
_LONGEST = 700
"""Characters that an example shows of one value."""

Counts = dict[str, dict[str, int]]
"""task -> split -> rows."""


def render_card(report: dict) -> str:
    """README.md of a built dataset, its YAML header included, from a complete report (see `finish.py`)."""
    counts: Counts = report["rows"]
    total = sum(sum(splits.values()) for splits in counts.values())
    sources, summary = _about(report)
    data = DatasetCardData(
        language="en",
        **_license(report),
        pretty_name="Omni-Mol Instruct" + (" (starter)" if report["name"] == "starter" else ""),
        size_categories=next((name for limit, name in _SIZES if total < limit), "1M<n<10M"),
        task_categories=["text-generation", "question-answering"],
        tags=["chemistry", "molecules", "SELFIES", "instruction-tuning"],
        configs=_configs(counts),
        dataset_info=_dataset_info(counts, report["statistics"]),
    )
    card = DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        report=report,
        summary=summary,
        sources=sources,
        tasks=ALL_TASKS,
        fifteen=[task for task in counts if task in TASKS],
        extras=[task for task in counts if task in EXTRA_TASKS],
        total=total,
        totals={split: sum(splits[split] for splits in counts.values()) for split in SPLITS},
        number_tasks=[task for task in counts if ALL_TASKS[task].answer == "number"],
        paper=_paper_sizes(report),
        taken={
            (source.name, task, split): rows
            for source in sources
            for task, splits in source.paper_sizes.items()
            for split, rows in splits.items()
        },
        labels={task: {s.name: s.tasks[task] for s in sources if task in s.tasks} for task in counts},
        examples={task: _example(task, found["example"]) for task, found in report["statistics"].items()},
        overlaps=_overlaps(report["overlaps"]),
        dropped=_dropped(report["drops"]),
        columns=COLUMN_MEANINGS,
        figures={"lengths": LENGTHS, "overlaps": OVERLAPS, "sources": SOURCES, "number_values": VALUES},
        cell=_cell,
    )
    return f"{card}\n"


def _about(report: dict) -> tuple[list[Source], str]:
    """What is known of the sources that were used, and what the dataset is in a few words."""
    if report["name"] == "starter":
        from dataset_builders.sources import starter

        return [starter.SOURCE], starter.SUMMARY
    from dataset_builders.sources import SOURCES

    return [SOURCES[name].SOURCE for name in report["sources"]], PUBLISHED_SUMMARY


def _paper_sizes(report: dict) -> Counts:
    """Task -> split -> rows in the paper, whatever source it took them from."""
    if report["name"] == "starter":
        return {}
    from dataset_builders.sources import SOURCES

    sizes: Counts = {}
    for module in SOURCES.values():
        for task, splits in module.SOURCE.paper_sizes.items():
            sizes.setdefault(task, dict(splits))
    return sizes


# --- YAML ------------------------------------------------------------------------------------------------------------


def _license(report: dict) -> dict[str, str]:
    names = {entry["license"] for found in report["statistics"].values() for entry in found["licenses"]}
    if len(names) == 1 and (name := names.pop().lower()) in _LICENSES:
        return {"license": name}
    return {"license": "other", "license_name": "per-source"}


def _members(counts: Counts) -> dict[str, list[str]]:
    """Config -> its tasks. The fifteen together come first: the first config is the default."""
    fifteen = [task for task in counts if task in TASKS]
    return ({UNIFIED: fifteen} if fifteen else {}) | {task: [task] for task in counts}


def _configs(counts: Counts) -> list[dict]:
    """Every config lists its files split by split; a split without rows has no file, and is not listed."""
    configs: list[dict] = []
    for name, tasks in _members(counts).items():
        files = [
            {"split": split, "path": [f"{task}/{split}-*.parquet" for task in tasks if counts[task][split]]}
            for split in SPLITS
        ]
        configs.append({"config_name": name, "data_files": [entry for entry in files if entry["path"]]})
    configs[0]["default"] = True
    return configs


def _dataset_info(counts: Counts, statistics: dict) -> list[dict]:
    features = [
        {"name": column, "list": "string"} if column == "graph_smiles" else {"name": column, "dtype": "string"}
        for column in FEATURES
    ]
    infos = []
    for name, tasks in _members(counts).items():
        splits = []
        for split in SPLITS:
            found = [statistics[task]["splits"][split] for task in tasks if counts[task][split]]
            if found:
                num_bytes, rows = (sum(one[key] for one in found) for key in ("num_bytes", "rows"))
                splits.append({"name": split, "num_bytes": num_bytes, "num_examples": rows})
        infos.append({"config_name": name, "features": features, "splits": splits})
    return infos


# --- what people read ------------------------------------------------------------------------------------------------


def _cell(text: str) -> str:
    """Text that stays within its cell of a table."""
    return str(text).replace("|", "\\|").replace("\n", " ")


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … ({len(text):,} characters)"


def _example(task: str, row: dict) -> dict[str, str]:
    """What a model reads and answers for one row, long values cut."""
    return {
        "id": row["id"],
        "graph": _cut(", ".join(row["graph_smiles"])) or "none",
        "user": ALL_TASKS[task].user_text(row["instruction"], _cut(row["input"])),
        "answer": _cut(row["output"]),
    }


def _overlaps(overlaps: dict[str, Counts]) -> list[tuple[str, str, int, int]]:
    """Training task, held-out task, overlapping train rows before and after; only where there were any."""
    return [
        (task, other, count, overlaps["after"].get(task, {}).get(other, 0))
        for task, found in overlaps["before"].items()
        for other, count in found.items()
        if count
    ]


def _dropped(drops: list[dict]) -> dict[str, list[dict]]:
    """Source -> its drops, the largest first."""
    by_source: dict[str, list[dict]] = {}
    for drop in sorted(drops, key=lambda drop: (drop["source"], -drop["count"], drop["task"], drop["reason"])):
        by_source.setdefault(drop["source"], []).append(drop)
    return by_source
