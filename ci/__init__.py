"""What keeps the repository honest: floors, links, specs and generated files.

Each module here is a command, `python -m ci.NAME`, that prints one line a
finding and exits 1 when there is any.  `ci/check` runs them all.
"""
