"""The runs of a workspace: listed, shown, compared, removed, exported and plotted. Nothing here trains or scores."""
