"""The metrics, which collect what the formulas need, batch by batch."""
