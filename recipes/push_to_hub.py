"""Publish a saved Omni-Mol model on the Hub: weights, code, processor, and a card with the scores measured on it.

    python recipes/push_to_hub.py --model outputs/quickstart/model --repo-id ORG/NAME [--private] [--tag v0.1]

Everything is one commit. Only safetensors weights, JSON, Jinja and the model's own Python files are uploaded; whatever
else lies in the folder, pickles among it, stays at home and is named. The folder itself is not changed. The scores and
settings of the training run are taken from beside the folder (`results.json`, `run.yaml`) unless they are given.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HTTPError, StrictDataclassError
from huggingface_hub.utils import validate_repo_id
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from model_cards.render import derived_llama, loading_lines, model_card
from omnimol_hf.llama_licence import check_llama_name
from omnimol_hf.stored_weights import stored_tensors

PUBLISHED = [
    SAFE_WEIGHTS_NAME,
    "model-*.safetensors",
    SAFE_WEIGHTS_INDEX_NAME,
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "tokenizer*.json",
    "chat_template.jinja",
    "*_omnimol.py",
    "training_log.json",
    "LICEN[SC]E*",
    "NOTICE*",
    "USE_POLICY*",
]
NEEDED = ("processor_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def check_checkpoint(folder: Path) -> None:
    """Make sure that a folder is a whole Omni-Mol checkpoint that loads without the package; weights stay unread.

    Raises:
        ValueError: naming what is missing or wrong.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} is not a checkpoint, its config.json cannot be read: {error}") from error
    if config.get("model_type") != "omnimol":
        raise ValueError(f"{folder} holds a model of type {config.get('model_type')!r}; expected 'omnimol'")
    code = {f"{target.split('.')[0]}.py" for target in config.get("auto_map", {}).values()}
    if not code:
        raise ValueError(f"{folder}/config.json has no auto_map: save the model with its save_pretrained")
    for name in NEEDED:
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}: save the processor into it with processor.save_pretrained")
    checked: set[str] = set()
    while waiting := code - checked:
        name = waiting.pop()
        if not (folder / name).is_file():
            raise ValueError(f"{folder} lacks {name}, a file of the model's code: save the model again")
        source = (folder / name).read_text(encoding="utf-8")
        code |= {f"{sibling}.py" for sibling in re.findall(r"^from \.(\w+) import", source, re.MULTILINE)}
        checked.add(name)
    stored_tensors(folder)


def check_licence(folder: Path, run_settings: Path | None, repo_id: str) -> None:
    """What Llama's licence asks of a model made from Llama; nothing for others.

    Raises:
        ValueError: for a name that does not start with "Llama", or a missing licence text or notice.
    """
    version = derived_llama(folder, run_settings)
    check_llama_name(version, repo_id.split("/")[-1])
    for pattern in ("LICEN[SC]E*", "NOTICE*") if version else ():
        if not any(folder.glob(pattern)):
            raise ValueError(
                f"{folder} derives from Meta's Llama {version} but holds no file {pattern}: copy the licence text and "
                "the notice that came with the backbone into it"
            )


def push(
    model: Path,
    repo_id: str,
    results: Path | None = None,
    run_settings: Path | None = None,
    *,
    private: bool = False,
    tag: str | None = None,
    token: str | None = None,
) -> tuple[str, str]:
    """Upload a checkpoint with its card as one commit.

    Weights and code that an earlier version left in the repository go away in the same commit: `from_pretrained` would
    otherwise prefer an old single file to new shards.

    Returns:
        The repository's URL and the commit's hash.

    Raises:
        ValueError: if the folder is not a whole checkpoint, or the name is not allowed; nothing is uploaded then.
    """
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"--repo-id is {repo_id!r}; expected ORG/NAME")
    check_checkpoint(model)
    check_licence(model, run_settings, repo_id)
    card = model_card(model, results, run_settings, repo_id, revision=tag or "main")
    files = [path for path in sorted(model.iterdir()) if any(fnmatch(path.name, pattern) for pattern in PUBLISHED)]
    if left_out := sorted(path.name for path in model.iterdir() if path not in files):
        print(f"not uploaded: {', '.join(left_out)}")
    api = HfApi(token=token)
    with tempfile.TemporaryDirectory() as staging:
        for path in files:
            (Path(staging) / path.name).symlink_to(path.resolve())
        card.save(Path(staging) / "README.md")
        url = api.create_repo(repo_id, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=staging,
            delete_patterns=["*.safetensors", SAFE_WEIGHTS_INDEX_NAME, "*_omnimol.py"],
            commit_message=f"Omni-Mol model {tag or ''}".strip(),
        )
    if tag:
        api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return str(url), commit.oid


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="a saved model with its processor")
    parser.add_argument("--repo-id", required=True, metavar="ORG/NAME")
    parser.add_argument("--results", type=Path, metavar="FILE", help="default: results.json beside DIR, if there")
    parser.add_argument("--run-settings", type=Path, metavar="FILE", help="default: run.yaml beside DIR, if there")
    parser.add_argument("--private", action="store_true", help="create the repository as private")
    parser.add_argument("--tag", help="also tag the commit, for example v0.1")
    parser.add_argument("--token", help="access token; default: the one you are logged in with")
    options = parser.parse_args()
    for key, name in (("results", "results.json"), ("run_settings", "run.yaml")):
        beside = options.model.resolve().parent / name
        if getattr(options, key) is None and beside.is_file():
            print(f"the card uses {beside}")
            setattr(options, key, beside)
    if not (options.token or get_token()):
        parser.exit(1, "error: no access token: run `hf auth login`, or set HF_TOKEN, or pass --token\n")
    try:
        url, sha = push(**vars(options))
    except HfHubHTTPError as error:
        status = error.response.status_code
        hint = "; is the token right, and may it write there?" if status in (401, 403) else ""
        parser.exit(1, f"error: the Hub answered {status}{hint}\n{error}\n")
    except (ValueError, OSError, HTTPError, StrictDataclassError) as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{url}\ncommit {sha}\n\n{loading_lines(options.repo_id, sha)}")


if __name__ == "__main__":
    main()
