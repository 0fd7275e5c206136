"""The terminal: tables on stdout, and the MLflow server that ``fedrecon ui`` opens in a browser."""
