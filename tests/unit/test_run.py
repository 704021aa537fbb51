"""Settings of a run: YAML, command line, and what an output folder holds already."""

import pytest
import torch
import yaml

from omnimol_hf.run import compare_with_folder, parse_run, use_all_cores


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
