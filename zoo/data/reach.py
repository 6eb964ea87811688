"""What the rows of a dataset may have us open.

A row can hold the bytes of a video, or only name it. A dataset of unknown origin could name any file on
this machine or address in its network, so a name is followed only inside of where the dataset came from.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.data.container import VideoSource, first_line
from zoo.data.limits import Limits
from zoo.errors import DataError

_ARCHIVES = frozenset({"zip", "tar", "gzip", "bz2", "xz", "zstd", "lz4"})
_LIMITS = Limits()


@dataclass(frozen=True)
class Reach:
    """What rows may name.

    Attributes:
        folders: A path counts from the first and must lie in one of them, links followed. None: any file,
            for objects that the caller made in Python.
        hub: Whether they may name files on the Hub (``hf://``, also inside an archive there).
    """

    folders: tuple[Path, ...] | None
    hub: bool

    @classmethod
    def of_path(cls, path: Path) -> Reach:
        """Of a saved folder or parquet: what lies in the same folder."""
        return cls((path if path.is_dir() else path.parent,), hub=False)

    @classmethod
    def of_hub(cls) -> Reach:
        """Of a dataset from the Hub: the Hub, and what was downloaded from it."""
        config = importlib.import_module("datasets").config
        hub = importlib.import_module("huggingface_hub.constants")
        caches = (hub.HF_HUB_CACHE, config.DOWNLOADED_DATASETS_PATH, config.EXTRACTED_DATASETS_PATH)
        return cls(tuple(map(Path, caches)), hub=True)

    @classmethod
    def of_object(cls) -> Reach:
        """Of a `datasets` object: any file, since its maker could open it anyway; no other addresses."""
        return cls(None, hub=True)

    def path(self, name: str) -> str:
        """Return the path of a file that a row names.

        Raises:
            DataError: It is out of reach.
        """
        if self.folders is None:
            return name
        try:
            path = Path(self.folders[0], name).resolve()
            inside = any(path.is_relative_to(folder.resolve()) for folder in self.folders)
        except (OSError, RuntimeError, ValueError):
            inside = False
        if not inside:
            raise DataError(
                f"{name!r}: the row names a file outside of {self.folders[0]}, which is not opened; put the "
                "videos into that folder, or their bytes into the rows"
            )
        return str(path)

    def fetch(self, url: str, *, limits: Limits = _LIMITS) -> bytes:
        """Return the content of an address that a row names.

        Raises:
            DataError: It is out of reach, larger than `limits.max_bytes`, or cannot be fetched.
        """
        *wrappers, place = url.split("::")
        archives = all(wrapper.partition("://")[0] in _ARCHIVES for wrapper in wrappers)
        if not (self.hub and archives and place.startswith("hf://")):
            what = "only hf:// is" if self.hub else "only files beside it are"
            raise DataError(f"{url!r}: the row names an address that is not opened ({what})")
        try:
            with importlib.import_module("fsspec").open(url, "rb") as file:
                content = bytes(file.read(limits.max_bytes + 1))
        except Exception as error:
            raise DataError(f"{url}: cannot be fetched ({first_line(error)})") from None
        if len(content) > limits.max_bytes:
            raise DataError(f"{url}: more than the {limits.max_bytes} bytes allowed")
        return content

    def content(self, value: Any) -> VideoSource:
        """Path or bytes behind what a video column holds.

        Raises:
            DataError: It holds nothing, or names what is out of reach or cannot be fetched.
        """
        if isinstance(value, dict):
            value = value.get("bytes") or value.get("path")
        if isinstance(value, bytes | bytearray | memoryview):
            return bytes(value)
        if not isinstance(value, str) or not value:
            raise DataError(f"the row holds no video ({type(value).__name__})")
        return self.fetch(value) if "://" in value else self.path(value)
