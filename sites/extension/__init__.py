"""Plug-ins from outside: files that an experiment names, and installed packages. Loads no torch."""
