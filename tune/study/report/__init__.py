"""The report of a study, made from its findings and their statistics.

``sections`` makes one document of the sentences, tables and figures; the report kit writes it as HTML and as Markdown.
The tables are LaTeX files too. The figures are heat maps, curves, box plots of subjects, and bar charts of differences.
"""
