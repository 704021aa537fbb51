"""Push a model and a dataset with the real commands to a Hub on loopback, and load them as a stranger would."""

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file

from dataset_builders.finish import finish
from dataset_builders.folder import REPORT
from dataset_builders.source import NOT_STATED
from tests import tiny
from tests.conftest import ROOT, SHARED

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(SHARED is None, reason="no ../shared with a Hub on loopback"),
]

MODEL, DATASET = "lab/omni-mol-tiny", "lab/omni-mol-starter"
UNLICENSED = "molecular_weight"
QUESTIONS = [
    ("molecular_weight", "CCO"),
    ("retrosynthesis", "c1ccccc1C(=O)NC"),
    ("solvent_prediction", "CCO.CC(=O)O>>CCOC(C)=O"),
]

# On the path of every process below: only loopback can be reached, and whatever else is tried is written down.
GUARD = """
import os, sys
def hook(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        host = args[1][0]
    elif event == "socket.getaddrinfo":
        host = args[0]
    else:
        return
    if host not in ("127.0.0.1", "::1", "localhost", None):
        with open(os.environ["GUARD_LOG"], "a") as log:
            log.write(f"{sys.argv[0]} {event} {host}\\n")
        raise OSError(f"{host} is not loopback")
sys.addaudithook(hook)
"""

LOAD_MODEL = """
import importlib.util, json, re, sys
from safetensors.torch import load_file, save_file
import torch
from huggingface_hub import hf_hub_download
from transformers import AutoModel, AutoModelForCausalLM, AutoProcessor

assert importlib.util.find_spec("omnimol_hf") is None, "the package is installed here"
repo, folder, revisions = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
inputs = load_file(f"{folder}/inputs.safetensors")
torch.set_num_threads(int(sys.argv[4]))
outputs = {}
for revision in revisions:
    for auto in (AutoModel, AutoModelForCausalLM):
        model = auto.from_pretrained(repo, trust_remote_code=True, revision=revision).eval()
        with torch.no_grad():
            outputs[f"{auto.__name__} {revision}"] = model(**inputs).logits
processor = AutoProcessor.from_pretrained(repo, trust_remote_code=True)
chats = [processor.task_messages(task, molecule=molecule) for task, molecule in json.loads(sys.argv[5])]
encoded = processor.apply_chat_template(
    chats, tokenize=True, add_generation_prompt=True, return_dict=True, return_tensors="pt", padding=True,
    padding_side="left",
)
model = AutoModel.from_pretrained(repo, trust_remote_code=True).eval()
outputs["generated"] = model.generate(**encoded, max_new_tokens=8, do_sample=False)
outputs |= {f"input {name}": tensor.contiguous() for name, tensor in encoded.items()}
save_file(outputs, f"{folder}/outputs.safetensors")

readme = open(hf_hub_download(repo, "README.md")).read()
print("=== the card's own lines ===")
exec(re.search(r"```python\\n(.*?)```", readme, re.DOTALL)[1])
print("modules", [name for name in sys.modules if name.split(".")[0] in ("datasets", "peft", "torch_geometric")])
"""

LOAD_DATASET = """
import json, sys
from datasets import get_dataset_config_names, load_dataset

repo, tasks = sys.argv[1], json.loads(sys.argv[2])
found = {"configs": get_dataset_config_names(repo), "all": {}, "streamed": {}, "tasks": {}}
for split, rows in load_dataset(repo).items():
    found["all"][split] = list(rows)
for split, rows in load_dataset(repo, streaming=True).items():
    found["streamed"][split] = list(rows)
for task in tasks:
    found["tasks"][task] = {split: list(rows) for split, rows in load_dataset(repo, task).items()}
found["streamed task"] = list(load_dataset(repo, tasks[0], split="test", streaming=True))
json.dump(found, open(sys.argv[3], "w"))
"""

LOAD_TAGGED = """
import json, sys
from datasets import load_dataset

repo, task = sys.argv[1:3]
found = {revision: list(load_dataset(repo, task, split="train", revision=revision)) for revision in ("v1.0", "main")}
json.dump(found, open(sys.argv[3], "w"))
"""

