"""Before the first run: what is wrong on this machine (``fedrecon doctor``), and a first experiment (``init``)."""
