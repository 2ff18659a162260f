"""Runs a stage on a row or on a page of rows: claim, work, apply."""
