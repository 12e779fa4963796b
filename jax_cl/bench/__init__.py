"""Measurements: `python -m jax_cl.bench NAME --out=FILE.json`.

A name is a module of this folder with `run(**options) -> list[dict]`, the
rows; options come from the command line as `--key=value`.
"""
