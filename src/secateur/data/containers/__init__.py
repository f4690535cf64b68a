"""Audio containers: corrected lengths for files with missing or wrong sizes in the header.

`recording` is the entry point. A file for each format finds the `Layout` of a file; `splice` gives libsndfile a view of
the file in which the header is correct.
"""