FETCH = """
import hashlib, sys
from pathlib import Path
from huggingface_hub import DatasetCard
from dataset_builders.download import fetch
from dataset_builders.source import Download
from omnimol_hf.mixture import load_mixture

repo, folder = sys.argv[1], Path(sys.argv[2])
card = DatasetCard.load(repo)
rows = load_mixture(repo, "forward:0.5/logp", proportion=0.4)
print("mixture", sorted((task, list(rows["task"]).count(task)) for task in set(rows["task"])))
wanted = Download("lab/README.md", hub_id=repo, hub_file="README.md", sha256=sys.argv[3])
print(fetch(wanted, folder), fetch(wanted, folder), (folder / "lab" / "README.md").read_text() == str(card))
print("left over", sorted(path.name for path in folder.rglob("*")))
"""


@pytest.fixture(scope="session")
def plain_python() -> Path:
    """The interpreter of an environment that has what the README asks for, and not this package."""
    folder = ROOT / ".venv-plain"
    folder.mkdir(exist_ok=True)
    packages = ["torch", "transformers", "rdkit", "selfies"]
    wanted = hashlib.sha256((ROOT / "constraints.txt").read_bytes() + repr(packages).encode()).hexdigest()
    made = folder / "made-for"
    with FileLock(folder / "lock"):
        if not made.exists() or made.read_text() != wanted:
            install = ["-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", *packages]
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([folder / "bin" / "python", *install], check=True)
            made.write_text(wanted)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A running Hub, and `run(*command)`, which runs a process that can reach nothing else."""
    spec = importlib.util.spec_from_file_location("local_hub", SHARED / "tools" / "local_hub.py")
    local_hub = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(local_hub)
    local_hub.LOCK = threading.RLock()  # with a log, "already exists" is answered under the lock that the log takes
    folder = tmp_path_factory.mktemp("hub")
    (folder / "path").mkdir()
    (folder / "path" / "sitecustomize.py").write_text(GUARD)
    log, blocked = folder / "requests.log", folder / "blocked.log"
    log.touch()
    server = local_hub.serve(folder / "store", log=str(log))
    url = f"http://127.0.0.1:{server.server_port}"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    environment = kept | {
        "HF_ENDPOINT": url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder / "cache"),
        "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # `datasets` counts downloads at a host that is no Hub
        "PYTHONPATH": str(folder / "path"),
        "GUARD_LOG": str(blocked),
    }

    def run(*command, token: str | None = "hf_local") -> subprocess.CompletedProcess:
        variables = environment | ({"HF_TOKEN": token} if token else {})
        return subprocess.run(
            list(map(str, command)), cwd=folder, env=variables, capture_output=True, text=True, timeout=300
        )

    def files(repo: str, revision: str = "main") -> set[str]:
        with urllib.request.urlopen(f"{url}/api/{repo}/tree/{revision}?recursive=true") as answer:
            return {item["path"] for item in json.load(answer) if item["type"] == "file"}

    def get(path: str) -> str:
        with urllib.request.urlopen(f"{url}/{path}") as answer:
            return answer.read().decode()

    def commit(repo: str) -> str | None:
        """The newest commit, as it lies in the store; None without a repository."""
        refs = folder / "store" / repo / "refs.json"
        return json.loads(refs.read_text())["branches"]["main"] if refs.exists() else None

    yield SimpleNamespace(run=run, files=files, get=get, commit=commit, log=log, blocked=blocked, url=url)
    server.shutdown()


def push_model(hub, folder: Path, *options: str, **kwargs) -> subprocess.CompletedProcess:
    script = ROOT / "recipes" / "push_to_hub.py"
    return hub.run(sys.executable, script, "--model", folder, "--repo-id", MODEL, *options, **kwargs)


def success(process: subprocess.CompletedProcess) -> str:
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


@pytest.fixture(scope="module")
def pushed(hub, tmp_path_factory):
    """Two versions of a model, pushed one after the other; the first, in shards, is tagged v0.1."""
    folder = tmp_path_factory.mktemp("model")
    processor = tiny.processor()
    chats = [processor.task_messages(task, molecule=molecule) for task, molecule in QUESTIONS]
    inputs = processor.apply_chat_template(
        chats, tokenize=True, return_dict=True, return_tensors="pt", padding=True, padding_side="left",
        add_generation_prompt=True,
    )  # fmt: skip
    save_file({name: tensor.contiguous() for name, tensor in inputs.items()}, folder / "inputs.safetensors")
    made = SimpleNamespace(folder=folder, processor=processor, inputs=inputs, logits={}, shas={}, stdout={})
    for revision, seed, shard_size, options in (("v0.1", 0, "60KB", ["--tag", "v0.1"]), ("main", 1, "5GB", [])):
        model = tiny.model(seed=seed)
        with torch.no_grad():
            made.logits[revision] = model(**inputs).logits
        target = folder / revision / "model"
        model.save_pretrained(target, max_shard_size=shard_size)
        processor.save_pretrained(target)
        (target / "training_args.bin").write_bytes(b"a pickle")
        (target / "optimizer.pt").write_bytes(b"a pickle")
        made.stdout[revision] = success(push_model(hub, target, *options))
        made.shas[revision] = made.stdout[revision].split("commit ")[1].split()[0]
    made.generated = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    return made


@pytest.fixture(scope="module")
def loaded(hub, pushed, plain_python):
    """What a process without this package got from the Hub."""
    script = pushed.folder / "load.py"
    script.write_text(LOAD_MODEL)
    revisions = json.dumps(["main", "v0.1", pushed.shas["v0.1"]])
    threads = str(torch.get_num_threads())
    command = (plain_python, script, MODEL, pushed.folder, revisions, threads, json.dumps(QUESTIONS))
    stdout = success(hub.run(*command, token=None))
    return SimpleNamespace(stdout=stdout, tensors=load_file(pushed.folder / "outputs.safetensors"))


@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForCausalLM"])
@pytest.mark.parametrize("revision", ["main", "v0.1", "sha"])
def test_logits_are_equal_bit_for_bit_without_the_package(pushed, loaded, auto, revision):
    asked, stored = (pushed.shas["v0.1"], "v0.1") if revision == "sha" else (revision, revision)
    assert torch.equal(loaded.tensors[f"{auto} {asked}"], pushed.logits[stored])
    assert not torch.equal(pushed.logits["main"], pushed.logits["v0.1"])


def test_the_loaded_processor_and_generate_give_the_same_tokens(pushed, loaded):
    for name, tensor in pushed.inputs.items():
        assert torch.equal(loaded.tensors[f"input {name}"], tensor), name
    assert torch.equal(loaded.tensors["generated"], pushed.generated)


def test_the_cards_own_lines_run_and_need_nothing_more(loaded):
    after = loaded.stdout.split("=== the card's own lines ===\n")[1]
    assert after.rstrip().endswith("modules []")
    assert len(after.splitlines()) >= 2  # the answer, and the line above


def test_pickles_stay_at_home_and_the_folder_is_not_changed(hub, pushed):
    assert "not uploaded: optimizer.pt, training_args.bin" in pushed.stdout["main"]
    assert not (pushed.folder / "main" / "model" / "README.md").exists()
    assert not [name for name in hub.files(f"models/{MODEL}") if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_old_shards_go_away_with_the_next_version(hub, pushed):
    weights = {revision: {name for name in hub.files(f"models/{MODEL}", revision) if "safetensors" in name}
               for revision in ("v0.1", "main")}  # fmt: skip
    assert "model.safetensors.index.json" in weights["v0.1"]
    assert len(weights["v0.1"]) > 2
    assert weights["main"] == {"model.safetensors"}


def test_the_command_prints_the_lines_that_load_this_very_commit(pushed):
    for auto in ("AutoModel", "AutoProcessor"):
        line = f'{auto}.from_pretrained("{MODEL}", trust_remote_code=True, revision="{pushed.shas["main"]}")'
        assert line in pushed.stdout["main"]


def test_without_a_token_nothing_is_sent(hub, pushed):
    before = hub.log.read_text()
    process = push_model(hub, pushed.folder / "main" / "model", token=None)
    assert process.returncode == 1
    assert "no access token" in process.stderr
    assert "Traceback" not in process.stderr
    assert hub.log.read_text() == before


def test_a_wrong_token_is_said_to_be_wrong(hub, pushed):
    process = push_model(hub, pushed.folder / "main" / "model", token="hf_wrong")
    assert process.returncode == 1
    assert "the Hub answered 401; is the token right" in process.stderr
    assert "Traceback" not in process.stderr


def parquet_rows(built: Path) -> dict[str, dict[str, list[dict]]]:
    """task -> split -> rows of a built folder."""
    rows: dict = {}
    for file in sorted(built.glob("*/*.parquet")):
        rows.setdefault(file.parent.name, {})[file.name.split("-")[0]] = pq.read_table(file).to_pylist()
    return rows


def build_partly_unlicensed(hub, built: Path) -> None:
    """Builds a small starter dataset, and takes the licence from all rows of one task and half of another's."""
    command = [sys.executable, "-m", "dataset_builders", "build", "--source", "starter", "--limit", "10"]
    success(hub.run(*command, "--num-proc", "1", "--out", built))
    for file in [*(built / UNLICENSED).glob("*"), *(built / "logp").glob("train-*")]:
        rows = pq.read_table(file)
        licenses = [NOT_STATED if i % 2 or UNLICENSED in str(file) else "MIT" for i in range(len(rows))]
        place = rows.schema.get_field_index("license")
        pq.write_table(rows.set_column(place, rows.schema.field(place), [licenses]), file)
    finish(built, json.loads((built / REPORT).read_text()))


