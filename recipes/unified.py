"""Train Omni-Mol on all tasks together (stage 2, unified tuning), score it, and save it.

    accelerate launch recipes/unified.py                                        # the quickstart, no hub needed
    accelerate launch recipes/unified.py --config recipes/configs/NAME.yaml --max_steps 40 --output_dir DIR
    accelerate launch --config_file recipes/accelerate/zero2.yaml recipes/unified.py --config FILE [FILE ...]

One task alone (separate tuning) is the same recipe with `--tasks NAME`. Settings are those of
`omnimol_hf.run.RunArguments` and of `transformers.TrainingArguments`, in YAML files or as `--key value`. The same
command again continues from the last whole checkpoint. The model ends in DIR/model, its adapters in DIR/adapter, its
scores in DIR/results.json, the held-out answers in DIR/predictions.jsonl, the pictures beside them; the rounds of a
data selection in DIR/selection.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from transformers import TrainingArguments, set_seed

from omnimol_hf import OmniMolForCausalLM, OmniMolProcessor
from omnimol_hf.analysis.plots import draw_predictions
from omnimol_hf.analysis.report import results_table, write_results
from omnimol_hf.analysis.training_plots import plot_selection, plot_training
from omnimol_hf.checkpoints import global_batch
from omnimol_hf.collation import TrainingCollator
from omnimol_hf.generation import GenerationSettings, generate_answers
from omnimol_hf.loading import load_model
from omnimol_hf.metrics.normalised import label_scales, normalised_score
from omnimol_hf.predictions import add_scores, fingerprint, read_predictions
from omnimol_hf.run import RunArguments, open_run, parse_run
from omnimol_hf.run_model import choose_what_trains, prepare_model, save_trained, starting_folder
from omnimol_hf.run_rows import RunRows, encode_told, prepare_rows, rows_that_fit
from omnimol_hf.scoring import answer_rows, places_by_task, row_scores, score_answers
from omnimol_hf.selection import RowSelection
from omnimol_hf.telemetry import TELEMETRY
from omnimol_hf.training import ROUNDS, OmniMolTrainer, json_lines, run_callbacks, train_or_continue

PREDICTIONS = "predictions.jsonl"


def row_scorer(
    run: RunArguments, model: OmniMolForCausalLM, processor: OmniMolProcessor, train: Dataset, encoded: Dataset
) -> Callable[[np.ndarray], np.ndarray]:
    """What a selection rates tasks by: the model answers encoded rows of these numbers, all processes together."""
    scales = label_scales(train.select_columns(["task", "subset", "output"]))
    number_in_train = np.array(encoded["row"][:])

    def score(numbers: np.ndarray) -> np.ndarray:
        rows = list(train.select(number_in_train[numbers]))
        answers = generate_answers(model, processor, rows, run.eval_batch_size, run.max_new_tokens, use_cache=True)
        rho = [normalised_score(row, one["answer"], scales) for row, one in zip(rows, answers, strict=True)]
        return np.array(rho)

    return score


def make_trainer(run: RunArguments, training: TrainingArguments, folder: Path, rows: RunRows) -> OmniMolTrainer:
    """The model with what trains of it, the encoded rows and their order."""
    state = PartialState()
    with state.main_process_first():
        model, processor = prepare_model(run, training, folder, rows.train)
    with state.main_process_first():
        encoded = encode_told(rows.train, processor, run)
        validation = rows.validation and encode_told(rows.validation, processor, run, "validation")
    adapted, counts = choose_what_trains(model, run, processor)
    for part, count in counts.items():
        state.print(f"{count:>13,} parameters {'frozen' if part == 'frozen' else 'train: ' + part}")
    mixture = run.mixture and {task: run.mixture[task] for task in set(encoded["task"]) if task in run.mixture}
    if lost := sorted(set(run.mixture or ()) - set(mixture or ())):
        state.print(f"no training rows of {', '.join(lost)}: their share of the mixture goes to the other tasks")
    selection = score = None
    if run.selects:
        seed = training.seed if training.data_seed is None else training.data_seed
        selection = RowSelection(encoded["task"], run.selects, seed)
        training.max_steps = selection.steps(global_batch(training))
        what = f"selection of {selection.budget:,} from {len(encoded):,} rows in {run.selects.rounds} rounds"
        state.print(f"{run.selects.kind} {what}, {training.max_steps:,} steps")
        if run.selects.kind == "all":
            selection = None
        else:
            score = row_scorer(run, model, processor, rows.train, encoded)
    return OmniMolTrainer(
        model=adapted,
        args=training,
        train_dataset=encoded,
        eval_dataset=validation,
        data_collator=TrainingCollator(processor.tokenizer.pad_token_id, processor.graph_features),
        processing_class=processor,
        mixture=mixture,
        selection=selection,
        score=score,
        balance_tasks=run.balance_tasks,
        packing=run.packing,
        callbacks=run_callbacks(run.stop_epoch, run.patience),
    )


def answer_and_score(run: RunArguments, folder: Path, rows: RunRows) -> None:
    """Answer the held-out rows with the saved model, the one that users will load, and score the answers."""
    state = PartialState()
    loaded = load_model(str(folder / "model"), device=state.device)
    fitting = {task: rows_that_fit(held_out, loaded.processor, run) for task, held_out in rows.test.items()}
    for task in [task for task, held_out in fitting.items() if not held_out]:
        state.print(f"no held-out rows of {task} within the limits: it is not scored")
    test = [row for held_out in fitting.values() for row in held_out]
    about = {"dataset": run.dataset, "split": "test", "rows": len(test), "fingerprint": fingerprint(test)}
    path = folder / PREDICTIONS
    answer_rows(path, loaded, test, about, GenerationSettings(max_new_tokens=run.max_new_tokens), run.eval_batch_size)
    if state.is_main_process:
        answers = read_predictions(path, test)
        texts = [answer["answer"] for answer in answers]
        add_scores(path, row_scores(test, texts, rows.train))
        results = score_answers(test, texts, rows.train, loaded.processor.tokenizer.tokenize)
        draw(folder, answers)
        print(results_table(results))
        tell_how_answers_end(answers)
        write_results(results, folder / "results.json")


def draw(folder: Path, answers: list[dict[str, Any]]) -> None:
    """The pictures of a run: training, selection, and the first answer of each task."""
    lines = json_lines(folder / TELEMETRY)
    if any("loss" in line for line in lines):  # there is none in fewer steps than logging_steps
        plot_training(lines, folder / "training.png")
    if (folder / ROUNDS).exists():
        plot_selection(json_lines(folder / ROUNDS), folder / "selection.png")
    shown = [answers[places[0]] for places in places_by_task(answers).values()]
    draw_predictions(shown, [one["answer"] for one in shown], folder / "examples.png")


def tell_how_answers_end(answers: list[dict[str, Any]]) -> None:
    """Valid answers alone could be one answer over and over, or never come to an end."""
    for task, places in places_by_task(answers).items():
        ended = sum(answers[i]["ended"] for i in places) / len(places)
        distinct = len({answers[i]["answer"] for i in places}) / len(places)
        print(f"{task}: {ended:.0%} of the answers end by themselves, {distinct:.0%} are distinct")


def closing_words(folder: Path) -> str:
    """Where everything is, and the lines that load the model."""
    return f"""
scores:   {folder}/results.json
answers:  {folder}/{PREDICTIONS}
pictures: {folder}/training.png, {folder}/examples.png
model:    {folder}/model, which these lines load:

    from transformers import AutoModel, AutoProcessor
    model = AutoModel.from_pretrained("{folder}/model", trust_remote_code=True)
    processor = AutoProcessor.from_pretrained("{folder}/model", trust_remote_code=True)
"""


def main() -> None:
    run, training, settings = parse_run()
    state = PartialState()
    trainer = None
    with open_run(training, settings) as folder:
        if (folder / "results.json").exists():
            state.print(f"This run is finished. To train anew, choose another --output_dir or delete {folder}.")
            state.print(closing_words(folder))
            return
        set_seed(training.seed)
        with state.main_process_first():
            rows = prepare_rows(run, training)
        if not (folder / "model").exists():
            trainer = make_trainer(run, training, folder, rows)
    if trainer is not None:
        train_or_continue(trainer)
        save_trained(trainer, starting_folder(run, folder), folder)

    answer_and_score(run, folder, rows)
    state.print(closing_words(folder))


if __name__ == "__main__":
    main()
