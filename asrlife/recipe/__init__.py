"""Experiments written down as YAML: named steps, each of a known kind."""
