"""Publishes a built dataset on the Hub."""

from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from huggingface_hub import HfApi, get_token, hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError
from huggingface_hub.utils import validate_repo_id

from dataset_builders.folder import MANIFEST, read_report
from dataset_builders.licences import count_unlicensed, licensed_copy


def push(
    path: Path,
    repo_id: str,
    private: bool = False,
    token: str | None = None,
    tag: str | None = None,
    include_unlicensed: bool = False,
) -> str:
    """Uploads a dataset as one commit, tags it, and returns the dataset's URL.

    Files that an earlier version left in the repository go away in the same commit: the configs' patterns would
    otherwise read its shards along. Rows of sources that state no licence are left out, and named.

    Args:
        path: a folder that `build` wrote.
        repo_id: `ORG/NAME`; created if it does not exist.
        private: whether a repository that is created is private.
        token: default: the one of `hf auth login` or `HF_TOKEN`.
        tag: a name for this commit. A tag that is there is never moved.
        include_unlicensed: publish rows without a stated licence, too.

    Raises:
        ValueError: if `path` is not a built dataset or its files have changed since it was built, the token is
            missing or refused, or the tag is another version's. Nothing has been uploaded or created then.
        HfHubHTTPError: if the Hub refuses the upload.
    """
    path = Path(path)
    report = read_report(path)
    validate_repo_id(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"the repository is {repo_id!r}; expected ORG/NAME")
    api = _logged_in(token)
    with TemporaryDirectory(prefix=f".{path.resolve().name}.", dir=path.resolve().parent) as aside:
        folder = path
        if not include_unlicensed and (unlicensed := count_unlicensed(path)):
            folder = Path(aside)
            licensed_copy(path, folder, report, unlicensed)
            _tell(unlicensed)
        if tag and (commit := _tagged(api, repo_id, tag)):
            if _manifest(api, repo_id, commit) != (folder / MANIFEST).read_text():
                raise ValueError(
                    f"{repo_id} has the tag {tag} on commit {commit[:8]}, which holds other files than these; choose "
                    "another tag. Nothing was uploaded."
                )
            print(f"{repo_id} holds these very files under the tag {tag} already; nothing was uploaded")
            return f"{api.endpoint}/datasets/{repo_id}"
        url = api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        uploaded = api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=folder,
            delete_patterns=["*/*.parquet", "figures/*"],
            commit_message=f"Omni-Mol Instruct, {report['name']} version {report['version']}",
        )
        if tag:
            api.create_tag(repo_id, tag=tag, revision=uploaded.oid, repo_type="dataset")
    return str(url)


def _logged_in(token: str | None) -> HfApi:
    if not (token or get_token()):
        raise ValueError("no access token: log in with `hf auth login`, set HF_TOKEN, or give --token")
    api = HfApi(token=token)
    try:
        api.whoami()
    except HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            raise ValueError(f"the Hub does not accept the access token ({error.response.status_code})") from error
        raise
    return api


def _tagged(api: HfApi, repo_id: str, tag: str) -> str | None:
    """The commit that a tag stands for; None if there is no such tag, or no such repository yet."""
    if not api.repo_exists(repo_id, repo_type="dataset"):
        return None
    tags = api.list_repo_refs(repo_id, repo_type="dataset").tags
    return next((ref.target_commit for ref in tags if ref.name == tag), None)


def _manifest(api: HfApi, repo_id: str, commit: str) -> str | None:
    """The checksums of all files of a commit, as `build` wrote them; None if it wrote none."""
    try:
        file = hf_hub_download(repo_id, MANIFEST, repo_type="dataset", revision=commit, token=api.token)
    except EntryNotFoundError:
        return None
    return Path(file).read_text()


def _tell(unlicensed: dict[tuple[str, str, str], int]) -> None:
    rows: Counter = Counter()
    for (_, _, source), count in unlicensed.items():
        rows[source] += count
    for source, count in sorted(rows.items()):
        print(f"not published: {count:,} rows of {source}, which states no licence (--include-unlicensed adds them)")
