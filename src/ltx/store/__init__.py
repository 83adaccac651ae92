"""What is on disk: files, claims, folders."""
