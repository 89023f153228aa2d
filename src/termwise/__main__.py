"""The command, as `python -m termwise`: what torchrun can start."""

from termwise.cli import main

if __name__ == "__main__":
    main()
