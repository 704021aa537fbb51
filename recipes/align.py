"""Stage 1, alignment: train the projector alone to tell molecules from their graphs (Section 3.5, Appendix C.2).

    accelerate launch recipes/align.py --config recipes/configs/align_llama3.2_1b.yaml --dataset PATH_OR_ID
    accelerate launch recipes/unified.py --config ... --projector DIR/projector.safetensors        # stage 2 takes it

The rows are those of the task `alignment`: a question and a graph, no sequence, and the description as the answer. The
backbone and the graph encoder stay frozen. Settings, checkpoints and continuing are those of `recipes/unified.py`. The
projector ends in DIR/projector.safetensors. DIR/results.json holds the held-out loss before and after, and after with
each molecule's graph replaced by another one's: what the difference of the two is worth, the projector has learnt from
the graphs.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainingArguments, set_seed

from omnimol_hf.analysis.report import write_results
from omnimol_hf.analysis.training_plots import plot_training
from omnimol_hf.collation import TrainingCollator
from omnimol_hf.mixture import parse_mixture
from omnimol_hf.run import RunArguments, open_run, parse_run
from omnimol_hf.run_model import choose_what_trains, prepare_model, save_projector
from omnimol_hf.run_rows import RunRows, encode_told, prepare_rows
from omnimol_hf.telemetry import TELEMETRY
from omnimol_hf.training import OmniMolTrainer, json_lines, run_callbacks, train_or_continue

TASK = "alignment"


def with_other_graphs(rows: Dataset) -> Dataset:
    """The rows, each with the graph of the next one."""
    graphs = rows["graph_smiles"][:]
    return rows.remove_columns("graph_smiles").add_column("graph_smiles", graphs[1:] + graphs[:1])


def prepare(
    run: RunArguments, training: TrainingArguments, folder: Path, rows: RunRows
) -> tuple[OmniMolTrainer, Dataset, Dataset]:
    """The trainer of the projector, and the held-out rows with their own graphs and with others."""
    state = PartialState()
    if TASK not in rows.test:
        raise ValueError(f"{run.dataset} has no held-out rows of {TASK} within the limits")
    with state.main_process_first():
        model, processor = prepare_model(run, training, folder, rows.train)
    test = Dataset.from_list(rows.test[TASK][: run.eval_rows])
    with state.main_process_first():
        encoded = encode_told(rows.train, processor, run)
        validation = rows.validation and encode_told(rows.validation, processor, run, "validation")
        held_out = encode_told(test, processor, run, "held-out")
        mismatched = encode_told(with_other_graphs(test), processor, run, "mismatched held-out")
    _, counts = choose_what_trains(model, run, processor)
    for part, count in counts.items():
        state.print(f"{count:>13,} parameters {'frozen' if part == 'frozen' else 'train: ' + part}")
    trainer = OmniMolTrainer(
        model=model,
        args=training,
        train_dataset=encoded,
        eval_dataset=validation,
        data_collator=TrainingCollator(processor.tokenizer.pad_token_id, processor.graph_features),
        processing_class=processor,
        callbacks=run_callbacks(run.stop_epoch, run.patience),
    )
    return trainer, held_out, mismatched


def align(trainer: OmniMolTrainer, held_out: Dataset, mismatched: Dataset, folder: Path) -> None:
    """Train the projector, measure and save it."""
    main_process = trainer.accelerator.is_main_process
    before = folder / "before.json"
    if main_process and not before.exists():
        write_results({"loss": loss_per_token(trainer, held_out)}, before)
    train_or_continue(trainer)
    if main_process:
        losses = {
            "before": json.loads(before.read_text())["loss"],
            "after": loss_per_token(trainer, held_out),
            "after, with other molecules' graphs": loss_per_token(trainer, mismatched),
        }
        save_projector(trainer.accelerator.unwrap_model(trainer.model), folder / "projector.safetensors")
        lines = json_lines(folder / TELEMETRY)
        if any("loss" in line for line in lines):
            plot_training(lines, folder / "training.png")
        write_results({"held-out loss (nats per token)": losses, "rows": len(held_out)}, folder / "results.json")
        for name, loss in losses.items():
            print(f"held-out loss {name}: {loss:.4f} nats per token ({len(held_out)} rows)")


@torch.inference_mode()
def loss_per_token(trainer: OmniMolTrainer, rows: Dataset) -> float:
    """The mean loss of all labelled tokens of encoded rows, in nats, without the balance loss."""
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    total, tokens = 0.0, 0
    for batch in DataLoader(rows, trainer.args.eval_batch_size, collate_fn=trainer.data_collator):
        batch = {name: tensor.to(model.device) for name, tensor in batch.items() if name != "task_ids"}
        total += model(**batch).sequence_nll.sum().item()
        tokens += int((batch["labels"][:, 1:] != -100).sum())
    return total / tokens


def main() -> None:
    run, training, settings = parse_run(default="recipes/configs/align_llama3.2_1b.yaml")
    run.tasks = run.tasks or TASK
    forbidden = (run.adapter, run.trainable, run.selection, run.selfies_tokens)
    if {share.task for share in parse_mixture(run.tasks)} != {TASK} or any(forbidden):
        raise SystemExit(
            f"stage 1 trains the projector on {TASK!r}: no other task, adapter, trainable, selection or selfies_tokens"
        )
    run.trainable = ["projector"]
    with open_run(training, settings) as folder:
        finished = (folder / "results.json").exists()
        if not finished:
            set_seed(training.seed)
            with PartialState().main_process_first():
                rows = prepare_rows(run, training)
            parts = prepare(run, training, folder, rows)
    if not finished:
        align(*parts, folder)
    PartialState().print(f"\nlosses:    {folder}/results.json")
    PartialState().print(f"projector: {folder}/projector.safetensors, for --projector of recipes/unified.py")


if __name__ == "__main__":
    main()
