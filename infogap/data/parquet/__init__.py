"""Parquet files of which a page may hold gigabytes of images, read with one image in memory.

pyarrow decodes a whole page at a time, and the usual writers put a thousand images, or all of a row group, into one.
Here such a column is read as a stream; all other columns, and all small pages, are left to pyarrow. The format is that
of github.com/apache/parquet-format.
"""
