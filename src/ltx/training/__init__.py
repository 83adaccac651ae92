"""One level of one seed."""
