"""The member of a federation: the plan from which it starts, and the site that trains, scores and reconstructs."""
