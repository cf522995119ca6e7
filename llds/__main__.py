"""``python -m llds`` is the command ``llds``."""

from llds.cli import main

if __name__ == "__main__":
    main()
