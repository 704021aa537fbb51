"""What Llama's community licence asks of those who pass on a model made from Llama: its name, its notice, its text."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from transformers.utils import logging

logger = logging.get_logger(__name__)

_LEGAL_FILE = re.compile(r"licen[sc]e|notice|use_policy", re.IGNORECASE)
_AGREEMENT = re.compile(
    r"llama (\d(?:\.\d)?) community license|^license(?:_name)?:\s*['\"]?llama-?(\d(?:\.\d)?)",
    re.IGNORECASE | re.MULTILINE,
)
_NAME = re.compile(r"(?:^|/|--)(?:meta-)?llama-?(\d(?:\.\d)?)(?!\d)", re.IGNORECASE)
_NOTICE = """\
Built with Llama

Llama {0} is licensed under the Llama {0} Community License, Copyright © Meta Platforms, Inc. All Rights Reserved.

Whoever passes this model on, or one made from it, has to add a copy of that licence, keep this notice, show "Built
with Llama" where the model is presented, and give it a name that starts with "Llama".
"""


def llama_version(folder: Path, *names: str) -> str | None:
    """The version of Meta's Llama that a checkpoint is or derives from, such as `"3.2"`; None when nothing says so.

    Evidence, in this order: a licence or notice file that names the "Llama 3.2 Community License"; a model card
    (README.md) that does, or has `license: llama3.2`; a name such as `meta-llama/Llama-3.2-1B` among `names` (hub
    ids, folders). Weights alone tell nothing, and a wrong guess costs only a name.
    """
    texts = [path for path in sorted(folder.iterdir()) if _LEGAL_FILE.match(path.name) or path.name == "README.md"]
    found = [_AGREEMENT.search(path.read_text(encoding="utf-8", errors="replace")) for path in texts]
    found += [_NAME.search(name) for name in names]
    return next((version for match in found if match for version in match.groups() if version), None)


def check_llama_name(version: str | None, name: str) -> None:
    """Raise ValueError for a name that the licence of Llama `version` (None: not a Llama) forbids."""
    if version and not name.startswith("Llama"):
        raise ValueError(
            f"the model is made from Meta's Llama {version}, whose licence wants its name to start with 'Llama': "
            f"for example 'Llama-{name}', not {name!r}"
        )


def copy_legal_files(source: Path, target: Path, version: str | None) -> None:
    """Copy a backbone's licence and notice files; for Llama `version`, add the notice that its licence asks for."""
    legal = [path for path in source.iterdir() if _LEGAL_FILE.match(path.name)]
    for path in legal:
        shutil.copyfile(path, target / path.name)
    if version is None:
        return
    if not any(path.name.lower().startswith("licen") for path in legal):
        logger.warning(f"{source} has no licence file: add Llama {version}'s before passing the model on.")
    with (target / "NOTICE").open("a", encoding="utf-8") as notice:
        notice.write(_NOTICE.format(version))


__all__ = ["check_llama_name", "copy_legal_files", "llama_version"]
