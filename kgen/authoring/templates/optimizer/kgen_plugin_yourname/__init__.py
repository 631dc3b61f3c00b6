"""An optimizer for kgen: steps of the sign of the momentum."""
