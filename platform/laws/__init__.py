"""The laws of plug-ins as a command: each says in words what the contract wants, and what a plug-in does instead."""
