"""Train Omni-Mol on all tasks together (stage 2, unified tuning), score it, and save it.

    accelerate launch recipes/unified.py                                        # the quickstart, no hub needed
    accelerate launch recipes/unified.py --config recipes/configs/NAME.yaml --max_steps 40 --output_dir DIR
    accelerate launch --config_file recipes/accelerate/zero2.yaml recipes/unified.py --config FILE

Settings are those of `omnimol_hf.run.RunArguments` and of `transformers.TrainingArguments`, in the YAML or as
`--key value`. The same command again continues from the last whole checkpoint. The model ends in DIR/model, its scores
in DIR/results.json, the held-out answers in DIR/predictions.jsonl, the pictures beside them; the rounds of a data
selection in DIR/selection.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from datasets import Dataset
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoProcessor, TrainingArguments, set_seed

from omnimol_hf import OmniMolForCausalLM, OmniMolProcessor
from omnimol_hf.analysis.plots import draw_predictions, plot_loss, plot_selection
from omnimol_hf.analysis.report import results_table, write_results
from omnimol_hf.checkpoints import last_checkpoint, whole_folder
from omnimol_hf.collation import TrainingCollator, encode_row, encode_rows
from omnimol_hf.from_scratch import new_model, new_processor
from omnimol_hf.generation import generate_answers
from omnimol_hf.metrics import baseline_predictions, score_task
from omnimol_hf.metrics.normalised import label_scales, normalised_score
from omnimol_hf.mixture import load_mixture, parse_mixture
from omnimol_hf.rows import by_task, choose_rows, load_rows
from omnimol_hf.run import RunArguments, compare_with_folder, parse_run
from omnimol_hf.selection import RowSelection
from omnimol_hf.tasks import ALL_TASKS
from omnimol_hf.training import ROUNDS, OmniMolTrainer, select_trainable, use_all_cores


def prepare_rows(run: RunArguments, training: TrainingArguments) -> tuple[Dataset, dict[str, list[dict[str, Any]]]]:
    """The training rows that this run can draw, and the held-out rows of each task."""
    source = run.dataset
    if source == "starter":
        source = run.dataset_dir
        if not Path(source).exists():
            from dataset_builders.build import build_starter  # needs the extra `starter`; other data does not

            build_starter(Path(source))
    splits = load_rows(source, run.tasks and {share.task for share in parse_mixture(run.tasks)})
    if run.tasks or run.proportion < 1:
        splits["train"] = load_mixture(splits["train"], run.tasks, proportion=run.proportion, seed=training.seed)
    at_most = None
    global_batch = training.train_batch_size * training.gradient_accumulation_steps * training.world_size
    if run.mixture and training.max_steps > 0:
        draws = training.max_steps * global_batch
        shares = {task: weight / sum(run.mixture.values()) for task, weight in run.mixture.items()}
        at_most = {task: int(1.2 * share * draws) + 50 for task, share in shares.items()}
    for task in sorted(set(splits["train"]["task"]) - set(run.mixture or splits["train"]["task"])):
        PartialState().print(f"{task} has rows but no share of the mixture: it is not trained on")
    train = choose_rows(splits["train"], training.seed, at_most, run.max_heavy_atoms)
    if run.selects:
        # What cannot be is told before the rows are encoded.
        RowSelection(train["task"], run.selects).unit_steps(global_batch)
    # More than are scored, for some will turn out too long.
    test = choose_rows(splits["test"], training.seed, 3 * run.eval_rows, run.max_heavy_atoms)
    return train, {task: list(rows) for task, rows in by_task(test).items() if task in set(train["task"])}


def prepare_model(
    run: RunArguments, training: TrainingArguments, folder: Path, train: Dataset
) -> tuple[OmniMolForCausalLM, OmniMolProcessor]:
    """Load the checkpoint to start from. A new model is first made and saved in DIR/initial, so that a continued run
    and all processes have the same one."""
    source = run.model
    if source is None:
        source = folder / "initial"
        if not source.exists():
            sizes = dict(run.new_model)
            processor = new_processor(train, sizes.pop("vocab_size"))
            model = new_model(processor, sizes.pop("text_config"), training.seed, **sizes)
            with whole_folder(source) as aside:
                model.save_pretrained(aside)
                processor.save_pretrained(aside)
    model = AutoModelForCausalLM.from_pretrained(source)
    processor = AutoProcessor.from_pretrained(source)
    if training.gradient_checkpointing:
        model.config.text_config.use_cache = False
    return model, processor


def checkpoint_folder(model: str, *patterns: str) -> Path:
    """The folder of a local checkpoint, or of those files of a hub repository that match the patterns."""
    return Path(model) if Path(model).is_dir() else Path(snapshot_download(model, allow_patterns=list(patterns)))


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


def rows_that_fit(rows: list[dict[str, Any]], processor: OmniMolProcessor, run: RunArguments) -> list[dict[str, Any]]:
    """The first held-out rows that are readable and no longer than training rows were."""
    return [row for row in rows if not encode_row(row, processor, run.max_length)["problem"]][: run.eval_rows]


def answer_test_rows(
    run: RunArguments, model_dir: Path, processor: OmniMolProcessor, test: dict[str, list[dict[str, Any]]]
) -> dict[str, list[dict[str, Any]]]:
    """Answer the held-out rows with the saved model, the one that users will load."""
    model = AutoModelForCausalLM.from_pretrained(model_dir).to(PartialState().device)
    rows = [row for task_rows in test.values() for row in task_rows]
    answers = generate_answers(model, processor, rows, run.eval_batch_size, run.max_new_tokens)
    by_name: dict[str, list[dict[str, Any]]] = {task: [] for task in test}
    for row, answer in zip(rows, answers, strict=True):
        by_name[row["task"]].append(answer)
    return by_name


def score(
    test: dict[str, list[dict[str, Any]]], answers: dict[str, list[dict[str, Any]]], train: Dataset, processor: Any
) -> dict[str, Any]:
    """task -> protocol -> metric -> value, baseline, interval and misses."""
    train_rows = by_task(train)
    return {
        task: score_task(
            ALL_TASKS[task],
            [answer["answer"] for answer in answers[task]],
            [row["output"] for row in rows],
            baseline_predictions(ALL_TASKS[task], train_rows[task], rows),
            subsets=[row["subset"] for row in rows],
            tokenize=processor.tokenizer.tokenize,
        )
        for task, rows in test.items()
    }


def report(
    folder: Path,
    results: dict[str, Any],
    test: dict[str, list[dict[str, Any]]],
    answers: dict[str, list[dict[str, Any]]],
    log_history: list[dict[str, float]],
) -> None:
    """Print the table, and write answers, scores and pictures."""
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as file:
        for task, rows in test.items():
            for row, answer in zip(rows, answers[task], strict=True):
                file.write(json.dumps({**row, **answer}, ensure_ascii=False) + "\n")
    if any("loss" in entry for entry in log_history):  # there is none in fewer steps than logging_steps
        plot_loss(log_history, folder / "loss.png")
    if (folder / ROUNDS).exists():
        rounds = [json.loads(line) for line in (folder / ROUNDS).read_text(encoding="utf-8").splitlines()]
        plot_selection(rounds, folder / "selection.png")
    shown = [(rows[0], answers[task][0]["answer"]) for task, rows in test.items()]
    draw_predictions([row for row, _ in shown], [answer for _, answer in shown], folder / "examples.png")
    print(results_table(results))
    for task in answers:
        ended = sum(answer["ended"] for answer in answers[task]) / len(answers[task])
        distinct = len({answer["answer"] for answer in answers[task]}) / len(answers[task])
        print(f"{task}: {ended:.0%} of the answers end by themselves, {distinct:.0%} are distinct")
    write_results(results, folder / "results.json")


def closing_words(folder: Path) -> str:
    """Where everything is, and the lines that load the model."""
    return f"""