@pytest.fixture(scope="module")
def dataset(hub, tmp_path_factory):
    """A dataset built, pushed in several ways and loaded: the rows built, and the rows found."""
    folder = tmp_path_factory.mktemp("data")
    built = folder / "starter"
    build_partly_unlicensed(hub, built)
    made = SimpleNamespace(folder=folder, built=built, rows=parquet_rows(built), said={}, commits={}, logs={})

    def push(name: str, *options: str, **kwargs) -> None:
        before = len(hub.log.read_text())
        command = [sys.executable, "-m", "dataset_builders", "push", "--path", built, "--repo-id", DATASET]
        made.said[name] = hub.run(*command, *options, **kwargs)
        made.logs[name] = hub.log.read_text()[before:]
        made.commits[name] = hub.commit(f"datasets/{DATASET}")

    def load(script: str, *arguments: str):
        (folder / "load.py").write_text(script)
        success(hub.run(sys.executable, folder / "load.py", DATASET, *arguments, folder / "found.json", token=None))
        return json.loads((folder / "found.json").read_text())

    push("wrong token", "--tag", "v1.0", token="hf_wrong")
    push("first", "--tag", "v1.0")
    success(made.said["first"])
    made.readme = hub.get(f"datasets/{DATASET}/resolve/main/README.md")
    made.files = hub.files(f"datasets/{DATASET}")
    made.found = load(LOAD_DATASET, json.dumps(["forward_prediction", "logp"]))
    (folder / "fetch.py").write_text(FETCH)
    digest = hashlib.sha256(made.readme.encode()).hexdigest()
    made.fetched = success(hub.run(sys.executable, folder / "fetch.py", DATASET, folder / "raw", digest, token=None))
    push("again", "--tag", "v1.0")
    push("other files", "--tag", "v1.0", "--include-unlicensed")
    push("wrong token later", "--include-unlicensed", token="hf_wrong")
    push("second", "--include-unlicensed")
    made.tagged = load(LOAD_TAGGED, "logp")
    made.published = {
        task: {split: [row for row in rows if row["license"] != NOT_STATED] for split, rows in splits.items()}
        for task, splits in made.rows.items()
        if task != UNLICENSED
    }
    return made


