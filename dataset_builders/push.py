"""Publishes a built dataset on the Hub."""

from pathlib import Path

from huggingface_hub import HfApi, get_token

from dataset_builders.folder import read_report


def push(path: Path, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Uploads the folder as one commit and returns the dataset's URL.

    Parquet files that an earlier version left in the repository go away in the same commit: the configs' patterns
    would otherwise read them along.

    Raises:
        ValueError: if `path` is not a built dataset, its files have changed since it was built, or there is no token.
    """
    report = read_report(path)
    if not (token or get_token()):
        raise ValueError("no access token: log in with `hf auth login`, set HF_TOKEN, or give --token")
    api = HfApi(token=token)
    url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    api.upload_folder(
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=path,
        delete_patterns=["*/*.parquet"],
        commit_message=f"Omni-Mol Instruct, {report['name']} version {report['version']}",
    )
    return str(url)
