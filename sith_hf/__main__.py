"""``python -m sith_hf`` runs ``sith-hf``, also under ``torchrun`` and ``accelerate launch``."""

from sith_hf.cli import main

if __name__ == "__main__":
    main()
