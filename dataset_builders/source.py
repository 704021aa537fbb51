"""What is known of a source: where it comes from, its terms, its files, and what it is good for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

NOT_STATED = "not stated"
"""The licence of a source that states none: such rows stay out of what is pushed unless asked for."""


@dataclass(frozen=True)
class Download:
    """One file that may be fetched.

    Attributes:
        path: Where it goes, relative to the folder of raw data (`chebi_20/train.txt`).
        url: Where it lies; empty for a file on the Hub.
        hub_id: Dataset repository on the Hub, with `hub_file` and `revision`.
        sha256: The expected checksum, where known.
    """

    path: str
    url: str = ""
    hub_id: str = ""
    hub_file: str = ""
    revision: str = "main"
    sha256: str = ""


@dataclass(frozen=True)
class Source:
    """A publisher's data set.

    Attributes:
        name: Its id: the module's name, the folder in the raw data, the `--source` value.
        title: Its name in words; the `source` column of its rows.
        license: SPDX name or words; `NOT_STATED` if the publisher states none.
        files: Glob patterns, relative to the source's folder, of the files that the reader takes.
        tasks: Task -> what the label is, in words, with its unit (for the card).
        paper_sizes: Task -> split -> rows that the paper took from this source.
        downloads: What `download` fetches; empty where terms or size speak against it, see `how_to_get`.
        how_to_get: For people: how to get the files when there is nothing to download.
        left_out: What of the source is not used, and why.
    """

    name: str
    title: str
    home: str
    license: str
    citation: str
    files: tuple[str, ...]
    tasks: Mapping[str, str]
    paper_sizes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    downloads: tuple[Download, ...] = ()
    how_to_get: str = ""
    left_out: str = ""
    notes: str = ""

    def present(self, raw: Path) -> list[Path]:
        """The source's files that lie in `raw`, in the order in which they are read."""
        folder = raw / self.name
        return [path for pattern in self.files for path in sorted(folder.glob(pattern)) if path.is_file()]
