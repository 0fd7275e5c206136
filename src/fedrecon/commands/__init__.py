"""The commands of the command line: thin functions over the Python API, and their options. Loads no torch or ray."""
