"""What an experiment is: composed, checked, named."""
