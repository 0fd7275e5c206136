"""A study's report: from scores of subjects to claims with their uncertainty, pictures, a page and tables to paste."""
