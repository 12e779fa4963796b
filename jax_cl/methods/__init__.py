"""Continual-learning methods, one file each; `config.cl.name` is the file.

A file exports `make(...) -> Method` and `OFF`, the arguments at which it equals
`sequential` (None where there are none, with the reason).
"""
