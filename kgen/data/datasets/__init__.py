"""kgen's own datasets: one module for each source."""
