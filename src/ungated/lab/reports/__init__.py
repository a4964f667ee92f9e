"""Tables and figures from the results of runs; nothing here trains."""