@pytest.mark.parametrize("how", ["all", "streamed"])
def test_load_dataset_returns_the_rows_built(dataset, how):
    for split in ("train", "test"):
        built = [row for task in sorted(dataset.published) for row in dataset.published[task].get(split, [])]
        found = sorted(dataset.found[how][split], key=lambda row: row["id"])
        assert found == sorted(built, key=lambda row: row["id"])
        assert len(found) > 10


def test_load_dataset_with_a_task_returns_its_rows(dataset):
    assert set(dataset.found["configs"]) == {"unified", *dataset.published}
    for task, splits in dataset.found["tasks"].items():
        assert splits == {split: rows for split, rows in dataset.published[task].items() if rows}
    assert dataset.found["streamed task"] == dataset.published["forward_prediction"]["test"]


def test_rows_without_a_licence_stay_at_home_and_are_named(dataset):
    every = [row for splits in dataset.rows.values() for rows in splits.values() for row in rows]
    lost = Counter(row["source"] for row in every if row["license"] == NOT_STATED)
    for source, count in lost.items():
        assert f"not published: {count} rows of {source}, which states no licence" in dataset.said["first"].stdout
    assert "not published" not in dataset.said["second"].stdout
    assert not [name for name in dataset.files if name.startswith(UNLICENSED)]
    assert list(dataset.folder.glob(".*")) == []  # the copy that was made aside


