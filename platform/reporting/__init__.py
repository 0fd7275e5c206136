"""The report kit: one table model, one document model, their writers, one stylesheet and one figure style.

A table is written to the terminal, as Markdown, as HTML and as LaTeX from the same rows. ``templates/`` has the page,
its stylesheet and its script. Runs, sweeps and studies use all of it, so they look alike.
"""
