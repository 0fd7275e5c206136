"""Execution: members of a federation in this process or on a Ray cluster, their placement and their messages."""
