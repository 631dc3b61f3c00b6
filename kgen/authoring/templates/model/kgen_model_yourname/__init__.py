"""The trained model yourname for kgen. kgen reads the files beside this one, and does not import it."""
