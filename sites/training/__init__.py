"""The local training of a site: batches, losses, the local loop, the flat parameter vector and the private memory.

``method.py`` lists the hooks of a strategy that the local loop calls.
"""