scores:   {folder}/results.json
answers:  {folder}/predictions.jsonl
pictures: {folder}/loss.png, {folder}/examples.png
model:    {folder}/model, which these lines load:

    from transformers import AutoModel, AutoProcessor
    model = AutoModel.from_pretrained("{folder}/model", trust_remote_code=True)
    processor = AutoProcessor.from_pretrained("{folder}/model", trust_remote_code=True)
"""


def main() -> None:
    run, training, settings = parse_run()
    state = PartialState()
    folder = Path(training.output_dir)
    if state.is_main_process:
        compare_with_folder(folder, settings)
    state.wait_for_everyone()
    if (folder / "results.json").exists():
        state.print(f"This run is finished. To train anew, choose another --output_dir or delete {folder}.")
        state.print(closing_words(folder))
        return

    threads = use_all_cores(training.world_size)
    set_seed(training.seed)
    state.print(f"{state.num_processes} process(es), {threads} threads each, on {training.device}")
    with state.main_process_first():
        train, test = prepare_rows(run, training)
    if not (folder / "model").exists():
        with state.main_process_first():
            model, processor = prepare_model(run, training, folder, train)
        with state.main_process_first():
            encoded, left_out = encode_rows(train, processor, run.max_length, number_rows=bool(run.selects))
        for reason, count in sorted(left_out.items()):
            state.print(f"left out {count:,} training rows: {reason}")
        for part, count in select_trainable(model, run.trainable).items():
            state.print(f"{count:>13,} parameters {'frozen' if part == 'frozen' else 'train: ' + part}")
        mixture = run.mixture and {task: run.mixture[task] for task in set(encoded["task"]) if task in run.mixture}
        if lost := sorted(set(run.mixture or ()) - set(mixture or ())):
            state.print(f"no training rows of {', '.join(lost)}: their share of the mixture goes to the other tasks")
        selection = score_rows = None
        if run.selects:
            seed = training.seed if training.data_seed is None else training.data_seed
            selection = RowSelection(encoded["task"], run.selects, seed)
            score_rows = row_scorer(run, model, processor, train, encoded)
        trainer = OmniMolTrainer(
            model=model,
            args=training,
            train_dataset=encoded,
            data_collator=TrainingCollator(processor.tokenizer.pad_token_id, processor.graph_features),
            processing_class=processor,
            mixture=mixture,
            selection=selection,
            score=score_rows,
        )
        if selection is not None:
            state.print(
                f"{run.selects.kind} selection of {selection.budget:,} from {len(encoded):,} rows in "
                f"{run.selects.rounds} rounds, {training.max_steps:,} steps"
            )
        checkpoint = last_checkpoint(folder)
        state.print(f"continuing from {checkpoint}" if checkpoint else f"training on {len(encoded):,} rows")
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_whole_model(
            folder / "model", run.model and checkpoint_folder(run.model, "LICEN*", "NOTICE*", "USE*")
        )

    processor = AutoProcessor.from_pretrained(folder / "model")
    test = {task: rows_that_fit(rows, processor, run) for task, rows in test.items()}
    for task in [task for task, rows in test.items() if not rows]:
        state.print(f"no held-out rows of {task} within the limits: it is not scored")
        del test[task]
    answers = answer_test_rows(run, folder / "model", processor, test)
    if state.is_main_process:
        log_history = json.loads((folder / "model" / "training_log.json").read_text())
        report(folder, score(test, answers, train, processor), test, answers, log_history)
        print(closing_words(folder))


if __name__ == "__main__":
    main()
