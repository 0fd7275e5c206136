"""The content of a sweep's file: its settings, the searched keys with their values, and the points that follow."""
