"""Solvers, one a file: `table(process, steps) -> Steps`, found by module name."""
