"""``python -m sith_hf`` is ``sith-hf``; under ``torchrun`` and ``accelerate launch`` the main process alone prints."""

from sith_hf.cli import main
from sith_hf.processes import quiet_others

if __name__ == "__main__":
    quiet_others()
    main()
