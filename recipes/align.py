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
import torch.nn.functional as F
from accelerate import PartialState
from datasets import Dataset
from torch.utils.data import DataLoader
from transformers import TrainingArguments, set_seed

from omnimol_hf.analysis.plots import plot_loss
from omnimol_hf.analysis.report import write_results
from omnimol_hf.checkpoints import last_checkpoint
from omnimol_hf.collation import TrainingCollator
from omnimol_hf.run import RunArguments, open_run, parse_run
from omnimol_hf.run_model import choose_what_trains, prepare_model, save_projector
from omnimol_hf.run_rows import RunRows, encode_told, prepare_rows
from omnimol_hf.training import OmniMolTrainer, run_callbacks

TASK = "alignment"


def with_other_graphs(rows: Dataset) -> Dataset:
    """The rows, each with the graph of the next one."""
    graphs = rows["graph_smiles"][:]
    return rows.remove_columns("graph_smiles").add_column("graph_smiles", graphs[1:] + graphs[:1])


def align(run: RunArguments, training: TrainingArguments, folder: Path, rows: RunRows) -> None:
    """Train the projector and measure it."""
    state = PartialState()
    with state.main_process_first():
        model, processor = prepare_model(run, training, folder, rows.train)
    test = Dataset.from_list(rows.test[TASK][: run.eval_rows])
    with state.main_process_first():
        encoded = encode_told(rows.train, processor, run)
        validation = rows.validation and encode_told(rows.validation, processor, run, "validation")
        held_out = encode_told(test, processor, run, "held-out")
        mismatched = encode_told(with_other_graphs(test), processor, run, "mismatched held-out")
    _, counts = choose_what_trains(model, run)
    for part, count in counts.items():
        state.print(f"{count:>13,} parameters {'frozen' if part == 'frozen' else 'train: ' + part}")
    training.prediction_loss_only = True
    trainer = OmniMolTrainer(
        model=model,
        args=training,
        train_dataset=encoded,
        eval_dataset=validation,
        data_collator=TrainingCollator(processor.tokenizer.pad_token_id, processor.graph_features),
        processing_class=processor,
        callbacks=run_callbacks(run.stop_epoch, run.patience),
    )
    before = folder / "before.json"
    if state.is_main_process and not before.exists():
        write_results({"loss": loss_per_token(trainer, held_out)}, before)
    checkpoint = last_checkpoint(folder)
    state.print(f"continuing from {checkpoint}" if checkpoint else f"training on {len(encoded):,} rows")
    trainer.train(resume_from_checkpoint=checkpoint)
    if state.is_main_process:
        losses = {
            "before": json.loads(before.read_text())["loss"],
            "after": loss_per_token(trainer, held_out),
            "after, with other molecules' graphs": loss_per_token(trainer, mismatched),
        }
        save_projector(trainer.accelerator.unwrap_model(trainer.model), folder / "projector.safetensors")
        if any("loss" in entry for entry in trainer.state.log_history):
            plot_loss(trainer.state.log_history, folder / "loss.png")
        write_results({"held-out loss (nats per token)": losses, "rows": len(held_out)}, folder / "results.json")
        for name, loss in losses.items():
            print(f"held-out loss {name}: {loss:.4f} nats per token ({len(held_out)} rows)")


@torch.inference_mode()
def loss_per_token(trainer: OmniMolTrainer, rows: Dataset) -> float:
    """The mean loss of all labelled tokens of encoded rows, in nats, without the balance loss."""
    model = trainer.accelerator.unwrap_model(trainer.model).eval()
    total, tokens = 0.0, 0
    for batch in DataLoader(rows, trainer.args.eval_batch_size, collate_fn=trainer.data_collator):
        batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
        labels = batch["labels"]
        logits = model(**{name: tensor for name, tensor in batch.items() if name != "labels"}).logits
        total += F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), reduction="sum").item()
        tokens += int((labels[:, 1:] != -100).sum())
    return total / tokens


def main() -> None:
    run, training, settings = parse_run(default="recipes/configs/align_llama3.2_1b.yaml")
    run.tasks = run.tasks or TASK
    run.trainable = ["projector"]
    if run.tasks.split(":")[0] != TASK or run.adapter or run.selection:
        raise SystemExit("stage 1 trains the projector on the task 'alignment': no other tasks, adapters or selection")
    folder = open_run(training, settings)
    state = PartialState()
    if not (folder / "results.json").exists():
        set_seed(training.seed)
        with state.main_process_first():
            rows = prepare_rows(run, training)
        if TASK not in rows.test:
            raise SystemExit(f"{run.dataset} has no held-out rows of {TASK} within the limits")
        align(run, training, folder, rows)
    state.print(f"\nlosses:    {folder}/results.json")
    state.print(f"projector: {folder}/projector.safetensors, for --projector of recipes/unified.py")


if __name__ == "__main__":
    main()