def test_a_tag_loads_what_was_pushed_under_it(dataset):
    assert dataset.tagged["v1.0"] == dataset.published["logp"]["train"]
    assert dataset.tagged["main"] == dataset.rows["logp"]["train"]
    assert len(dataset.tagged["v1.0"]) < len(dataset.tagged["main"])
    assert dataset.commits["first"] != dataset.commits["second"]


def test_a_tag_that_is_there_is_never_moved(dataset):
    assert dataset.said["again"].returncode == 0
    assert "holds these very files under the tag v1.0 already; nothing was uploaded" in dataset.said["again"].stdout
    refused = dataset.said["other files"]
    assert refused.returncode == 1
    said = f"error: {DATASET} has the tag v1.0 on commit {dataset.commits['first'][:8]}, which holds other files"
    assert refused.stderr.splitlines()[-1].startswith(said)
    assert dataset.commits["first"] == dataset.commits["again"] == dataset.commits["other files"]


@pytest.mark.parametrize(("when", "before"), [("wrong token", None), ("wrong token later", "other files")])
def test_a_wrong_token_is_refused_with_nothing_half_pushed(dataset, when, before):
    process = dataset.said[when]
    assert process.returncode == 1
    assert process.stderr.splitlines()[-1] == "error: the Hub does not accept the access token (401)"
    assert "Traceback" not in process.stderr
    assert dataset.commits[when] == (dataset.commits[before] if before else None)
    assert "GET /api/whoami-v2 401" in dataset.logs[when]
    assert not re.search("POST|PUT|DELETE", dataset.logs[when])


def test_a_push_is_one_commit(dataset):
    for name in ("first", "second"):
        assert success(dataset.said[name])
        assert dataset.logs[name].count(f"POST /api/datasets/{DATASET}/commit/main 200") == 1
    assert dataset.logs["first"].count(f"POST /api/datasets/{DATASET}/tag/") == 1


def test_the_card_is_there_with_its_pictures(dataset):
    assert dataset.readme.startswith("---\n")
    pictures = set(re.findall(r"!\[[^]]*\]\(([^)]+)\)", dataset.readme))
    assert pictures
    assert pictures <= dataset.files
    assert {"README.md", "build_report.json", "SHA256SUMS"} <= dataset.files


def test_files_and_mixtures_come_from_the_hub(dataset):
    wanted = [("forward_prediction", 0.2), ("logp", 0.4)]
    counts = [(task, round(share * len(dataset.published[task]["train"]))) for task, share in wanted]
    lines = dataset.fetched.splitlines()
    assert f"mixture {counts}" in lines
    assert "fetched there True" in lines
    assert "left over ['README.md', 'lab']" in lines


def test_nothing_but_loopback_was_contacted(hub, loaded, dataset):
    # `datasets` asks for the viewer's copy at a name that it makes from the Hub's.
    others = hub.blocked.read_text().splitlines() if hub.blocked.exists() else []
    assert [line for line in others if not line.endswith("getaddrinfo datasets-server.127.0.0.1")] == []
    assert f"/{MODEL}/resolve/" in hub.log.read_text()
    assert f"/{DATASET}/resolve/" in hub.log.read_text()
