"""The clips that ship inside the package, free to redistribute: see LICENSES.md beside them."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from zoo.errors import DataError


def demo_clips() -> Path:
    """Return the folder of the shipped clips; its train and test folders are the splits.

    Raises:
        DataError: The package was installed without them, or lies in a zip file.
    """
    folder = Path(str(files("zoo") / "assets" / "clips"))
    if not folder.is_dir():
        raise DataError(
            f"the demo clips are not in this installation ({folder}); install the wheel or the sources"
        )
    return folder
