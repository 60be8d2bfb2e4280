"""What can be wrong with a parquet file that is read value by value."""

from __future__ import annotations


class PageError(ValueError):
    """A damaged page; the message says what is wrong, without a full stop."""


class UnboundedPageError(ValueError):
    """A page that may be sound, but cannot be read value by value; the message reads on from the column's name."""
