"""Every fault of the matrix that fits on one host, done for real, and what must hold."""
