"""The dataset's README: YAML that the Hub and `load_dataset` read, and a card for people."""

from pathlib import Path
from types import ModuleType

from huggingface_hub import DatasetCard, DatasetCardData

from dataset_builders.schema import COLUMN_MEANINGS, FEATURES
from omnimol_hf.tasks import TASKS

TEMPLATE = Path(__file__).parent.parent / "model_cards" / "omni-mol-instruct.md.jinja"
UNIFIED = "unified"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_EXAMPLE_LENGTH = 160


def render_card(source: ModuleType, report: dict, rows: dict, sizes: dict[str, dict[str, int]]) -> str:
    """README.md of a built dataset, its YAML header included.

    Args:
        rows: task -> split -> rows.
        sizes: task -> split -> bytes of the Arrow table.
    """
    counts = report["rows"]
    total = sum(sum(splits.values()) for splits in counts.values())
    examples = [next(iter(splits["train"] or splits["test"])) for splits in rows.values()]
    label_sources = {
        task: sorted({row["label_source"] for split in splits.values() for row in split})
        for task, splits in rows.items()
    }
    card = DatasetCard.from_template(
        DatasetCardData(
            license=source.CARD_LICENSE,
            language="en",
            pretty_name=f"Omni-Mol Instruct ({report['name']})",
            size_categories=next((name for limit, name in _SIZES if total < limit), "1M<n<10M"),
            task_categories=["text-generation", "question-answering"],
            tags=["chemistry", "molecules", "SELFIES", "instruction-tuning"],
            configs=_configs(counts),
            dataset_info=_dataset_info(counts, sizes),
        ),
        template_path=str(TEMPLATE),
        source=source,
        report=report,
        tasks=TASKS,
        counts=counts,
        total=total,
        columns=COLUMN_MEANINGS,
        label_sources=label_sources,
        licenses=sorted(
            {(row["source"], row["license"]) for splits in rows.values() for split in splits.values() for row in split}
        ),
        examples=[{key: _shown(value) for key, value in row.items()} for row in examples],
    )
    return f"{card}\n"


def _configs(counts: dict[str, dict[str, int]]) -> list[dict]:
    def config(name: str, folder: str, splits: list[str]) -> dict:
        files = [{"split": split, "path": f"{folder}/{split}-*.parquet"} for split in splits]
        return {"config_name": name, "data_files": files}

    present = [split for split in ("train", "test") if any(splits[split] for splits in counts.values())]
    return [config(UNIFIED, "*", present) | {"default": True}] + [
        config(task, task, [split for split, count in splits.items() if count]) for task, splits in counts.items()
    ]


def _dataset_info(counts: dict[str, dict[str, int]], sizes: dict[str, dict[str, int]]) -> list[dict]:
    features = [
        {"name": column, "list": "string"} if column == "graph_smiles" else {"name": column, "dtype": "string"}
        for column in FEATURES
    ]

    def info(name: str, tasks: list[str]) -> dict:
        splits = [
            {
                "name": split,
                "num_bytes": sum(sizes[task][split] for task in tasks if counts[task][split]),
                "num_examples": sum(counts[task][split] for task in tasks),
            }
            for split in ("train", "test")
            if any(counts[task][split] for task in tasks)
        ]
        return {"config_name": name, "features": features, "splits": splits}

    return [info(UNIFIED, list(counts)), *(info(task, [task]) for task in counts)]


def _shown(value: str | list[str]) -> str:
    text = ", ".join(value) if isinstance(value, list) else value
    text = text if len(text) <= _EXAMPLE_LENGTH else text[: _EXAMPLE_LENGTH - 1] + "…"
    return text.replace("|", "\\|").replace("\n", " ")
