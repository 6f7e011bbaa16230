"""Reproduce the papers' tables: read a table, run what is missing, write it beside the paper's."""
