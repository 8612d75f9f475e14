"""``python -m sith_hf`` is ``sith-hf``."""

from sith_hf.cli import main

if __name__ == "__main__":
    main()
