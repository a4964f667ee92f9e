"""Cells along time by one GPU kernel over all steps, compiled at run time."""
