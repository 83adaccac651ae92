"""`python -m ltx.cli` is the command `ltx`."""

from ltx.cli import entry

if __name__ == "__main__":
    entry()
