"""The file of answers: continued after a kill to the same bytes, and refused when it is another's."""

import json
from collections.abc import Iterator

import pytest

from omnimol_hf.predictions import answer_to_file, fingerprint, read_predictions

ROWS = [
    {"task": "logp", "id": f"row-{i}", "instruction": "?", "input": "[C]" * (i + 1), "output": str(i), "subset": "",
     "graph_smiles": ["C" * (i + 1)]}
    for i in range(10)
]  # fmt: skip
BATCHES = [[9, 8, 7], [6, 5, 4], [3, 2, 1], [0]]
ABOUT = {"dataset": "here", "model": "there", "weights": "abc", "generation": {"num_beams": 1}}


class Model:
    """Counts the rows that it answers, and may be killed before one of its batches."""

    def __init__(self, killed_before: int | None = None) -> None:
        self.killed_before, self.asked = killed_before, []

    def __call__(self, batches) -> Iterator[list[tuple[int, dict]]]:
        for number, batch in enumerate(batches):
            if number == self.killed_before:
                raise KeyboardInterrupt
            self.asked += batch
            yield [(i, {"answer": f"ü{i}", "ended": True, "tokens": 3, "logprob": -i / 8}) for i in batch]


@pytest.fixture
def whole(tmp_path) -> bytes:
    assert answer_to_file(tmp_path / "whole" / "predictions.jsonl", ABOUT, ROWS, BATCHES, Model()) == 10
    return (tmp_path / "whole" / "predictions.jsonl").read_bytes()


def test_file_holds_rows_and_answers_in_order(tmp_path, whole):
    lines = [json.loads(line) for line in whole.decode().splitlines()]
    assert [line["row"] for line in lines] == list(range(10))
    (run,) = {line["run"] for line in lines}
    assert lines[2] == {"row": 2, **ROWS[2], "answer": "ü2", "ended": True, "tokens": 3, "logprob": -0.25, "run": run}
    assert json.loads((tmp_path / "whole" / "predictions.about.json").read_text()) == ABOUT


@pytest.mark.parametrize("killed_before", range(4))
@pytest.mark.parametrize("torn_at", [None, 5, 120])
def test_killed_run_goes_on_to_the_same_file(tmp_path, whole, killed_before, torn_at):
    path = tmp_path / "predictions.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer_to_file(path, ABOUT, ROWS, BATCHES, Model(killed_before))
    assert not path.exists()
    parts = tmp_path / ".predictions.unfinished"
    if torn_at is not None:  # killed in the middle of writing the next batch
        with (parts / "process-0.jsonl").open("ab") as file:
            rest = "".join(json.dumps({"row": i, **ROWS[i], "answer": f"ü{i}"}, ensure_ascii=False) + "\n"
                           for i in BATCHES[killed_before])  # fmt: skip
            file.write(rest.encode()[:torn_at])
    model = Model()
    assert answer_to_file(path, ABOUT, ROWS, BATCHES, model) == len(model.asked)
    assert model.asked == [i for batch in BATCHES[killed_before:] for i in batch]
    assert path.read_bytes() == whole
    assert sorted(one.name for one in tmp_path.iterdir()) == ["predictions.about.json", "predictions.jsonl", "whole"]


def test_finished_file_is_left_alone(tmp_path, whole):
    path = tmp_path / "whole" / "predictions.jsonl"
    assert answer_to_file(path, ABOUT | {"model": "the same elsewhere"}, ROWS, BATCHES, Model(0)) == 0
    assert path.read_bytes() == whole


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "def"}, "weights: 'abc' there, 'def' now"),
        ({"generation": {"num_beams": 3}}, "num_beams"),
        ({"fingerprint": "1234"}, "fingerprint: 'not set' there, '1234' now"),
    ],
)
def test_answers_of_another_run_are_refused(tmp_path, finished, change, message):
    path = tmp_path / "predictions.jsonl"
    if finished:
        answer_to_file(path, ABOUT, ROWS, BATCHES, Model())
    else:
        with pytest.raises(KeyboardInterrupt):
            answer_to_file(path, ABOUT, ROWS, BATCHES, Model(1))
    with pytest.raises(ValueError, match=message):
        answer_to_file(path, ABOUT | change, ROWS, BATCHES, Model())


def spoil(whole: bytes, change) -> str:
    lines = whole.decode().splitlines()
    change(lines)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines.pop(3), r"lacks 1 of 10 rows, the first is row 3 \(logp, row-3\)"),
        (lambda lines: lines.append(lines[1]), r"answers 1 rows more than once, the first is row 1 \(logp, row-1\)"),
        (lambda lines: lines.insert(0, lines.pop(2)), "out of order: row 2 stands in the place of row 0"),
        (lambda lines: lines.append(lines[1].replace('"row": 1', '"row": 77')), "a line for row 77; .* rows 0 to 9"),
        (lambda lines: lines.__setitem__(4, lines[4].replace('"output": "4"', '"output": "5"')),
         r"row 4 \(logp, row-4\) has output '5' there and '4' in the dataset"),
        (lambda lines: lines.__setitem__(5, lines[5][:-3]), "line 6: not JSON"),
        (lambda lines: lines.__setitem__(7, lines[7].replace('"run": "', '"run": "0')),
         "has 1 rows of another run, the first is row 7"),
    ],
)  # fmt: skip
def test_spoilt_files_are_refused(tmp_path, whole, change, message):
    path = tmp_path / "whole" / "predictions.jsonl"
    path.write_text(spoil(whole, change))
    with pytest.raises(ValueError, match=message):
        read_predictions(path, ROWS, ABOUT)


def test_a_file_must_say_what_it_is_about(tmp_path, whole):
    path = tmp_path / "other.jsonl"
    path.write_bytes(whole)
    assert len(read_predictions(path, ROWS)) == 10
    with pytest.raises(ValueError, match=r"there is no other\.about\.json beside it"):
        read_predictions(path, ROWS, ABOUT)


def test_fingerprint_sees_what_is_asked_and_expected():
    assert fingerprint(ROWS) == fingerprint([dict(row) for row in ROWS])
    others = [fingerprint([ROWS[0] | {key: "other"}, *ROWS[1:]]) for key in ("id", "input", "output", "instruction")]
    assert len({fingerprint(ROWS), fingerprint(ROWS[::-1]), fingerprint(ROWS[1:]), *others}) == 7
