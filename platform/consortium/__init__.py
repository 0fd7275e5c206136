"""The consortium: opens the sites of an experiment, and checks them, the network and the consents before a start."""
