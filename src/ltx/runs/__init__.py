"""What is missing of a run or a sweep, and doing it."""
