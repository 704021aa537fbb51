"""Settings of a run: YAML, command line, and what an output folder holds already."""

import pytest
import torch
import yaml

from omnimol_hf.run import compare_with_folder, keep_settings, open_run, parse_run, use_all_cores
from tests.conftest import ROOT


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        yaml.safe_dump({"model": "somewhere", "max_steps": 7, "learning_rate": "1e-4", "mixture": {"logp": 1}})
    )
    return path


def test_command_line_wins_over_yaml(config, tmp_path):
    run, training, settings = parse_run(
        ["--config", str(config), "--max_steps", "40", "--output_dir", str(tmp_path / "out"), "--eval_rows", "3"]
    )
    assert (training.max_steps, training.learning_rate, run.eval_rows) == (40, 1e-4, 3)
    assert run.mixture == {"logp": 1}
    assert settings == {
        "model": "somewhere",
        "max_steps": 40,
        "learning_rate": 1e-4,
        "mixture": {"logp": 1},
        "eval_rows": 3,
    }


def test_dicts_can_be_given_as_json(config):
    run, _, _ = parse_run(["--config", str(config), "--mixture", '{"tpsa": 2}'])
    assert run.mixture == {"tpsa": 2}
    assert parse_run(["--config", str(config), "--mixture", "null"])[0].mixture is None


@pytest.mark.parametrize("key", ["max_stepz", "max_step", "learning-rat"])
def test_unknown_key_on_the_command_line(config, key):
    with pytest.raises(SystemExit, match=r"unknown setting .* did you mean '(max_steps|learning_rate)'"):
        parse_run(["--config", str(config), f"--{key}", "4"])


def test_unknown_key_in_the_yaml(config):
    config.write_text("model: x\nlearning_ratio: 1\n")
    with pytest.raises(SystemExit, match=rf"{config.name} has an unknown setting 'learning_ratio'"):
        parse_run(["--config", str(config)])


def test_impossible_settings(config, tmp_path):
    with pytest.raises(SystemExit, match="exactly one of 'model'"):
        parse_run(["--config", str(config), "--new_model", "{}"])
    with pytest.raises(SystemExit, match="eval_rows is 0"):
        parse_run(["--config", str(config), "--eval_rows", "0"])
    with pytest.raises(SystemExit, match=r"cannot read the settings .*gone\.yaml"):
        parse_run(["--config", str(tmp_path / "gone.yaml")])


def test_a_folder_keeps_its_settings(tmp_path):
    compare_with_folder(tmp_path / "out", {"max_steps": 4, "mixture": {"logp": 0.5}})
    keep_settings(tmp_path / "out", {"max_steps": 4, "mixture": {"logp": 0.5}})
    compare_with_folder(tmp_path / "out", {"max_steps": 4, "mixture": {"logp": 0.5}})
    with pytest.raises(SystemExit, match=r"max_steps: 4 there, 5 now"):
        compare_with_folder(tmp_path / "out", {"max_steps": 5, "mixture": {"logp": 0.5}})
    with pytest.raises(SystemExit, match=r"seed: 'not set' there, 1 now"):
        compare_with_folder(tmp_path / "out", {"max_steps": 4, "mixture": {"logp": 0.5}, "seed": 1})


def test_cores_are_shared_unless_the_user_chose(monkeypatch):
    threads = torch.get_num_threads()
    try:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
        monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what accelerate launch sets
        assert use_all_cores(2) == 4
        torch.set_num_threads(3)
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        assert use_all_cores(2) == 3
    finally:
        torch.set_num_threads(threads)


