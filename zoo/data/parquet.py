"""What parquet files unfold to, read from their footers before anything else of them is.

Videos are compressed already, so a column of them is about as large in the file as in memory. A column that
is hundreds of times larger, or one whose few values are repeated from a large dictionary, is made to fill the
memory of whoever loads it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zoo.errors import DataError

MOST_TIMES = 250
"""How many times its size in the file a column may be; names of files come to some 50."""
LARGE = 4 << 20
"""Bytes from which on a column, or a dictionary of one, is looked at. Writers end a dictionary at 1 MB."""


def refuse_bombs(files: Iterable[str]) -> None:
    """Refuse parquet files that unfold to many times their size.

    Raises:
        DataError: Names the file and the column.
    """
    import pyarrow.parquet

    for file in files:
        with pyarrow.parquet.ParquetFile(file) as opened:
            footer = opened.metadata
            for group in range(footer.num_row_groups):
                for number in range(footer.num_columns):
                    if why := _why_not(footer.row_group(group).column(number)):
                        raise DataError(f"{file}: {why}; it is not read")


def _why_not(column: Any) -> str:
    """Say what is wrong with a column of a group of rows; nothing where all is well."""
    if column.physical_type != "BYTE_ARRAY":
        return ""
    packed, unfolded = column.total_compressed_size, column.total_uncompressed_size
    if unfolded > max(LARGE, MOST_TIMES * packed):
        return (
            f"the column {column.path_in_schema} unfolds from {packed:,} to {unfolded:,} bytes, more than "
            f"{MOST_TIMES} times as many, as no videos do"
        )
    if column.has_dictionary_page and column.data_page_offset - column.dictionary_page_offset > LARGE:
        return (
            f"the column {column.path_in_schema} repeats values out of a dictionary of over {LARGE:,} bytes; "
            "write it without one (use_dictionary=False)"
        )
    return ""
