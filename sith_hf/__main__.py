"""``python -m sith_hf`` is ``sith-hf``; under ``torchrun`` and ``accelerate launch`` the main process alone prints."""

from sith_hf.cli import main

if __name__ == "__main__":
    main()