def test_later_files_lie_over_earlier_ones(tmp_path):
    (tmp_path / "a.yaml").write_text("model: x\nseed: 3\nselection: {kind: active, budget: 9, rounds: 3}\n")
    (tmp_path / "b.yaml").write_text("seed: 4\nselection: {kind: random}\n")
    run, training, settings = parse_run(["--config", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")])
    assert run.selection == {"kind": "random", "budget": 9, "rounds": 3}
    assert training.seed == 4
    assert settings["selection"] == run.selection
    (tmp_path / "b.yaml").write_text("selection: null\nnum_train_epochs: 2\n")
    assert parse_run(["--config", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")])[0].selection is None
    (tmp_path / "b.yaml").write_text("- a list\n")
    with pytest.raises(SystemExit, match=r"b\.yaml are a list; expected 'name: value' lines"):
        parse_run(["--config", str(tmp_path / "a.yaml"), str(tmp_path / "b.yaml")])
    (tmp_path / "b.yaml").write_text("a: [1\n")
    with pytest.raises(SystemExit, match=r"b\.yaml are not YAML"):
        parse_run(["--config", str(tmp_path / "b.yaml")])


def test_global_batch_size_sets_the_accumulation(config):
    words = ["--config", str(config), "--per_device_train_batch_size", "4", "--use_cpu", "true"]
    assert parse_run([*words, "--global_batch_size", "32"])[1].gradient_accumulation_steps == 8
    with pytest.raises(SystemExit, match=r"global_batch_size is 30; expected a multiple of the 4 rows"):
        parse_run([*words, "--global_batch_size", "30"])


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["--mixture", '{"logq": 1}'], r"mixture has an unknown task 'logq'; did you mean 'logp'"),
        (["--tasks", "logq"], "names no task"),
        (["--adapter", "{}", "--trainable", "router"], "'adapter' or 'trainable', not both"),
        (["--upcycle", "{}"], "'upcycle' says what becomes of a 'backbone', and there is none"),
        (["--validation", "1.5"], r"validation is 1\.5; expected a share"),
        (["--patience", "3"], "'patience' counts evaluations of the validation loss"),
        (["--adapter", "{r: 4"], r"adapter is .*; expected names and values"),
    ],
)
def test_settings_that_cannot_be(config, settings, problem):
    with pytest.raises(SystemExit, match=problem):
        parse_run(["--config", str(config), *settings])


def test_sharded_parameters_are_refused(config, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(SystemExit, match=r"FSDP is not supported.*zero2\.yaml"):
        parse_run(["--config", str(config)])
    monkeypatch.delenv("ACCELERATE_USE_FSDP")
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(SystemExit, match=r"ZeRO-3 is not supported.*zero2\.yaml"):
        parse_run(["--config", str(config), "--use_cpu", "true"])


def test_a_validation_share_chooses_the_checkpoint(config):
    _, training, _ = parse_run(["--config", str(config), "--validation", "0.1", "--save_steps", "7"])
    assert (training.eval_strategy, training.eval_steps) == ("steps", 7)
    assert training.load_best_model_at_end
    assert training.metric_for_best_model == "eval_loss"


def test_a_run_that_cannot_begin_leaves_no_settings(config, tmp_path):
    _, training, settings = parse_run(["--config", str(config), "--output_dir", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="this run cannot begin: no rows"), open_run(training, settings):
        raise ValueError("no rows")
    assert not (tmp_path / "out").exists()
    with open_run(training, settings) as folder:
        pass
    assert yaml.safe_load((folder / "run.yaml").read_text())["processes"] == 1


CONFIGS = ROOT / "recipes" / "configs"
OVERLAYS = [*sorted((CONFIGS / "ablations").glob("*.yaml")), CONFIGS / "released.yaml", CONFIGS / "llama3.2_3b.yaml",
            CONFIGS / "llama3.1_8b.yaml", CONFIGS / "all_data.yaml", CONFIGS / "separate.yaml"]  # fmt: skip


@pytest.mark.parametrize(
    "path", sorted(CONFIGS.glob("*_cpu.yaml")) + sorted(CONFIGS.glob("quickstart*.yaml")), ids=str
)
def test_shipped_configurations_are_read(path):
    assert parse_run(["--config", str(path)])[1].output_dir == f"outputs/{path.stem}"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.stem)
def test_shipped_overlays_are_read(overlay):
    """Over the paper's configuration; what asks for a GPU is switched off."""
    words = [
        "--config",
        str(CONFIGS / "unified_llama3.2_1b.yaml"),
        str(overlay),
        "--bf16",
        "false",
        "--use_cpu",
        "true",
    ]
    run, training, _ = parse_run(words)
    assert training.train_batch_size * training.gradient_accumulation_steps == 32
    assert training.learning_rate == 8e-5
    assert run.adapter["lora_dropout"] == 0.05
    read = yaml.safe_load(overlay.read_text())
    assert all(getattr(run, key, getattr(training, key, None)) is not None or read[key] is None for key in read)


def test_table_4():
    run, training, _ = parse_run(
        ["--config", str(CONFIGS / "unified_llama3.2_1b.yaml"), str(CONFIGS / "separate.yaml"), "--bf16", "false"]
    )
    assert (training.num_train_epochs, run.stop_epoch, training.lr_scheduler_type) == (15, 10, "cosine")
    assert training.get_warmup_steps(10_000) == 75
    assert (training.weight_decay, training.seed, run.global_batch_size) == (0, 0, 32)
