"""Plug-ins from outside: files that an experiment names, and installed packages. Importing this package loads no torch."""
