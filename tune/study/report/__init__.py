"""The report of a study, made from its findings and their statistics.

An HTML page and a Markdown file have the same sections: sentences, tables and figures. The tables are LaTeX files too.
The figures are heat maps of scores, curves, box plots of subjects, and bar charts of generalisation gaps and gains.
"""
