"""Measurements: `python -m jax_cl.bench NAME --out=FILE.json`.

A name is a module of this folder with `run(**options)`, which returns or
yields rows, flat dicts that JSON can hold. Options come from the command line
as `--key=value`, values as Python literals or plain text. Rows are printed as
they come and written, as a list, at the end.
"""
