"""The folder that is written: whose it is, what is done in it and what is still to do.

What is done is what the finished shards say; there is no other record of progress. So a kill at any moment
loses the shards under way and nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from zoo.errors import DataError, OutputExistsError
from zoo.tokens.making import Job
from zoo.tokens.metadata import (
    FILE,
    SHARDS,
    Metadata,
    Settings,
    SplitResult,
    describe,
    differences,
    read_metadata,
    write_metadata,
)
from zoo.tokens.shards import read_footer

MAX_BAD = 0.5
"""Share of bad videos at which a split is refused."""


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder, so that no second run works in it."""
    from filelock import FileLock, Timeout

    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{folder} is a file; give the name of a folder")
    if folder.is_dir() and not (folder / FILE).exists():
        foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if foreign:
            raise OutputExistsError(
                f"{folder} holds {foreign[0]} and is no folder of tokens; give the name of a new folder"
            )
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise OutputExistsError(
            f"another zoo tokenize is at work in {folder}; wait until it has ended"
        ) from None


def prepare(folder: Path, settings: Settings, *, force: bool) -> Metadata | None:
    """Make a folder ready; return what is there when it is complete."""
    try:
        found = read_metadata(folder)
    except DataError:
        if not force:
            raise
        found = None
    shards = folder / SHARDS
    if found is not None and not force:
        changed = differences(found, settings)
        if changed:
            raise OutputExistsError(
                f"{folder} holds tokens made with other settings: {'; '.join(changed)}. Give the name of a "
                "new folder, or --force to start anew there (force=True in Python)"
            )
        if found.result is not None and not missing_jobs(folder, settings)[0]:
            return found
    if force or found is None:
        aside = folder / f".{SHARDS}.old"
        shutil.rmtree(aside, ignore_errors=True)
        if shards.exists():
            shards.rename(aside)
            shutil.rmtree(aside)
        (folder / "README.md").unlink(missing_ok=True)
        write_metadata(folder, describe(settings))
    shards.mkdir(exist_ok=True)
    for leftover in shards.glob(".*.tmp-*"):
        leftover.unlink()
    return None


def _jobs(folder: Path, settings: Settings) -> Iterator[Job]:
    for split, facts in settings.splits.items():
        for number in range(facts.shards):
            # As even as can be, and never none: neither depends on how many are in a shard.
            first, last = (facts.clips * n // facts.shards for n in (number, number + 1))
            name = f"{split}-{number:05d}-of-{facts.shards:05d}.parquet"
            yield Job(folder / SHARDS / name, split, first, last)


def missing_jobs(folder: Path, settings: Settings) -> tuple[list[Job], int]:
    """Return the shards that are not there, and the number of clips in those that are."""
    missing, done, wanted = list[Job](), 0, settings.id()
    for job in _jobs(folder, settings):
        footer = read_footer(job.path)
        if footer is not None and footer.settings == wanted:
            done += job.last - job.first
        else:
            missing.append(job)
    return missing, done


def results(folder: Path, settings: Settings) -> dict[str, SplitResult]:
    """Add up what the shards say.

    Raises:
        DataError: A shard was taken away, or more than `MAX_BAD` of the videos cannot be read.
    """
    result = dict[str, SplitResult]()
    for split, facts in settings.splits.items():
        jobs = [job for job in _jobs(folder, settings) if job.split == split]
        footers = [footer for job in jobs if (footer := read_footer(job.path)) is not None]
        skipped = [pair for footer in footers for pair in footer.skipped]
        rows = sum(footer.rows for footer in footers)
        if len(footers) != len(jobs) or rows + len(skipped) != facts.clips:
            raise DataError(
                f"{folder}: shards of {split} were changed while this ran; type the command again"
            )
        result[split] = SplitResult(
            rows=rows,
            frames=sum(footer.frames for footer in footers),
            tokens=sum(footer.tokens for footer in footers),
            skipped=skipped,
        )
    bad = [reason for r in result.values() for _, reason in r.skipped]
    total = sum(facts.clips for facts in settings.splits.values())
    if len(bad) > MAX_BAD * total:
        raise DataError(
            f"{len(bad)} of {total} videos cannot be used, more than the {MAX_BAD:.0%} allowed. First: "
            f"{'; '.join(bad[:3])}. `zoo data check PATH` lists all of them; once they are mended, start "
            "anew with --force"
        )
    return result
