"""Runs a stage on a row or a page of rows: claim, work, apply."""
